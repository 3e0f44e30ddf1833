// SPDX-License-Identifier: Apache-2.0
// A hash table for what is looked up for every chunk: keys and small values in one array, open addressing with linear
// probing, no allocation for an entry. It is never more than half full and never shrinks; erasing closes the gap, so there
// are no tombstones, and its speed does not depend on what it has seen. Addresses of values change. The order of iteration
// is the same for the same history. Plain data structure: no threads, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace cardea {

/// Spreads the bits of a number over the upper half of the result (Fibonacci hashing: Knuth, volume 3, section 6.4).
inline std::uint64_t spread(std::uint64_t number) {
  number *= 0x9E3779B97F4A7C15u;
  return number ^ number >> 32;
}

struct NumberHash {
  std::uint64_t operator()(std::uint64_t number) const { return spread(number); }
};

template <typename Key, typename Value, typename Hash = NumberHash>
class FlatMap {
 public:
  /// Null if there is none. Valid until the next insert or erase.
  Value* find(const Key& key) {
    if (size_ == 0) return nullptr;
    for (std::size_t at = place_of(key);; at = next(at)) {
      if (!table_[at].used) return nullptr;
      if (table_[at].key == key) return &table_[at].value;
    }
  }
  const Value* find(const Key& key) const { return const_cast<FlatMap*>(this)->find(key); }
  bool contains(const Key& key) const { return find(key) != nullptr; }
  const Value& at(const Key& key) const {
    const Value* const found = find(key);
    if (found == nullptr) throw std::out_of_range("no entry has this key");
    return *found;
  }

  /// Inserts, or replaces what is there.
  void set(const Key& key, Value value) {
    if (Value* found = find(key); found != nullptr) {
      *found = std::move(value);
      return;
    }
    if (2 * (size_ + 1) > table_.size()) grow();
    insert(key, std::move(value));
  }

  /// What is there, or else a fresh one, inserted. Valid until the next insert or erase.
  Value& operator[](const Key& key) {
    if (Value* const found = find(key); found != nullptr) return *found;
    if (2 * (size_ + 1) > table_.size()) grow();
    return insert(key, Value{});
  }

  /// Whether there was one.
  bool erase(const Key& key) {
    if (size_ == 0) return false;
    std::size_t gap = place_of(key);
    while (table_[gap].used && !(table_[gap].key == key)) gap = next(gap);
    if (!table_[gap].used) return false;
    // Whoever was pushed past the gap moves into it, unless that would put him before his own place.
    for (std::size_t at = next(gap); table_[at].used; at = next(at)) {
      if (distance(place_of(table_[at].key), at) < distance(gap, at)) continue;
      table_[gap] = std::move(table_[at]);
      gap = at;
    }
    table_[gap] = Entry{};
    --size_;
    return true;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  /// visit(key, value) for all; it must not insert or erase.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Entry& entry : table_) {
      if (entry.used) visit(entry.key, entry.value);
    }
  }

 private:
  struct Entry {
    Key key{};
    Value value{};
    bool used = false;
  };

  std::size_t mask() const { return table_.size() - 1; }
  std::size_t place_of(const Key& key) const { return static_cast<std::size_t>(Hash{}(key)) & mask(); }
  std::size_t next(std::size_t at) const { return (at + 1) & mask(); }
  std::size_t distance(std::size_t from, std::size_t to) const { return (to - from) & mask(); }

  Value& insert(const Key& key, Value value) {
    std::size_t at = place_of(key);
    while (table_[at].used) at = next(at);
    table_[at] = {key, std::move(value), true};
    ++size_;
    return table_[at].value;
  }
  void grow() {
    constexpr std::size_t kLeast = 16;
    std::vector<Entry> old(table_.empty() ? kLeast : table_.size() * 2);
    old.swap(table_);
    size_ = 0;
    for (Entry& entry : old) {
      if (entry.used) insert(entry.key, std::move(entry.value));
    }
  }

  std::vector<Entry> table_;  // a power of two
  std::size_t size_ = 0;
};

}  // namespace cardea
