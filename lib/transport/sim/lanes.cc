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

TransferId Lanes::start(LaneId first, LaneId second, std::uint64_t bytes, Nanoseconds latency, std::function<void()> left,
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
  transfer.first = first;
  transfer.second = second;
  transfer.bytes = bytes;
  transfer.latency = latency;
  transfer.on_left = std::move(left);
  transfer.on_arrived = std::move(arrived);
  const TransferId id = TransferId{transfer.generation} << 32 | slot;
  if (sharing_ == Sharing::kFair) {
    start_fair(slot);
  } else {
    start_fifo(slot);
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
  join(transfer.first, slot);
  if (transfer.second != kNoLane) join(transfer.second, slot);
}

void Lanes::leave_fair(std::uint32_t slot) {
  Transfer& transfer = transfers_[slot];
  transfer.leaving = kNoTimer;
  settle(transfer);
  const auto left = std::exchange(transfer.on_left, nullptr);
  if (transfer.on_arrived) (void)time_.at(time_.now() + transfer.latency, std::exchange(transfer.on_arrived, nullptr));
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
  lanes_[transfer.first].counted.bytes += newly;
  if (transfer.second != kNoLane) lanes_[transfer.second].counted.bytes += newly;
}

void Lanes::join(LaneId id, std::uint32_t slot) {
  Lane& lane = lanes_[id];
  if (lane.active.empty()) lane.busy_since = time_.now();
  lane.active.push_back(slot);
  ++lane.counted.transfers;
  reshare_later(id);
}

void Lanes::part(const Transfer& transfer, std::uint32_t slot) {
  for (const LaneId id : {transfer.first, transfer.second}) {
    if (id == kNoLane) continue;
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
    const LaneId other = transfer.first == id ? transfer.second : transfer.first;
    const std::uint64_t rate = other == kNoLane ? own : std::min(own, share(other));
    if (rate == transfer.rate) continue;
    settle(transfer);
    transfer.rate = rate;
    const auto left = static_cast<std::int64_t>((transfer.remaining + rate - 1) / rate);
    time_.move(transfer.leaving, time_.now() + Nanoseconds(left));
  }
}

// ---- first come, first served

void Lanes::start_fifo(std::uint32_t slot) {
  Transfer& transfer = transfers_[slot];
  Lane& lane = lanes_[transfer.first];
  const Clock::time_point begin = std::max(time_.now(), lane.free_at);
  const Nanoseconds needed = duration(transfer.bytes, lane.bytes_per_second);
  const Clock::time_point end = begin + needed;
  lane.free_at = end;
  lane.counted.busy += needed;
  lane.counted.bytes += transfer.bytes;
  ++lane.counted.transfers;
  transfer.leaving = time_.at(end, [this, slot] { leave_fifo(slot); });
  if (transfer.second == kNoLane) {
    transfer.between_lanes = false;
    transfer.arriving = time_.at(end + transfer.latency, std::exchange(transfer.on_arrived, nullptr));
    return;
  }
  transfer.between_lanes = true;
  transfer.arriving = kNoTimer;
  (void)time_.at(begin + transfer.latency, [this, slot, end] { enter_second(slot, end + transfers_[slot].latency); });
}

void Lanes::leave_fifo(std::uint32_t slot) {
  Transfer& transfer = transfers_[slot];
  transfer.leaving = kNoTimer;
  const auto left = std::exchange(transfer.on_left, nullptr);
  if (!transfer.between_lanes) release(slot);
  if (left) left();
}

void Lanes::enter_second(std::uint32_t slot, Clock::time_point last_byte) {
  Transfer& transfer = transfers_[slot];
  transfer.between_lanes = false;
  Lane& lane = lanes_[transfer.second];
  const Clock::time_point begin = std::max(time_.now(), lane.free_at);
  lane.free_at = std::max(begin + duration(transfer.bytes, lane.bytes_per_second), last_byte);
  lane.counted.busy += lane.free_at - begin;
  lane.counted.bytes += transfer.bytes;
  ++lane.counted.transfers;
  if (transfer.on_arrived) transfer.arriving = time_.at(lane.free_at, std::exchange(transfer.on_arrived, nullptr));
  if (transfer.leaving == kNoTimer) release(slot);
}

}  // namespace cardea::sim
