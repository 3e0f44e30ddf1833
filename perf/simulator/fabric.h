// SPDX-License-Identifier: Apache-2.0
// The modelled cluster between ranks: moves chunks over lanes and notices with latency, and tells of losses.
//
//   network chunk:  request travels (latency, delay) ──► source lends ──► lanes out of its node ──► lanes into the other ──►
//   arrives copy in a node: request travels (latency, delay) ──► lanes of the node (cluster.h) ──► arrives
//
// The source's lease ends when the last byte has left it. A rank that dies takes the chunks from it down, which end when
// their reader hears of the loss; a stopped one serves no network chunks until it goes on. Notices between two ranks arrive
// in order.
#pragma once

#include <map>
#include <set>
#include <unordered_set>
#include <vector>

#include "lib/core/actions.h"
#include "lib/transport/sim/lanes.h"
#include "perf/simulator/random.h"
#include "perf/simulator/world.h"

namespace cardea::simulator {

class Fabric {
 public:
  explicit Fabric(World& world);

  void start(Rank reader, const core::StartChunk& chunk);
  void send(Rank from, Rank to, core::LayerNumber layer, const core::Notice& notice);
  /// Of core::TellNode.
  void tell_node(Rank from, Rank to, cache::EntryIndex entry, std::uint32_t nic);
  /// The rank is no more: it died, or left of its own will. The others hear of it later.
  void gone(Rank rank, bool left);
  /// Chunks that still read the rank's own experts of a layer for somebody who is there.
  std::uint64_t reading(Rank source, core::LayerNumber layer) const;

 private:
  struct Flight {
    std::uint32_t generation = 0;
    bool open = false, lent = false, left = false;
    Rank reader = 0;
    core::StartChunk chunk;
    sim::TransferId transfer = 0;
    std::byte* destination = nullptr;  // if bytes are carried
    Bytes staged;                      // what left the source, if bytes are carried
  };
  using FlightId = std::uint64_t;

  Flight* find(FlightId id);
  void end(FlightId id, const Status& status);
  void close(Flight& flight, std::uint32_t place);
  void serve(FlightId id);
  void leave(FlightId id);
  void arrive(FlightId id);
  void give_back(Flight& flight);
  void end_all(Rank reader, Rank source, const Status& status);
  bool over_network(const Flight& flight) const;
  void move(FlightId id, Steps way, std::uint64_t cost);

  World& world_;
  sim::Lanes lanes_;
  Random random_;
  std::vector<Flight> flights_;
  std::vector<std::uint32_t> free_;
  std::map<std::pair<Rank, Rank>, Clock::time_point> last_notice_;
  std::set<std::pair<Rank, Rank>> heard_;      // (reader, source that is no more)
  std::unordered_set<std::uint64_t> crossed_;  // hashes of (node, layer, version, expert, offset)
};

}  // namespace cardea::simulator
