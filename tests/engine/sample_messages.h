// SPDX-License-Identifier: Apache-2.0
// Control messages as samples, for tests and as seeds for the fuzzer.
#pragma once

#include <vector>

#include "lib/engine/messages.h"

namespace cardea::engine {

inline LayerAnnounce announcement() {
  LayerAnnounce announce;
  announce.layer = {0x1122334455667788, 9};
  announce.num_experts = 8;
  announce.layout = core::SegmentLayout::make({{"w13", 4096, 64}, {"w2", 100, 16}}).value();
  announce.experts = {2, 5, 7};
  announce.is_home = {1, 0, 1};
  announce.places.resize(2);
  announce.places[0] = {true, {3, 128}, 8192, {}};
  announce.places[1] = {false, {}, 0, {{3, 0}, {4, 1000}, {4, std::uint64_t{1} << 40}}};
  announce.regions = {{3, 1 << 20, Bytes(5, std::byte{7})}, {4, std::uint64_t{1} << 41, {}}};
  announce.stamp_region = 4;
  announce.stamp_offset = 16;
  announce.slab = SlabPlace{2, 10, {{true, {3, 4096}, 8192, {}}, {true, {4, 256}, 128, {}}}};
  return announce;
}

/// Each kind of message, and each form that a kind has.
inline std::vector<Message> one_of_each() {
  LayerAnnounce of_none;  // a member without experts
  of_none.layer = {5, 6};
  of_none.num_experts = 1;
  of_none.layout = announcement().layout;
  return {announcement(),
          LayerNotice{{1, 2}, {kNoRank, core::Notice::Kind::kNodeFinished, 6, 77}},
          LayerLeft{{3, 4}, {}},
          LayerLeft{{3, 4}, Status(CARDEA_ERR_MISMATCH, "two homes", {.peer = 5, .expert = 6})},
          RegionsGone{{1, 2, 300000}},
          Goodbye{},
          NodeNotice{17, 0},
          Heartbeat{},
          Heartbeat{Heartbeat::kAsk | Heartbeat::kAccuse, {1, 70000, 3}},
          LossNotice{Loss::kExpelled, {5, 6}, "silent"},
          RegionsUnmapped{{4, 700000}},
          of_none};
}

}  // namespace cardea::engine
