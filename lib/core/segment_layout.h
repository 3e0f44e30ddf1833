// SPDX-License-Identifier: Apache-2.0
// The shape of a layer's experts: their segments, and where each lies in the packed form of an expert, the form in which
// offsets are counted on the wire. Segments follow one another in order, each at its alignment; the gaps are padding, which
// is never moved. Immutable value; thread-safe.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/wire.h"

namespace cardea::core {

/// Which segments; bit i stands for segment i.
using SegmentMask = std::uint64_t;

struct Segment {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t alignment = 0;
  // Numbers of cardea_dtype_t. They come from callers and peers, and may be none until make() has looked at them.
  std::uint32_t weight_type = CARDEA_DTYPE_BYTES;
  std::uint32_t gradient_type = CARDEA_DTYPE_NONE;
  friend bool operator==(const Segment&, const Segment&) = default;
};

/// A range of the packed expert that moves as one, and the segments it touches.
struct ChunkRange {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  SegmentMask segments = 0;
};

class SegmentLayout {
 public:
  /// INVALID_ARGUMENT names the segment and field that is wrong: count, name, bytes, alignment, types, total over 2^48.
  static Result<SegmentLayout> make(std::vector<Segment> segments);
  SegmentLayout() = default;

  const std::vector<Segment>& segments() const { return segments_; }
  std::size_t count() const { return segments_.size(); }
  SegmentMask all() const { return count() == 64 ? ~SegmentMask{0} : (SegmentMask{1} << count()) - 1; }
  std::uint64_t offset(std::size_t segment) const { return offsets_[segment]; }
  std::uint64_t packed_bytes() const { return packed_bytes_; }
  /// Without padding.
  std::uint64_t payload_bytes(SegmentMask mask) const;
  std::uint64_t payload_bytes(const ChunkRange& range) const;

  /// Cuts the segments of `mask` into ranges of at most `chunk_bytes`, in packed order. Neighbouring segments share ranges.
  std::vector<ChunkRange> chunks(SegmentMask mask, std::uint64_t chunk_bytes) const;

  /// Calls visit(segment, offset within the segment, bytes) for the payload of [offset, offset + bytes), in order.
  template <typename Visit>
  void for_each_piece(std::uint64_t offset, std::uint64_t bytes, Visit visit) const {
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      const std::uint64_t from = std::max(offset, offsets_[i]);
      const std::uint64_t to = std::min(offset + bytes, offsets_[i] + segments_[i].bytes);
      if (from < to) visit(i, from - offsets_[i], to - from);
    }
  }

  /// Says in which field `other` differs first, such as "segment 1 (w2): bytes 8 against 16"; empty if equal.
  std::string difference(const SegmentLayout& other) const;

  void encode(WireWriter& out) const;
  /// PROTOCOL if the bytes are malformed, INVALID_ARGUMENT as make.
  static Result<SegmentLayout> decode(WireReader& in);

 private:
  std::vector<Segment> segments_;
  std::vector<std::uint64_t> offsets_;
  std::uint64_t packed_bytes_ = 0;
};

}  // namespace cardea::core
