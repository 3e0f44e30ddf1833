// SPDX-License-Identifier: Apache-2.0
// Shapes of experts, and how they are cut into chunks.
#include "lib/core/segment_layout.h"

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using core::SegmentLayout;

void cut(const SegmentLayout& layout, core::SegmentMask mask) {
  const std::uint64_t chunk_bytes = layout.packed_bytes() / 16 + 1;
  std::uint64_t payload = 0, end = 0;
  for (const core::ChunkRange& range : layout.chunks(mask, chunk_bytes)) {
    require(range.bytes > 0 && range.bytes <= chunk_bytes && range.offset >= end, "chunks are in order and not too long");
    end = range.offset + range.bytes;
    require(end <= layout.packed_bytes(), "chunks lie in the expert");
    layout.for_each_piece(range.offset, range.bytes, [&](std::size_t segment, std::uint64_t at, std::uint64_t bytes) {
      require(at + bytes <= layout.segments()[segment].bytes, "pieces lie in their segment");
      payload += bytes;
    });
  }
  require(payload == layout.payload_bytes(mask), "chunks carry each byte once");
}

bool run(ByteView input) {
  WireReader in(input);
  const Result<SegmentLayout> layout = SegmentLayout::decode(in);
  if (!layout.ok()) {
    const cardea_status_t code = layout.status().code();
    require(code == CARDEA_ERR_PROTOCOL || code == CARDEA_ERR_INVALID_ARGUMENT, "a bad layout is one of two errors");
    return false;
  }
  require(layout->difference(*layout).empty(), "a layout equals itself");
  cut(*layout, layout->all());
  cut(*layout, layout->all() & 0x5555);
  WireWriter out;
  layout->encode(out);
  WireReader once_more(out.bytes());
  const Result<SegmentLayout> again = SegmentLayout::decode(once_more);
  require(again.ok() && again->difference(*layout).empty(), "what was read can be written and read again");
  return true;
}

std::vector<Seed> seeds() {
  std::vector<core::Segment> many;
  for (std::uint64_t i = 0; i < CARDEA_MAX_SEGMENTS; ++i)
    many.push_back({std::to_string(i), i + 1, std::uint64_t{1} << i % 8});
  std::vector<Seed> out;
  for (const auto& segments : {std::vector<core::Segment>{{"w13", 4096, 64}, {"w2", 100, 16}}, many,
                               std::vector<core::Segment>{{"big", std::uint64_t{1} << 48, 1}}}) {
    WireWriter writer;
    SegmentLayout::make(segments).value().encode(writer);
    out.push_back({"layout_" + std::to_string(segments.size()), writer.take()});
  }
  return out;
}

}  // namespace

Target segment_layout() {
  return {"segment_layout", "shapes of experts", run, seeds, 1024};
}

}  // namespace cardea::fuzz
