// SPDX-License-Identifier: Apache-2.0
// Control messages between runtimes.
#include "lib/engine/messages.h"

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using engine::Message;

bool run(ByteView input) {
  const Result<Message> message = engine::decode(input);
  if (!message.ok()) {
    require(message.status().code() == CARDEA_ERR_PROTOCOL, "a malformed message is PROTOCOL");
    return false;
  }
  static_cast<void>(engine::layer_of(*message));
  const Bytes bytes = engine::encode(*message);
  const Result<Message> again = engine::decode(bytes);
  require(again.ok(), "what was read can be written and read again");
  require(engine::encode(*again) == bytes, "reading and writing changes nothing twice");
  return true;
}

std::vector<Seed> seeds() {
  engine::LayerAnnounce announce;
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
  engine::LayerAnnounce none;
  none.layer = {5, 6};
  none.num_experts = 1;
  none.layout = announce.layout;
  const engine::LayerLeft mismatch{{3, 4}, Status(CARDEA_ERR_MISMATCH, "two homes", {.peer = 5, .expert = 6})};
  return {{"announce", engine::encode(announce)},
          {"announce_none", engine::encode(none)},
          {"notice", engine::encode(engine::LayerNotice{{1, 2}, {kNoRank, core::Notice::Kind::kNodeFinished, 6, 77}})},
          {"left", engine::encode(engine::LayerLeft{{3, 4}, {}})},
          {"left_why", engine::encode(mismatch)},
          {"regions_gone", engine::encode(engine::RegionsGone{{1, 2, 300000}})},
          {"node_notice", engine::encode(engine::NodeNotice{17, 0})},
          {"goodbye", engine::encode(engine::Goodbye{})}};
}

}  // namespace

Target messages() {
  return {"messages", "control messages between runtimes", run, seeds};
}

}  // namespace cardea::fuzz
