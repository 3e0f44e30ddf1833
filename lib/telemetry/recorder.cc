// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/recorder.h"

#include <algorithm>
#include <bit>

namespace cardea::telemetry {
namespace {

Body body_of(const Chunk& chunk) {
  return {.id = chunk.number,
          .version = chunk.version,
          .bytes = chunk.bytes,
          .extra = chunk.offset,
          .layer = chunk.layer,
          .expert = chunk.expert,
          .peer = chunk.source};
}

Body body_of(const Outcome& want) {
  return {.id = want.fetch, .version = want.version, .layer = want.layer, .expert = want.expert, .peer = want.peer};
}

}  // namespace

Recorder::Recorder(RecorderOptions options)
    : self_(options.self),
      counters_(std::move(options.lanes)),
      ring_(std::bit_ceil(std::max<std::size_t>(options.ring, 2))),
      mask_(ring_.size() - 1) {}

Record* Recorder::next() {
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  if (attached_ && head - tail_.load(std::memory_order_acquire) == ring_.size()) {
    lost_.store(++counters_.records_lost, std::memory_order_relaxed);
    return nullptr;
  }
  // The ring is larger than a core's cache, and another core has written there last: it is on its way in time.
  constexpr std::uint64_t kAhead = 4;
  __builtin_prefetch(&ring_[(head + kAhead) & mask_], 1);
  return &ring_[head & mask_];
}

void Recorder::add(Clock::time_point when, What what, const Body& body, std::uint8_t urgency, std::uint8_t path,
                   std::uint8_t lane, std::int32_t status) {
  ++counters_.happened[static_cast<std::size_t>(what)];
  Record* const to = next();
  if (to == nullptr) return;
  *to = {when.time_since_epoch().count(), what, urgency, path, lane, status, body};
  publish();
}

void Recorder::numbers(Clock::time_point when, std::span<const std::uint32_t> all) {
  while (!all.empty()) {
    const std::size_t some = std::min(all.size(), kNumbersPerRecord);
    Record* const to = next();
    if (to == nullptr) return;
    Numbers packed{};
    std::copy_n(all.begin(), some, packed.begin());
    *to = {when.time_since_epoch().count(), What::kNumbers, 0, 0, 0, static_cast<std::int32_t>(some),
           std::bit_cast<Body>(packed)};
    publish();
    all = all.subspan(some);
  }
}

// ---------------------------------------------------------------- requests

void Recorder::fetch(Clock::time_point when, const Outcome& fetch, std::uint8_t flags, std::uint64_t segments,
                     std::uint64_t deadline, std::span<const ExpertIndex> experts) {
  counters_.experts_wanted[std::min<std::size_t>(fetch.urgency, kClassCount - 1)] += experts.size();
  Body body = body_of(fetch);
  body.bytes = segments;
  body.extra = deadline;
  body.count = static_cast<std::uint32_t>(experts.size());
  add(when, What::kFetch, body, fetch.urgency, flags);
  numbers(when, experts);
}

void Recorder::of_fetch(Clock::time_point when, What what, std::uint64_t fetch, std::uint32_t count) {
  add(when, what, {.id = fetch, .count = count});
}

void Recorder::release(Clock::time_point when, std::uint64_t fetch, ExpertIndex expert) {
  add(when, What::kRelease, {.id = fetch, .expert = expert});
}

void Recorder::of_version(Clock::time_point when, What what, std::uint32_t layer, Version version) {
  add(when, what, {.version = version, .layer = layer});
}

void Recorder::leave(Clock::time_point when) {
  add(when, What::kLeave, {});
}

// ---------------------------------------------------------------- what followed

void Recorder::start(Clock::time_point when, const Chunk& chunk) {
  ++counters_.traffic(chunk.lane, chunk.urgency, chunk.path).started;
  add(when, What::kStart, body_of(chunk), chunk.urgency, chunk.path, static_cast<std::uint8_t>(chunk.lane));
}

void Recorder::done(Clock::time_point when, const Chunk& chunk, Nanoseconds took, std::int32_t status) {
  Traffic& traffic = counters_.traffic(chunk.lane, chunk.urgency, chunk.path);
  if (status == CARDEA_OK) {
    ++traffic.done;
    traffic.bytes += chunk.bytes;
    traffic.nanoseconds += static_cast<std::uint64_t>(took.count());
  } else {
    ++traffic.failed;
  }
  Body body = body_of(chunk);
  body.extra = static_cast<std::uint64_t>(took.count());
  add(when, What::kDone, body, chunk.urgency, chunk.path, static_cast<std::uint8_t>(chunk.lane), status);
}

void Recorder::ready(Clock::time_point when, const Outcome& want, Nanoseconds after) {
  counters_.ready(want.urgency, want.path).add(static_cast<std::uint64_t>(after.count()));
  Body body = body_of(want);
  body.extra = static_cast<std::uint64_t>(after.count());
  add(when, What::kReady, body, want.urgency, want.path);
}

void Recorder::failed(Clock::time_point when, const Outcome& want, std::int32_t status) {
  ++counters_.failures[status];
  add(when, What::kFailed, body_of(want), want.urgency, want.path, 0, status);
}

void Recorder::told(Clock::time_point when, Rank by, std::uint32_t kind, std::uint32_t layer, Version version) {
  add(when, What::kTold, {.version = version, .layer = layer, .peer = by, .count = kind});
}

void Recorder::lost(Clock::time_point when, Rank peer, bool left) {
  add(when, What::kLost, {.peer = peer, .count = left ? 1u : 0u});
}

void Recorder::lend(Clock::time_point when, std::uint64_t lease, const Chunk& chunk, Rank to) {
  Body body = body_of(chunk);
  body.id = lease;
  body.peer = to;
  add(when, What::kLend, body);
}

void Recorder::give_back(Clock::time_point when, std::uint64_t lease, std::uint64_t bytes) {
  counters_.bytes_lent += bytes;
  add(when, What::kReturn, {.id = lease, .bytes = bytes});
}

void Recorder::copied(Clock::time_point when, GpuQueue queue, std::uint64_t number, std::uint64_t bytes, std::uint32_t count,
                      Clock::time_point began, Nanoseconds took) {
  const auto count_of = [](Nanoseconds time) { return static_cast<std::uint64_t>(std::max<std::int64_t>(0, time.count())); };
  add(when, What::kCopied,
      {.id = number, .version = count_of(when - began), .bytes = bytes, .extra = count_of(took), .count = count}, 0, 0,
      static_cast<std::uint8_t>(queue));
}

void Recorder::layer(Clock::time_point when, const LayerFacts& facts, std::span<const Rank> homes) {
  add(when, What::kLayer,
      {.id = facts.layer_id,
       .bytes = facts.expert_bytes,
       .extra = facts.segments,
       .layer = facts.layer,
       .peer = facts.members,
       .count = static_cast<std::uint32_t>(homes.size())},
      0, facts.node_path);
  numbers(when, homes);
}

// ---------------------------------------------------------------- reading

std::vector<Record> Recorder::recent() const {
  const std::uint64_t head = made();
  const std::uint64_t first = head > ring_.size() ? head - ring_.size() : 0;
  std::vector<Record> records;
  records.reserve(head - first);
  for (std::uint64_t at = first; at < head; ++at) records.push_back(ring_[at & mask_]);
  return records;
}

void Recorder::attach() {
  const std::uint64_t head = made();
  tail_.store(head > ring_.size() ? head - ring_.size() : 0, std::memory_order_relaxed);
  attached_ = true;
}

std::size_t Recorder::drain(std::span<Record> out) {
  const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  const std::uint64_t there = head_.load(std::memory_order_acquire) - tail;
  const std::size_t some = std::min<std::size_t>(there, out.size());
  for (std::size_t i = 0; i < some; ++i) out[i] = ring_[(tail + i) & mask_];
  tail_.store(tail + some, std::memory_order_release);
  return some;
}

}  // namespace cardea::telemetry
