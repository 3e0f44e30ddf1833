// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/fabric.h"

#include "perf/simulator/rank.h"

namespace cardea::simulator {
namespace {

Nanoseconds ns(std::uint64_t count) {
  return Nanoseconds(static_cast<std::int64_t>(count));
}

}  // namespace

Fabric::Fabric(World& world)
    : world_(world),
      lanes_(world.time, world.plan.fair ? sim::Sharing::kFair : sim::Sharing::kFifo),
      random_(world.plan.seed, 1) {
  for (const Cluster::PhysicalLane& lane : world.cluster.lanes()) (void)lanes_.add(lane.rate);
}

Fabric::Flight* Fabric::find(FlightId id) {
  Flight& flight = flights_[id & 0xFFFFFFFF];
  return flight.open && flight.generation == id >> 32 ? &flight : nullptr;
}

bool Fabric::over_network(const Flight& flight) const {
  return world_.cluster.core_lanes(flight.reader).is_network(flight.chunk.lane);
}

/// Occupies every lane of the way; `cost` is the time that the chunk occupies the slowest of them beside its bytes.
void Fabric::move(FlightId id, Steps way, std::uint64_t cost) {
  std::uint64_t slowest = UINT64_MAX;
  std::vector<sim::Hop> path;
  for (const Step& step : way) {
    path.push_back({step.lane, ns(step.latency)});
    slowest = std::min(slowest, world_.cluster.lanes()[step.lane].rate);
  }
  Flight& flight = *find(id);
  const std::uint64_t bytes =
      flight.chunk.range.bytes + static_cast<std::uint64_t>(static_cast<unsigned __int128>(cost) * slowest / 1'000'000'000);
  flight.transfer = lanes_.start(
      std::move(path), bytes, [this, id] { leave(id); }, [this, id] { arrive(id); });
}

void Fabric::start(Rank reader, const core::StartChunk& chunk) {
  ++world_.report.chunks;
  std::uint32_t place = 0;
  if (free_.empty()) {
    place = static_cast<std::uint32_t>(flights_.size());
    flights_.emplace_back();
  } else {
    place = free_.back();
    free_.pop_back();
  }
  Flight& flight = flights_[place];
  ++flight.generation;
  flight.open = true;
  flight.lent = flight.left = false;
  flight.reader = reader;
  flight.chunk = chunk;
  flight.transfer = 0;
  flight.destination = world_.plan.bytes ? world_.ranks[reader]->destination(chunk) : nullptr;
  const FlightId id = FlightId{flight.generation} << 32 | place;
  const Plan& plan = world_.plan;
  const std::uint64_t latency = over_network(flight) ? plan.network_latency : plan.node_latency;
  world_.time.after(ns(latency + random_.below(plan.chunk_delay + 1)), [this, id] { serve(id); });
}

void Fabric::serve(FlightId id) {
  Flight* flight = find(id);
  if (flight == nullptr) return;
  const core::StartChunk& chunk = flight->chunk;
  SimulatedRank& source = *world_.ranks[chunk.source];
  const Plan& plan = world_.plan;
  const Cluster& cluster = world_.cluster;
  const SimulatedRank& reader = *world_.ranks[flight->reader];
  const Node node = plan.node_of(flight->reader);
  std::uint32_t numa = 0;  // of the node cache's memory, if that takes part
  if (chunk.from != cache::kNoEntry && chunk.peer == kNoRank)
    numa = world_.nodes[node]->lies_in(reader.cached_at(chunk.from, chunk.range));
  if (chunk.into != cache::kNoEntry) {
    numa = world_.nodes[node]->touch(reader.cached_at(chunk.into, chunk.range), chunk.range.bytes,
                                     cluster.numa(flight->reader));
  }
  if (!over_network(*flight)) {
    // The mapping of a rank that died stays; so this goes on without it.
    return move(id,
                chunk.peer != kNoRank           ? cluster.pull(flight->reader, chunk.peer)
                : chunk.from != cache::kNoEntry ? cluster.copy(flight->reader, numa)
                                                : cluster.from_home(flight->reader, chunk.source),
                plan.copy_chunk_time);
  }
  if (source.is_gone()) {
    // Else it ends when its reader hears of it.
    if (heard_.contains({flight->reader, chunk.source})) end(id, Status(CARDEA_ERR_PEER_LOST, "it is no more"));
    return;
  }
  if (source.is_stopped()) return source.deliver([this, id] { serve(id); });
  if (const Status lent = source.lend(chunk.layer, chunk.version); !lent.ok()) {
    world_.time.after(ns(plan.network_latency), [this, id, lent] { end(id, lent); });
    return;
  }
  flight->lent = true;
  move(id, world_.cluster.network(chunk.source, flight->reader, chunk.lane, numa), plan.network_chunk_time);
}

void Fabric::leave(FlightId id) {
  Flight* flight = find(id);
  if (flight == nullptr) return;
  flight->left = true;
  if (world_.plan.bytes) {
    const core::StartChunk& chunk = flight->chunk;
    const std::byte* from = chunk.peer != kNoRank ? world_.ranks[chunk.peer]->slot(chunk.peer_slot)
                            : chunk.from != cache::kNoEntry
                                ? world_.ranks[flight->reader]->entry(chunk.from)
                                : world_.ranks[chunk.source]->own_expert(chunk.layer, chunk.expert);
    const auto offset = static_cast<std::ptrdiff_t>(flight->chunk.range.offset);
    flight->staged.assign(from + offset, from + offset + static_cast<std::ptrdiff_t>(flight->chunk.range.bytes));
  }
  give_back(*flight);
}

void Fabric::arrive(FlightId id) {
  Flight* flight = find(id);
  if (flight == nullptr) return;
  const core::StartChunk& chunk = flight->chunk;
  Report& report = world_.report;
  if (over_network(*flight)) {
    report.network_bytes += chunk.range.bytes;
    const Node node = world_.plan.node_of(flight->reader);
    std::uint64_t key = node;
    for (const std::uint64_t part :
         {std::uint64_t{chunk.layer}, chunk.version, std::uint64_t{chunk.expert}, chunk.range.offset})
      key = Random::mixed(key * 0x9E3779B97F4A7C15u + part + 1);
    const bool first = crossed_.insert(key).second;
    (first ? report.distinct_network_bytes : report.repeated_network_bytes) += chunk.range.bytes;
  } else {
    report.copy_bytes += chunk.range.bytes;
    if (chunk.peer != kNoRank) report.pulled_bytes += chunk.range.bytes;
  }
  if (world_.plan.bytes) std::copy(flight->staged.begin(), flight->staged.end(), flight->destination);
  end(id, {});
}

/// Tells the reader, unless it is no more.
void Fabric::end(FlightId id, const Status& status) {
  Flight* flight = find(id);
  if (flight == nullptr) return;
  if (!status.ok()) ++world_.report.failed_chunks;
  SimulatedRank& reader = *world_.ranks[flight->reader];
  const core::StartChunk chunk = flight->chunk;
  close(*flight, static_cast<std::uint32_t>(id));
  reader.end_use(chunk);  // now, not when a stopped reader hears of it, for it may never
  reader.deliver([&reader, chunk, status] { reader.chunk_done(chunk, status); });
}

void Fabric::close(Flight& flight, std::uint32_t place) {
  if (flight.transfer != 0) lanes_.abort(flight.transfer);
  give_back(flight);
  flight.open = false;
  free_.push_back(place);
}

void Fabric::give_back(Flight& flight) {
  if (!std::exchange(flight.lent, false)) return;
  SimulatedRank& source = *world_.ranks[flight.chunk.source];
  source.deliver([&source, layer = flight.chunk.layer] { source.give_back(layer); });
}

void Fabric::send(Rank from, Rank to, core::LayerNumber layer, const core::Notice& notice) {
  const Plan& plan = world_.plan;
  const bool near = plan.node_of(from) == plan.node_of(to);
  Clock::time_point when =
      world_.time.now() + ns((near ? plan.node_latency : plan.network_latency) + random_.below(plan.message_delay + 1));
  if (plan.message_delay != 0) {
    Clock::time_point& last = last_notice_[{from, to}];
    last = when = std::max(when, last);
  }
  world_.time.at(when, [this, from, to, layer, notice] {
    SimulatedRank& receiver = *world_.ranks[to];
    receiver.deliver([&receiver, from, layer, notice] { receiver.notice(from, layer, notice); });
  });
}

void Fabric::tell_node(Rank from, Rank to, cache::EntryIndex entry, std::uint32_t nic) {
  Clock::time_point when = world_.time.now() + ns(world_.plan.node_latency + random_.below(world_.plan.message_delay + 1));
  if (world_.plan.message_delay != 0) {
    Clock::time_point& last = last_notice_[{from, to}];
    last = when = std::max(when, last);
  }
  world_.time.at(when, [this, to, entry, nic] {
    SimulatedRank& receiver = *world_.ranks[to];
    receiver.deliver([&receiver, entry, nic] { receiver.node_notice(entry, nic); });
  });
}

void Fabric::gone(Rank rank, bool left) {
  const Plan& plan = world_.plan;
  for (std::uint32_t place = 0; place < flights_.size(); ++place) {
    Flight& flight = flights_[place];
    if (!flight.open) continue;
    // What has not left it by now never will; the reader hears with the news of the loss. Copies go on.
    if (flight.chunk.source == rank && over_network(flight) && !flight.left && flight.transfer != 0)
      lanes_.abort(std::exchange(flight.transfer, 0));
    if (flight.reader == rank) {
      world_.ranks[rank]->end_use(flight.chunk);
      close(flight, place);
    }
  }
  for (Rank other = 0; other < plan.ranks(); ++other) {
    if (other == rank) continue;
    const bool near = plan.node_of(other) == plan.node_of(rank);
    const std::uint64_t latency = near ? plan.node_latency : plan.network_latency;
    const std::uint64_t delay = left ? latency : plan.detection / (near ? 10 : 1) + random_.below(plan.detection / 10 + 1);
    const bool chunks_first = random_.chance(50);
    world_.time.after(ns(delay), [this, rank, other, left, chunks_first] {
      const Status why(CARDEA_ERR_PEER_LOST, left ? "it has left" : "it died");
      heard_.emplace(other, rank);
      if (chunks_first) end_all(other, rank, why);
      SimulatedRank& hearer = *world_.ranks[other];
      hearer.deliver([&hearer, rank, left, why] { hearer.peer_lost(rank, left, why); });
      if (!chunks_first) end_all(other, rank, why);
    });
  }
}

void Fabric::end_all(Rank reader, Rank source, const Status& why) {
  for (std::uint32_t place = 0; place < flights_.size(); ++place) {
    const Flight& flight = flights_[place];
    if (flight.open && flight.reader == reader && flight.chunk.source == source && flight.chunk.from == cache::kNoEntry)
      end(FlightId{flight.generation} << 32 | place, why);
  }
}

std::uint64_t Fabric::reading(Rank source, core::LayerNumber layer) const {
  std::uint64_t reading = 0;
  for (const Flight& flight : flights_) {
    reading += flight.open && !flight.left && flight.transfer != 0 && flight.chunk.source == source &&
               flight.chunk.layer == layer && flight.chunk.from == cache::kNoEntry;
  }
  return reading;
}

}  // namespace cardea::simulator
