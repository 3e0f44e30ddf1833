// SPDX-License-Identifier: Apache-2.0
// What a framework's exchange callback delivers. The input overwrites what an honest one would have delivered.
#include "lib/bootstrap/callback_exchange.h"

#include <algorithm>
#include <cstring>

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

constexpr std::uint32_t kWorld = 3;

struct Store {
  Draw draw;
};

/// The other ranks give what this rank gives, with their own rank in an introduction; then the input is laid over it.
int exchange(void* user, const void* mine, size_t bytes, void* all) {
  Store& store = *static_cast<Store*>(user);
  auto* const out = static_cast<std::byte*>(all);
  for (std::uint32_t rank = 0; rank < kWorld; ++rank) {
    std::memcpy(out + rank * bytes, mine, bytes);
    if (bytes > 40) out[rank * bytes + 8] = static_cast<std::byte>(rank);
  }
  for (std::uint64_t changes = store.draw.below(4); changes > 0; --changes) {
    const std::size_t at = store.draw.number(2) % (bytes * kWorld);
    const ByteView over = store.draw.blob();
    std::copy_n(over.begin(), std::min(over.size(), bytes * kWorld - at), out + at);
  }
  return store.draw.byte() == 0xff ? 1 : 0;
}

bool run(ByteView input) {
  Store store{Draw(input)};
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  auto made = bootstrap::callback_exchange(exchange, &store, 1, kWorld, deadline);
  if (!made.ok()) return false;
  bool whole = true;
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{10}}) {
    const auto all = (*made)->allgather(Bytes(bytes, std::byte{1}), deadline);
    whole = whole && all.ok();
    if (!all.ok()) continue;
    require(all->size() == kWorld && (*all)[1] == Bytes(bytes, std::byte{1}), "each rank has its place");
    for (const Bytes& one : *all) require(one.size() <= bootstrap::Exchange::kMaxBytes, "contributions are capped");
  }
  return whole;
}

std::vector<Seed> seeds() {
  Script other_size;  // of rank 0, in the second round
  for (int call = 0; call < 2; ++call) other_size.byte(0).byte(0);
  other_size.byte(1).number(8, 2).blob(Bytes(1, std::byte{2})).byte(0);
  return {{"honest", {}}, {"other_size", other_size.bytes()}};
}

}  // namespace

Target callback_exchange() {
  return {"callback_exchange", "what a framework's exchange callback delivers", run, seeds, 512};
}

}  // namespace cardea::fuzz
