// SPDX-License-Identifier: Apache-2.0
// First in, first out, of indices; one may also leave from the middle. One array, no allocation until the first. Plain data
// structure: no threads, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cardea::core {

class IndexFifo {
 public:
  bool empty() const { return first_ == items_.size(); }
  std::size_t size() const { return items_.size() - first_; }
  std::size_t front() const { return items_[first_]; }
  void push_back(std::size_t index) { items_.push_back(static_cast<std::uint32_t>(index)); }
  void pop_front() {
    if (++first_ == items_.size()) clear();
  }
  auto begin() { return items_.begin() + static_cast<std::ptrdiff_t>(first_); }
  auto end() { return items_.end(); }
  void erase(std::vector<std::uint32_t>::iterator at) { items_.erase(at); }
  void clear() {
    items_.clear();
    first_ = 0;
  }
  void swap(IndexFifo& other) noexcept {
    items_.swap(other.items_);
    std::swap(first_, other.first_);
  }

 private:
  std::vector<std::uint32_t> items_;
  std::size_t first_ = 0;  // those before it are gone
};

}  // namespace cardea::core
