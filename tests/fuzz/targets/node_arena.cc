// SPDX-License-Identifier: Apache-2.0
// The node cache as its lowest rank offers it: the message on the link, the descriptor, and the memory behind it. The first
// byte says what kind of memory is passed.
#include "lib/transport/shm/node_arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "lib/cache/node_cache.h"
#include "lib/transport/shm/ancillary.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

constexpr std::uint64_t kCapacity = 64 << 10, kChunk = 4096;
constexpr std::size_t kMessageBytes = 16;
enum Flags : std::uint8_t { kNoDescriptor = 1, kNotSealed = 2, kFilled = 4, kKeepLock = 8 };

const cache::Shape& shape() {
  static const cache::Shape made = cache::Shape::of(kCapacity, kChunk).value();
  return made;
}

/// Where the robust mutex lies: the C library's own bytes, which no reader can check (docs/failure-model.md).
bool in_lock(std::size_t offset) {
  return offset >= offsetof(cache::Header, lock) && offset < offsetof(cache::Header, lock) + sizeof(cache::Header::lock);
}

bool run(ByteView input) {
  Draw draw(input);
  const std::uint8_t flags = draw.byte();
  Bytes message;
  for (std::size_t i = 0; i < kMessageBytes; ++i) message.push_back(static_cast<std::byte>(draw.byte()));
  UniqueFd memory(memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  require(static_cast<bool>(memory), "the test has memory");
  if ((flags & kFilled) != 0) {
    auto real = cache::Arena::create(shape());
    require(real.ok(), "the test has an arena");
    memory.reset(dup(real->descriptor()));
    auto* const at = reinterpret_cast<std::byte*>(&real->directory().header());
    // What follows overwrites the directory from an offset on.
    const std::size_t from = draw.number(4) % shape().metadata_bytes();
    const ByteView bytes = draw.rest();
    for (std::size_t i = 0; i < bytes.size() && from + i < shape().metadata_bytes(); ++i) {
      if (!in_lock(from + i)) at[from + i] = bytes[i];
    }
  } else {
    const ByteView bytes = draw.rest();
    require(write(memory.get(), bytes.data(), bytes.size()) >= 0, "the test writes");
    if ((flags & kNotSealed) == 0) {
      require(ftruncate(memory.get(), static_cast<off_t>(shape().total_bytes())) == 0, "the test sets a size");
      fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    }
  }

  int pair[2];
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, "the test has sockets");
  UniqueFd leader(pair[1]);
  shm::Membership membership;
  membership.node_of = {0, 0};
  membership.node_ranks = {0, 1};
  membership.links.resize(1);
  membership.links[0].rank = 0;
  membership.links[0].socket.reset(pair[0]);
  const iovec piece{message.data(), message.size()};
  static_cast<void>(shm::send(leader.get(), {&piece, 1}, (flags & kNoDescriptor) != 0 ? -1 : memory.get()));
  leader.reset();
  auto arena = shm::share_arena(membership, 1, kCapacity, kChunk, Clock::now() + std::chrono::seconds(10));
  if (!arena.ok()) {
    require(arena.status().code() != CARDEA_ERR_TIMEOUT, "an offer is answered without waiting");
    return false;
  }
  if (!*arena) return true;  // the leader says that there is none

  // Whatever its directory holds, a rank that uses it neither crashes nor hangs nor leaves its payload.
  cache::NoLock lock;
  cache::NodeCache mine((*arena)->directory(), lock, {.local = 1, .locals = 2});
  for (ExpertIndex expert = 0; expert < 4; ++expert) {
    cache::Refusal why{};
    const auto entry = mine.acquire({{1, 2}, expert, 3}, 2 * kChunk, 2, 0, false, mine.tick(), why);
    if (!entry) continue;
    require(mine.offset(*entry) <= kCapacity - 2 * kChunk, "an entry lies in the payload");
    require((*arena)->back(mine.offset(*entry), 2 * kChunk).ok(), "the payload of an entry can be had");
    if (mine.try_claim(*entry, 0, Clock::now())) {
      std::memset(mine.payload(*entry), 1, kChunk);
      mine.finish_chunk(*entry, 0, true);
    }
    mine.release(*entry, expert % 2 == 0);
  }
  mine.retire({1, 2}, 3);
  mine.leave();
  return true;
}

std::vector<Seed> seeds() {
  const auto offer = [](std::uint8_t flags, std::uint64_t present) {
    return Script().byte(flags).number(0x3168636143724121, 8).number(present, 8);
  };
  Script raw = offer(0, 1);
  {
    const auto arena = cache::Arena::create(shape());
    raw.rest({reinterpret_cast<const std::byte*>(&arena->directory().header()), offsetof(cache::Header, nics)});
  }
  return {{"none", offer(kNoDescriptor, 0).bytes()},
          {"real", offer(kFilled, 1).bytes()},
          {"header_only", raw.bytes()},
          {"entries", offer(kFilled, 1).number(offsetof(cache::Header, tick), 4).rest(Bytes(64, std::byte{1})).bytes()}};
}

}  // namespace

Target node_arena() {
  return {"node_arena", "the node cache as it is offered and attached to", run, seeds, 4096};
}

}  // namespace cardea::fuzz
