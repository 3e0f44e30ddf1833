// SPDX-License-Identifier: Apache-2.0
// A GPU as tests of the core play it, with real bytes: copies wait in their queues, behind gates and behind whatever came to
// their slot before, reads of a stream among it, and move bytes when it is their turn. Whoever fills a slot too early, or
// reads it too early, sees wrong bytes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "lib/core/core.h"
#include "tests/core/seeds.h"

namespace cardea::core {

constexpr std::uint64_t kFirstSegment = 512, kSecondSegment = 256, kExpertBytes = kFirstSegment + kSecondSegment;
using ExpertBytes = std::array<std::byte, kExpertBytes>;

inline std::byte byte_of(ExpertIndex expert, Version version, std::uint64_t at) {
  return static_cast<std::byte>((expert * 31 + version * 101 + at / 64 * 7 + at) % 251);
}
/// Writes a range of an expert at its place in `whole`.
inline void write_range(std::byte* whole, ExpertIndex expert, Version version, const ChunkRange& range) {
  for (std::uint64_t i = range.offset; i < range.offset + range.bytes; ++i) whole[i] = byte_of(expert, version, i);
}

/// Something that a GPU does to a slot, in its turn.
struct GpuWork {
  bool reads = false;
  StartChunk start;      // of a read: expert, version, slab, slot and range
  bool arrived = false;  // it has come over the network, and lies in `bounce`
  ExpertBytes bounce{};
  FetchNumber fetch = 0;  // of a read
};

class PlayedGpu {
 public:
  using Slot = std::pair<SlabNumber, SlotIndex>;
  static Slot slot_of(const StartChunk& start) { return {start.slab, start.slot}; }

  void enqueue(GpuWork work, unsigned queue) {
    const std::uint64_t number = next_++;
    turns_[slot_of(work.start)].push_back(number);
    if (!work.reads) queues_[queue].push_back(number);
    work_.emplace(number, std::move(work));
  }
  bool idle() const { return work_.empty(); }
  /// Some work whose turn it is in its queue and in its slot, which is not there any more then.
  std::optional<GpuWork> next(test::Random& random) {
    std::vector<std::uint64_t> may;
    for (const auto& [slot, turns] : turns_) {
      if (!turns.empty() && is_first(turns.front())) may.push_back(turns.front());
    }
    if (may.empty()) return std::nullopt;
    const std::uint64_t number = may[random.below(may.size())];
    auto node = work_.extract(number);
    turns_[slot_of(node.mapped().start)].pop_front();
    for (auto& [queue, waiting] : queues_) {
      if (!waiting.empty() && waiting.front() == number) waiting.pop_front();
    }
    return std::move(node.mapped());
  }

  void fill(const StartChunk& start, const std::byte* from) {
    ExpertBytes& to = slots[slot_of(start)];
    std::copy_n(from + start.range.offset, start.range.bytes, to.begin() + static_cast<std::ptrdiff_t>(start.range.offset));
    if (start.range.bytes == kExpertBytes) spoilt.erase(slot_of(start));
    if (start.gated) came_by_gate.insert(slot_of(start));
  }
  void spoil(const StartChunk& start) {
    ExpertBytes& to = slots[slot_of(start)];
    std::fill_n(to.begin() + static_cast<std::ptrdiff_t>(start.range.offset), start.range.bytes, std::byte{0xFF});
    spoilt.insert(slot_of(start));
  }
  bool holds(const StartChunk& what) {
    const ExpertBytes& is = slots[slot_of(what)];
    for (std::uint64_t i = what.range.offset; i < what.range.offset + what.range.bytes; ++i) {
      if (is[i] != byte_of(what.expert, what.version, i)) return false;
    }
    return true;
  }

  std::map<Slot, ExpertBytes> slots;
  std::set<Slot> spoilt;        // by a copy that failed
  std::set<Slot> came_by_gate;  // what is in it
  std::map<std::pair<SlabNumber, std::uint32_t>, ExpertBytes> landings;
  std::map<ChunkNumber, Status> gates;  // opened, with why

 private:
  bool is_first(std::uint64_t number) const {
    const GpuWork& work = work_.at(number);
    if (work.reads) return true;
    if (work.start.gated && !gates.contains(work.start.chunk)) return false;
    return std::any_of(queues_.begin(), queues_.end(),
                       [&](const auto& queue) { return !queue.second.empty() && queue.second.front() == number; });
  }

  std::map<std::uint64_t, GpuWork> work_;
  std::map<unsigned, std::deque<std::uint64_t>> queues_;
  std::map<Slot, std::deque<std::uint64_t>> turns_;
  std::uint64_t next_ = 1;
};

}  // namespace cardea::core
