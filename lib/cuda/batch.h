// SPDX-License-Identifier: Apache-2.0
// Copies that go to the driver together: neighbours in source and destination become one, since each copy costs the engine
// time beside its bytes. Pieces of a batch may be done in any order, so their destinations must not overlap. Plain data
// structure: no driver, no threads.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/cuda/abi.h"

namespace cardea::cuda {

struct CopyPiece {
  Pointer to = 0;
  Pointer from = 0;
  std::uint64_t bytes = 0;
};

class Batch {
 public:
  /// The pieces of one order. Piece k of an order is the neighbour of piece k of the order before where both run on, as
  /// stacked segments of experts do; several pieces of one order may be neighbours as well.
  void add(std::span<const CopyPiece> pieces) {
    for (std::size_t k = 0; k < pieces.size(); ++k) {
      const CopyPiece& piece = pieces[k];
      if (piece.bytes == 0) continue;
      bytes_ += piece.bytes;
      const std::size_t place = k % kPlaces;
      if (extends(last_, piece)) {
        grow(last_, piece.bytes);
      } else if (extends(open_[place], piece)) {
        grow(open_[place], piece.bytes);
        last_ = open_[place];
      } else {
        open_[place] = last_ = to_.size();
        to_.push_back(piece.to);
        from_.push_back(piece.from);
        sizes_.push_back(piece.bytes);
      }
      open_[place] = last_;
    }
  }
  void clear() {
    to_.clear();
    from_.clear();
    sizes_.clear();
    open_.fill(kNone);
    last_ = kNone;
    bytes_ = 0;
  }

  std::size_t count() const { return to_.size(); }
  std::uint64_t bytes() const { return bytes_; }
  Pointer* to() { return to_.data(); }
  Pointer* from() { return from_.data(); }
  std::size_t* sizes() { return sizes_.data(); }

 private:
  static constexpr std::size_t kPlaces = 32;
  static constexpr std::size_t kNone = SIZE_MAX;

  bool extends(std::size_t run, const CopyPiece& piece) const {
    return run != kNone && to_[run] + sizes_[run] == piece.to && from_[run] + sizes_[run] == piece.from;
  }
  void grow(std::size_t run, std::uint64_t bytes) { sizes_[run] += bytes; }

  std::vector<Pointer> to_, from_;
  std::vector<std::size_t> sizes_;
  std::array<std::size_t, kPlaces> open_ = [] {
    std::array<std::size_t, kPlaces> none{};
    none.fill(kNone);
    return none;
  }();
  std::size_t last_ = kNone;
  std::uint64_t bytes_ = 0;
};

}  // namespace cardea::cuda
