// SPDX-License-Identifier: Apache-2.0
// Objects that have a number, at addresses that stay, found by a FlatMap. Thousands come and go each second, so what is
// erased is kept and used again with the memory that its vectors have grown to: T::recycle() makes it as good as new, and is
// called when it is erased. Numbers are the caller's, who never gives one twice. Plain data structure: no threads, no I/O.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "lib/base/flat_map.h"

namespace cardea::core {

template <typename T>
class NumberMap {
 public:
  /// As good as new. The number must not be in use.
  T& add(std::uint64_t number) {
    std::unique_ptr<T> fresh;
    if (unused_.empty()) {
      fresh = std::make_unique<T>();
    } else {
      fresh = std::move(unused_.back());
      unused_.pop_back();
    }
    T& added = *fresh;
    by_number_.set(number, std::move(fresh));
    return added;
  }
  /// Null if there is none.
  T* find(std::uint64_t number) const {
    const std::unique_ptr<T>* found = by_number_.find(number);
    return found == nullptr ? nullptr : found->get();
  }
  T& at(std::uint64_t number) const {
    T* const found = find(number);
    if (found == nullptr) throw std::out_of_range("no object has this number");
    return *found;
  }
  void erase(std::uint64_t number) {
    if (std::unique_ptr<T> gone = take(number)) keep(std::move(gone));
  }
  /// Takes the object out, for the caller to look at while others come and go, and to keep() when he is done. Null if there
  /// is none.
  std::unique_ptr<T> take(std::uint64_t number) {
    std::unique_ptr<T>* const found = by_number_.find(number);
    if (found == nullptr) return nullptr;
    std::unique_ptr<T> taken = std::move(*found);
    by_number_.erase(number);
    return taken;
  }
  void keep(std::unique_ptr<T> gone) {
    gone->recycle();
    if (kReuse && unused_.size() < kKept) unused_.push_back(std::move(gone));
  }
  std::size_t size() const { return by_number_.size(); }

  /// visit(number, object) for all; it must not add or erase.
  template <typename Visit>
  void for_each(Visit visit) const {
    by_number_.for_each([&](std::uint64_t number, const std::unique_ptr<T>& object) { visit(number, *object); });
  }

 private:
  static constexpr std::size_t kKept = 1024;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kReuse = false;  // what is erased is freed, so that a late use of it is found
#else
  static constexpr bool kReuse = true;
#endif

  FlatMap<std::uint64_t, std::unique_ptr<T>> by_number_;
  std::vector<std::unique_ptr<T>> unused_;  // a stack: what was used last is the warmest in caches
};

}  // namespace cardea::core
