// SPDX-License-Identifier: Apache-2.0
// The runtime's half that queues copies on the GPU before their bytes have come (core/gated.cc, cuda/gate.h), and opens
// their gates. That is a store into pinned memory, done with the mutex held by whoever brings the news: the engine's thread
// as a rule, which never calls the driver.
#include <algorithm>

#include "lib/base/log.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

// Memory that experts land in beside the node cache: of one slab, though at least two experts, and of all.
constexpr std::uint64_t kSlabLandings = std::uint64_t{256} << 20;
constexpr std::uint64_t kAllLandings = std::uint64_t{1} << 30;
constexpr std::uint32_t kMostGates = 1024;
constexpr std::uint32_t kGatesInSteps = 4;  // of a queue: at most 4 times 3 copies of 16 pieces, and as many waits

}  // namespace

/// Without the mutex. Null where a fetch on a stream is to wait on the host for what comes over the network; the log says
/// why.
std::shared_ptr<cuda::GateSet> Runtime::make_gates(const core::SegmentLayout& layout, std::uint32_t slots) {
  if (!has_other_nodes()) return nullptr;
  const auto without = [&](const Status& why) {
    if (!told_of_gates_.exchange(true)) {
      log::print(log::Level::kWarn, name_, "cuda",
                 "no gates ({}): a fetch on a stream waits on the host for what comes over the network", why.message());
    }
    return nullptr;
  };
  if (const Status status = copier_->use_gates(); !status.ok()) return without(status);
  cuda::GateShape shape;
  shape.gates = std::min(slots, kMostGates) * 2;  // one that has been passed goes back a little later than its slot
  for (const core::Segment& segment : layout.segments()) {
    constexpr std::uint64_t kAlign = cuda::GateSet::kSealAlignment;
    shape.sealed_bytes += (std::min(segment.bytes, cuda::GateSet::kSealed) + kAlign - 1) / kAlign * kAlign;
  }
  shape.landing_bytes = layout.packed_bytes();
  const std::uint64_t landings = std::max<std::uint64_t>(2, kSlabLandings / shape.landing_bytes);
  shape.landings = static_cast<std::uint32_t>(std::min<std::uint64_t>(landings, std::min(slots, kMostGates)));
  std::uint64_t all = landing_bytes_.fetch_add(shape.landings * shape.landing_bytes);
  if (all + shape.landings * shape.landing_bytes > kAllLandings) {
    landing_bytes_.fetch_sub(shape.landings * shape.landing_bytes);
    shape.landings = 0;  // what comes through the node cache is gated all the same
  }
  Result<std::shared_ptr<cuda::GateSet>> made = cuda::GateSet::make(copier_->device(), shape);
  if (made.ok()) return *made;
  landing_bytes_.fetch_sub(shape.landings * shape.landing_bytes);
  return without(made.status());
}

core::GateLimits Runtime::gate_limits(const SlabRecord& slab) const {
  if (!slab.gates) return {};
  // Waits for the slot's last writer, for its readers and for the gate; seal and rest of each segment.
  const auto commands = static_cast<std::uint32_t>(3 + 2 * slab.layout.count());
  return {slab.gates->shape().gates / 2, slab.gates->shape().landings, commands};
}

void Runtime::drop_gates(SlabRecord& slab) {
  if (!slab.gates) return;
  landing_bytes_.fetch_sub(slab.gates->shape().landings * slab.gates->shape().landing_bytes);
  destroy_on_copier(std::move(slab.gates));
}

/// False if it has no gate to wait behind; then it fails.
bool Runtime::put_behind_gate(const core::StartChunk& start, cuda::CopyOrder& order) {
  InFlight& flight = in_flight_.at(start.chunk);
  flight.gate = slabs_.at(start.slab)->gates->take();
  if (!flight.gate) {
    enqueue([this, token = start.chunk] { on_chunk_done(token, Status(CARDEA_ERR_LIMIT, "no gate is free")); });
    return false;
  }
  // What one source sends arrives in about the order in which it is asked for here. So it is queued behind one another, and
  // a source that does not get on holds up nobody else's experts, while there are enough queues.
  const auto of_source = [&](const GateLine& line) { return line.shut != 0 && line.source == start.source; };
  const auto end = gate_lines_.begin() + static_cast<std::ptrdiff_t>(copier_->gated_queues());
  auto line = std::find_if(gate_lines_.begin(), end, of_source);
  if (line == end) {
    line = std::min_element(gate_lines_.begin(), end, [](const GateLine& a, const GateLine& b) { return a.shut < b.shut; });
  }
  line->source = start.source;
  ++line->shut;
  // Behind several others there is little to be gained by steps, which take commands of the device's queue.
  const std::vector<cuda::CopyPiece> sealed =
      flight.gate->seal({order.pieces.data(), order.pieces.size()}, line->shut <= kGatesInSteps);
  order.pieces.assign(sealed.begin(), sealed.end());
  order.gate = flight.gate;
  flight.gate_line = static_cast<std::size_t>(line - gate_lines_.begin());
  order.queue = cuda::gated_queue(flight.gate_line);
  return true;
}

void Runtime::advance_gate(const core::AdvanceGate& advance) {
  const InFlight* const flight = in_flight_.find(advance.chunk);
  if (flight != nullptr && flight->gate) flight->gate->advance(advance.bytes);
}

void Runtime::open_gate(const core::OpenGate& open) {
  InFlight* const flight = in_flight_.find(open.chunk);
  if (flight == nullptr || !flight->gate) return;
  if (open.why.ok()) {
    flight->gate->open();
  } else {
    flight->gate->fail(open.why);
  }
  leave_line(*flight);
  flight->gate.reset();  // the order keeps it
  copier_->wake();       // to look when the copy is done
}

void Runtime::leave_line(const InFlight& flight) {
  if (flight.gate) --gate_lines_[flight.gate_line].shut;
}

/// Without the mutex. After cancel_all there are none left, unless somebody has begun a fetch since.
void Runtime::fail_gates(const Status& why) {
  const auto held = lock();
  in_flight_.for_each([&](core::ChunkNumber, InFlight& flight) {
    if (flight.gate) flight.gate->fail(why);
  });
}

}  // namespace cardea::engine
