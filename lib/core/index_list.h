// SPDX-License-Identifier: Apache-2.0
// A list that allocates nothing for its elements once it has grown: nodes lie in one array and are used again. A place stays
// valid until its element is removed, whatever happens to others. Plain data structure: no threads, no I/O.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace cardea::core {

template <typename T>
class IndexList {
 public:
  using Place = std::uint32_t;
  static constexpr Place kEnd = 0;  // the node that closes the ring

  IndexList() : nodes_(1) {}

  Place push_back(T value) { return insert_before(kEnd, std::move(value)); }
  Place insert_before(Place next, T value) {
    Place place = unused_;
    if (place == kEnd) {
      place = static_cast<Place>(nodes_.size());
      nodes_.emplace_back();
    } else {
      unused_ = nodes_[place].next;
    }
    const Place previous = nodes_[next].previous;
    nodes_[place] = {std::move(value), previous, next};
    nodes_[previous].next = place;
    nodes_[next].previous = place;
    return place;
  }
  void remove(Place place) {
    Node& gone = nodes_[place];
    nodes_[gone.previous].next = gone.next;
    nodes_[gone.next].previous = gone.previous;
    gone.value = T{};
    gone.next = std::exchange(unused_, place);
  }

  bool empty() const { return nodes_[kEnd].next == kEnd; }
  const T& front() const { return nodes_[nodes_[kEnd].next].value; }
  Place first() const { return nodes_[kEnd].next; }
  Place last() const { return nodes_[kEnd].previous; }
  Place next(Place place) const { return nodes_[place].next; }
  Place previous(Place place) const { return nodes_[place].previous; }
  const T& operator[](Place place) const { return nodes_[place].value; }

 private:
  struct Node {
    T value{};
    Place previous = kEnd, next = kEnd;
  };
  std::vector<Node> nodes_;
  Place unused_ = kEnd;  // chained by `next`
};

}  // namespace cardea::core
