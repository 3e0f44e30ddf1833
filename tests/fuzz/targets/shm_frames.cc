// SPDX-License-Identifier: Apache-2.0
// Frames and records of node links: what a rank proposes, offers, asks for and ends.
#include "lib/transport/shm/frames.h"

#include "lib/cuda/memory.h"
#include "lib/transport/shm/proposal.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

enum Kind : std::uint8_t { kHeader, kRegion, kWithdraw, kAsk, kEnd, kDescriptor, kProposal, kDevice, kKinds };

template <typename T>
bool same_again(const Result<T>& read, ByteView bytes) {
  if (!read.ok()) {
    require(read.status().code() == CARDEA_ERR_PROTOCOL, "a malformed record is PROTOCOL");
    return false;
  }
  require(shm::encode(*read) == Bytes(bytes.begin(), bytes.end()), "a record has one form");
  return true;
}

bool run(ByteView input) {
  if (input.empty()) return false;
  const ByteView bytes = input.subspan(1);
  switch (std::to_integer<std::uint8_t>(input[0]) % kKinds) {
    case kHeader: {
      const auto info = shm::decode_header(bytes);
      if (!info.ok()) return false;
      const shm::FrameHeader header = shm::encode_header(info->type, info->length);
      require(std::equal(header.begin(), header.end(), bytes.begin(), bytes.end()), "a header has one form");
      require(info->length <= transport::Transport::kMaxMessage + 64, "no frame is longer than a message");
      return true;
    }
    case kRegion:
      return same_again(shm::decode_region(bytes), bytes);
    case kWithdraw:
      return shm::decode_withdraw(bytes).ok();
    case kAsk:
      return same_again(shm::decode_ask(bytes), bytes);
    case kEnd: {
      const auto end = shm::decode_end(bytes);
      if (!end.ok()) return false;
      require(shm::decode_end(shm::encode(*end)).ok(), "what was read can be written and read again");
      return true;
    }
    case kDescriptor:
      return same_again(shm::decode_descriptor(bytes), bytes);
    case kDevice: {
      constexpr std::uint64_t kRegionBytes = 4096;
      const auto told = cuda::Export::decode(bytes, kRegionBytes);
      if (!told.ok()) return false;
      require(cuda::Export::is_one(bytes), "a region of device memory is known for one");
      require(told->encode() == Bytes(bytes.begin(), bytes.end()), "a region of device memory has one form");
      require(told->offset <= told->allocation && kRegionBytes <= told->allocation - told->offset,
              "a region lies in its allocation");
      return true;
    }
    default:
      return same_again(shm::decode_proposal(bytes), bytes);
  }
}

std::vector<Seed> seeds() {
  const shm::FrameHeader header = shm::encode_header(shm::FrameType::kMessage, 100);
  const cuda::Export device{.process = 7, .address = 1 << 20, .offset = 512, .allocation = 1 << 20};
  cuda::Export handle = device;
  handle.kind = cuda::Export::Kind::kIpcHandle;
  shm::Proposal proposal{"node-1", "host", "8f1c", 4026531840, "cardea/job/0/ffff"};
  return {{"header", of_kind(kHeader, header)},
          {"region", of_kind(kRegion, shm::encode(shm::RegionFrame{3, 4096}))},
          {"withdraw", of_kind(kWithdraw, shm::encode_withdraw(3))},
          {"ask", of_kind(kAsk, shm::encode(shm::AskFrame{1, {{2, 3}, 4, 5}, 64, 128}))},
          {"end", of_kind(kEnd, shm::encode(shm::EndFrame{1, {}}))},
          {"end_why", of_kind(kEnd, shm::encode(shm::EndFrame{1, Status(CARDEA_ERR_STALE, "retired")}))},
          {"descriptor", of_kind(kDescriptor, shm::encode(shm::RegionDescriptor{false, 0x7f0000000000}))},
          {"proposal", of_kind(kProposal, shm::encode(proposal))},
          {"device", of_kind(kDevice, device.encode())},
          {"device_handle", of_kind(kDevice, handle.encode())}};
}

}  // namespace

Target shm_frames() {
  return {"shm_frames", "frames, regions of host and device memory, proposals within a node", run, seeds};
}

}  // namespace cardea::fuzz
