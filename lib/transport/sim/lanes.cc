// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/sim/lanes.h"

#include <algorithm>
#include <utility>

namespace cardea::sim {
namespace {

using Wide = unsigned __int128;

constexpr std::uint64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr unsigned kUnitBits = 32;  // rates and remainders are counted in 2^-32 bytes

Nanoseconds duration(std::uint64_t bytes, std::uint64_t bytes_per_second) {
  const Wide scaled = Wide{bytes} * kNanosecondsPerSecond;
  return Nanoseconds(static_cast<std::int64_t>((scaled + bytes_per_second - 1) / bytes_per_second));
}

}  // namespace

LaneId Lanes::add(std::uint64_t bytes_per_second) {
  Lane lane;
  lane.bytes_per_second = std::clamp<std::uint64_t>(bytes_per_second, 1'000'000, std::uint64_t{1} << 43);
  lanes_.push_back(std::move(lane));
  return static_cast<LaneId>(lanes_.size() - 1);
}

TransferId Lanes::start(std::vector<Hop> path, std::uint64_t bytes, std::function<void()> left,
                        std::function<void()> arrived) {
  std::uint32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<std::uint32_t>(transfers_.size());
    transfers_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  Transfer& transfer = transfers_[slot];
  ++transfer.generation;
  transfer.path = std::move(path);
  transfer.entered = 0;
  transfer.bytes = bytes;
  transfer.on_left = std::move(left);
  transfer.on_arrived = std::move(arrived);
  const TransferId id = TransferId{transfer.generation} << 32 | slot;
  if (sharing_ == Sharing::kFair) {
    start_fair(slot);
  } else {
    enter(slot, Clock::time_point::min());
  }
  return id;
}

Lanes::Transfer* Lanes::find(TransferId transfer) {
  const auto slot = static_cast<std::uint32_t>(transfer);
  if (slot >= transfers_.size()) return nullptr;
  Transfer& found = transfers_[slot];
  return found.generation == transfer >> 32 && found.leaving != kNoTimer ? &found : nullptr;
}

bool Lanes::abort(TransferId id) {
  Transfer* transfer = find(id);
  if (!transfer) return false;
  const auto slot = static_cast<std::uint32_t>(id);
  time_.cancel(std::exchange(transfer->leaving, kNoTimer));
  transfer->on_left = nullptr;
  transfer->on_arrived = nullptr;
  if (sharing_ == Sharing::kFair) {
    settle(*transfer);
    part(*transfer, slot);
    release(slot);
    return true;
  }
  time_.cancel(std::exchange(transfer->arriving, kNoTimer));
  if (!transfer->between_lanes) release(slot);
  return true;
}

void Lanes::release(std::uint32_t slot) {
  free_.push_back(slot);
}

LaneStatistics Lanes::statistics(LaneId id) const {
  const Lane& lane = lanes_[id];
  LaneStatistics result = lane.counted;
  const Clock::time_point now = time_.now();
  if (sharing_ == Sharing::kFifo) {
    // Counted when it was begun, and busy without a gap from now until then.
    result.busy -= std::max(Nanoseconds(0), lane.free_at - now);
    return result;
  }
  if (!lane.active.empty()) result.busy += now - lane.busy_since;
  for (const std::uint32_t slot : lane.active) {
    const Transfer& transfer = transfers_[slot];
    const Wide moved = Wide{transfer.rate} * static_cast<std::uint64_t>((now - transfer.settled).count());
    const Wide remaining = transfer.remaining > moved ? transfer.remaining - moved : 0;
    result.bytes +=
        transfer.bytes - static_cast<std::uint64_t>((remaining + ((Wide{1} << kUnitBits) - 1)) >> kUnitBits) - transfer.done;
  }
  return result;
}

// ---- fair sharing

void Lanes::start_fair(std::uint32_t slot) {
  Transfer& transfer = transfers_[slot];
  transfer.remaining = Wide{transfer.bytes} << kUnitBits;
  transfer.done = 0;
  transfer.rate = 0;
  transfer.settled = time_.now();
  transfer.leaving = time_.at(Clock::time_point::max(), [this, slot] { leave_fair(slot); });
  for (const Hop& hop : transfer.path) join(hop.lane, slot);
}

void Lanes::leave_fair(std::uint32_t slot) {
  Transfer& transfer = transfers_[slot];
  transfer.leaving = kNoTimer;
  settle(transfer);
  const auto left = std::exchange(transfer.on_left, nullptr);
  Nanoseconds latency{0};
  for (const Hop& hop : transfer.path) latency += hop.latency;
  if (transfer.on_arrived) (void)time_.at(time_.now() + latency, std::exchange(transfer.on_arrived, nullptr));
  part(transfer, slot);
  release(slot);
  if (left) left();
}

/// Counts what has moved since the rate was set.
void Lanes::settle(Transfer& transfer) {
  const Clock::time_point now = time_.now();
  const Wide moved = Wide{transfer.rate} * static_cast<std::uint64_t>((now - transfer.settled).count());
  transfer.remaining = transfer.remaining > moved ? transfer.remaining - moved : 0;
  transfer.settled = now;
  const auto whole_left = static_cast<std::uint64_t>((transfer.remaining + ((Wide{1} << kUnitBits) - 1)) >> kUnitBits);
  const std::uint64_t newly = transfer.bytes - whole_left - transfer.done;
  transfer.done += newly;
  for (const Hop& hop : transfer.path) lanes_[hop.lane].counted.bytes += newly;
}

void Lanes::join(LaneId id, std::uint32_t slot) {
  Lane& lane = lanes_[id];
  if (lane.active.empty()) lane.busy_since = time_.now();
  lane.active.push_back(slot);
  ++lane.counted.transfers;
  reshare_later(id);
}

void Lanes::part(const Transfer& transfer, std::uint32_t slot) {
  for (const auto& [id, latency] : transfer.path) {
    Lane& lane = lanes_[id];
    lane.active.erase(std::find(lane.active.begin(), lane.active.end(), slot));
    if (lane.active.empty()) lane.counted.busy += time_.now() - lane.busy_since;
    reshare_later(id);
  }
}

/// Once for all that starts and ends at one time, as an event of that time: a thousand transfers that start together would
/// otherwise cost a million new rates.
void Lanes::reshare_later(LaneId id) {
  if (std::exchange(lanes_[id].dirty, true)) return;
  if (dirty_.empty()) {
    time_.post([this] {
      const std::vector<LaneId> dirty = std::exchange(dirty_, {});
      for (const LaneId lane : dirty) lanes_[lane].dirty = false;
      for (const LaneId lane : dirty) reshare(lane);
    });
  }
  dirty_.push_back(id);
}

void Lanes::reshare(LaneId id) {
  if (lanes_[id].active.empty()) return;
  const auto share = [this](LaneId lane) {
    const Wide all = (Wide{lanes_[lane].bytes_per_second} << kUnitBits) / kNanosecondsPerSecond;
    return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(all / lanes_[lane].active.size()));
  };
  const std::uint64_t own = share(id);
  for (const std::uint32_t slot : lanes_[id].active) {
    Transfer& transfer = transfers_[slot];
    std::uint64_t rate = own;
    for (const Hop& hop : transfer.path) {
      if (hop.lane != id) rate = std::min(rate, share(hop.lane));
    }
    if (rate == transfer.rate) continue;
    settle(transfer);
    transfer.rate = rate;
    const auto left = static_cast<std::int64_t>((transfer.remaining + rate - 1) / rate);
    time_.move(transfer.leaving, time_.now() + Nanoseconds(left));
  }
}

// ---- first come, first served

/// The next lane of its path, the last byte coming to it no sooner than told.
void Lanes::enter(std::uint32_t slot, Clock::time_point last_byte) {
  Transfer& transfer = transfers_[slot];
  const bool first = transfer.entered == 0;
  const Hop hop = transfer.path[transfer.entered++];
  Lane& lane = lanes_[hop.lane];
  const Clock::time_point begin = std::max(time_.now(), lane.free_at);
  const Clock::time_point end = std::max(begin + duration(transfer.bytes, lane.bytes_per_second), last_byte);
  lane.free_at = end;
  lane.counted.busy += end - begin;
  lane.counted.bytes += transfer.bytes;
  ++lane.counted.transfers;
  if (first) transfer.leaving = time_.at(end, [this, slot] { leave_fifo(slot); });
  transfer.arriving = kNoTimer;
  transfer.between_lanes = transfer.entered < transfer.path.size();
  if (transfer.between_lanes) {
    (void)time_.at(begin + hop.latency, [this, slot, end, hop] { enter(slot, end + hop.latency); });
    return;
  }
  if (transfer.on_arrived) transfer.arriving = time_.at(end + hop.latency, std::exchange(transfer.on_arrived, nullptr));
  if (transfer.leaving == kNoTimer) release(slot);
}

void Lanes::leave_fifo(std::uint32_t slot) {
  Transfer& transfer = transfers_[slot];
  transfer.leaving = kNoTimer;
  const auto left = std::exchange(transfer.on_left, nullptr);
  if (!transfer.between_lanes) release(slot);
  if (left) left();
}

}  // namespace cardea::sim
