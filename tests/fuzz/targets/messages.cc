// SPDX-License-Identifier: Apache-2.0
// Control messages between runtimes.
#include "lib/engine/messages.h"

#include "tests/engine/sample_messages.h"
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
  std::vector<Seed> seeds;
  for (const Message& message : engine::one_of_each())
    seeds.push_back({fmt::format("message{}", seeds.size()), engine::encode(message)});
  return seeds;
}

}  // namespace

Target messages() {
  return {"messages", "control messages between runtimes", run, seeds};
}

}  // namespace cardea::fuzz
