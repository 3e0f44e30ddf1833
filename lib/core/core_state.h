// SPDX-License-Identifier: Apache-2.0
// What the core remembers. Included by its own source files only.
#pragma once

#include <algorithm>
#include <array>
#include <bit>

#include <boost/container/small_vector.hpp>

#include "lib/core/core.h"
#include "lib/core/index_fifo.h"
#include "lib/telemetry/record.h"

namespace cardea::core {

inline bool needs_slot(cardea_path_t path, bool into_slots) {
  return path != CARDEA_PATH_HOME && (path != CARDEA_PATH_NODE_MAPPED || into_slots);
}

/// Calls visit(segment) for each in the mask.
template <typename Visit>
void for_each_segment(SegmentMask mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(static_cast<std::size_t>(std::countr_zero(mask)));
}

/// A want, named so that it may be gone meanwhile.
struct Core::WantRef {
  FetchNumber fetch = 0;
  std::size_t want = 0;
  static constexpr std::size_t kGang = SIZE_MAX;  // all starved wants of the fetch at once
  /// Earlier fetches first, and of a fetch what comes first in its order.
  Lane::Order order() const { return fetch << 20 | want; }
};

struct Core::WantRefs : boost::container::small_vector<WantRef, 4> {};

struct Core::Want {
  enum class State : std::uint8_t { kNew, kParked, kStarved, kMoving, kReady, kDelivered, kFailed };
  ExpertIndex expert = 0;
  State state = State::kNew;
  SourceOption source;
  TransferNumber transfer = 0;  // while moving, ready or delivered from a slot or from the node cache
  TransferNumber cached = 0;    // while starved: it lies in the node cache and wants to be copied into a slot
  bool diverted = false;        // the node cache has no memory for it: it goes into a slot
  bool in_slots = false;        // while starved: it lies in slots of other ranks of the node, and is pulled from there
  bool not_pulled = false;      // that has been tried: it comes another way
  Status status;
  Nanoseconds ready_after{0};
};

struct Core::Fetch {
  FetchNumber number = 0;
  FetchSpec spec;
  Clock::time_point submitted;
  std::vector<Want> wants;
  IndexFifo finished;  // ready or failed, not delivered yet
  std::array<std::uint32_t, 7> in_state{};
  std::uint32_t failed = 0;
  Status first_failure;
  bool gang_queued = false;
  std::uint32_t under_way = 0;              // chunks of ready wants that are queued and not done
  bool gang_first = false;                  // it had its turn, and must keep its place
  std::optional<std::uint64_t> cache_tick;  // of the node cache, when this first turned to it

  std::uint32_t count(Want::State state) const { return in_state[static_cast<std::size_t>(state)]; }
  std::uint32_t outstanding() const {
    return count(Want::State::kNew) + count(Want::State::kParked) + count(Want::State::kStarved) +
           count(Want::State::kMoving);
  }
  void move(Want& want, Want::State to) {
    --in_state[static_cast<std::size_t>(want.state)];
    ++in_state[static_cast<std::size_t>(to)];
    want.state = to;
  }
  void recycle() {
    Fetch fresh;
    fresh.wants.swap(wants);
    fresh.wants.clear();
    fresh.finished.swap(finished);
    fresh.finished.clear();
    fresh.spec.experts.swap(spec.experts);
    fresh.spec.experts.clear();
    *this = std::move(fresh);
  }
};

struct Core::Layer {
  LayerNumber number = 0;
  std::uint32_t layer_id = 0;
  SegmentLayout layout;
  LayerKey key;
  Versions versions;
  std::vector<ExpertSources> experts;  // empty until all members have told
  std::vector<std::uint32_t> places;   // of each expert: that of its source, in the order that goes round from this rank
  struct Turn {
    std::uint32_t path = 0, node = 0;  // counted from 0 in the same order, nodes anew for each path
    friend bool operator==(const Turn&, const Turn&) = default;
  };
  std::vector<Turn> turns;                                                          // by place
  bool nodes_in_turn = false;                                                       // there are several nodes to take from
  std::map<std::pair<SegmentMask, std::uint64_t>, std::vector<ChunkRange>> ranges;  // by segments and size of chunks
  std::set<Rank> left;                                                              // ended their part in it
  std::vector<WantRef> parked;
  std::map<Version, std::uint32_t> open;  // wants not failed and views not released
  std::optional<Version> finishing;       // asked for; told to others once nothing of it drains any more
  std::uint32_t draining = 0;             // abandoned transfers with chunks in flight, queued chunks, holds
  std::uint32_t lent = 0;                 // chunks that others are being sent
  bool cacheable = false;                 // what comes over the network goes through the node cache
  std::vector<ChunkRange> cache_ranges;   // chunks of an entry of it
  std::optional<Version> retired;         // dropped from the node cache up to here
  cache::LocalMask swap_peers = 0;        // set_swap_peers
  SlabNumber swap_slab = 0;

  bool finished(Version version) const {
    const auto done = versions.finished();
    return (done && version <= *done) || (finishing && version <= *finishing);
  }
};

struct Core::Slab {
  struct Key {
    LayerNumber layer = 0;
    ExpertIndex expert = 0;
    Version version = 0;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::uint64_t operator()(const Key& key) const {
      return spread((std::uint64_t{key.layer} << 32 | key.expert) ^ spread(key.version));
    }
  };
  SlabNumber number = 0;
  Slots slots;
  std::vector<TransferNumber> transfer_in;  // by slot; 0: none
  FlatMap<Key, TransferNumber, KeyHash> index;
  std::array<std::deque<WantRef>, kClasses> starved;
  std::set<TransferNumber> yielding;  // filling slots for less than a demand, which may take them back
  bool feeding = false;
  std::optional<LaneNumber> copies;  // add_slab
  bool direct = false;               // likewise
  std::uint32_t under_way = 0;       // queued chunks
  GateLimits gate_limits;
  std::uint32_t gates = 0;              // shut, or not passed yet by the GPU
  std::vector<std::uint32_t> landings;  // free ones
  std::deque<WantRef> gateable;         // on a stream, and what they wait for is still to come; may be gone meanwhile

  /// For a credit, and is at least so urgent.
  bool anybody_waits(Class urgency) const {
    for (std::size_t c = 0; c <= static_cast<std::size_t>(urgency); ++c) {
      if (!starved[c].empty()) return true;
    }
    return false;
  }
};

struct Core::Transfer {
  struct Chunk {
    ChunkRange range;
    Class urgency = Class::kDemand;  // when it was started
    bool done = false;
    bool queued = false;  // chunk_queued
    bool flying = false;
    LaneNumber lane = 0;     // on which it was started
    cache::SlotCopy pulled;  // from there, if its state says so
    Clock::time_point started{};
  };
  TransferNumber number = 0;
  SlabNumber slab = 0;
  SlotIndex slot = 0;
  LayerNumber layer = 0;
  ExpertIndex expert = 0;
  Version version = 0;
  SourceOption source;
  Class urgency = Class::kDemand;
  Lane::Order order = 0;  // among the transfers of its class
  SegmentMask requested = 0;
  SegmentMask present = 0;
  std::vector<Chunk> chunks;
  std::array<std::uint32_t, CARDEA_MAX_SEGMENTS> missing{};  // chunks still to come, by segment
  std::array<std::uint32_t, CARDEA_MAX_SEGMENTS> coming{};   // of them, those queued (chunk_queued)
  std::size_t next_chunk = 0;
  std::uint32_t in_flight = 0;
  std::uint32_t pins = 0;                                    // wants attached: moving, ready or delivered
  std::vector<WantRef> waiting;                              // of them, those not ready
  std::array<std::optional<Lane::Place>, kMaxRails> queued;  // by rail
  bool abandoned = false;
  bool spare = false;
  bool by_gpu = false;  // copied from mapped memory, which stays when its rank dies
  bool read = false;    // some demand got it; else its bytes were wasted when it is dropped
  std::uint64_t bytes_done = 0;
  // into the node cache: `chunks` are all of the expert's, whoever moves them
  cache::EntryIndex entry = cache::kNoEntry;
  std::size_t first_open = 0;  // chunks before it are done
  bool moved_here = false;     // this rank has moved some of it
  std::optional<Clock::time_point> recheck;
  TransferNumber origin = 0;  // out of the node cache: the transfer that holds the entry
  // out of the node cache, together with other ranks: chunks are the entry's
  bool swaps = false;
  bool offered = false;          // others may pull from its slot
  bool shared = false;           // others have wanted it in their slots
  bool streams = false;          // begun before all of it was in the node cache
  bool leaving = false;          // nobody here needs its slot any more, but others still pull from it
  cache::LocalMask avoided = 0;  // from whom a pull has failed
  // out of slots of ranks that have all of it (placed.cc)
  cache::EntryIndex pulled_entry = cache::kNoEntry;  // pinned for that
  cache::SlotCopy pulled_from;                       // from there, once it has begun
  // out of host memory into a slot on the device, once for all (shares.cc)
  cache::EntryIndex shared_entry = cache::kNoEntry;  // pinned for that: in shared_
  bool claims = false;                               // this rank copies it
  Clock::time_point leaves_at{};                     // while leaving: not before others have had the time to pull it
  // all of it is here, for others to pull
  cache::Offer offer;
  bool kept = false;       // on offer: in kept_offers_
  bool withdrawn = false;  // not any more, but somebody may still pull from here: in withdrawn_
  // gated.cc
  std::uint32_t landing = UINT32_MAX;  // it fills that one of its slab's, and no slot
  bool gated = false;                  // its only chunk is behind a gate, or was
  std::vector<ChunkNumber> gates;      // that are shut until this is whole

  bool is_queued() const {
    return std::any_of(queued.begin(), queued.end(), [](const auto& place) { return place.has_value(); });
  }
  void add_chunk(const ChunkRange& range) {
    chunks.emplace_back().range = range;
    for_each_segment(range.segments, [&](std::size_t i) { ++missing[i]; });
  }
  void arrived(Chunk& chunk) {
    chunk.done = true;
    bytes_done += chunk.range.bytes;
    for_each_segment(chunk.range.segments, [&](std::size_t i) {
      if (--missing[i] == 0) present |= SegmentMask{1} << i;
    });
  }
  /// Whether a want of the fetch is ready with what is here, or, on a stream, with what is queued.
  bool has(const FetchSpec& spec) const {
    const SegmentMask absent = spec.segments & ~present;
    if (absent == 0) return true;
    if (!spec.on_stream || (absent & ~requested) != 0) return false;
    bool comes = true;
    for_each_segment(absent, [&](std::size_t i) { comes = comes && missing[i] == coming[i]; });
    return comes;
  }
  bool cached() const { return entry != cache::kNoEntry; }
  bool slotless() const { return cached() || landing != UINT32_MAX; }
  bool complete() const { return in_flight == 0 && (cached() ? (requested & ~present) == 0 : next_chunk == chunks.size()); }
  void recycle() {
    constexpr std::size_t kManyChunks = 4096;  // memory for more is not kept
    Transfer fresh;
    if (chunks.capacity() <= kManyChunks) fresh.chunks.swap(chunks);
    fresh.chunks.clear();
    fresh.waiting.swap(waiting);
    fresh.waiting.clear();
    *this = std::move(fresh);
  }
  static ChunkNumber token(TransferNumber transfer, std::size_t chunk) { return transfer << 24 | chunk; }
  static TransferNumber transfer_of(ChunkNumber token) { return token >> 24; }
  static std::size_t chunk_of(ChunkNumber token) { return token & 0xFFFFFF; }
};

/// A chunk after chunk_queued. Its transfer may end before it is done, and its slot be filled anew.
struct Core::QueuedChunk {
  LayerNumber layer = 0;
  LaneNumber lane = 0;
  SlabNumber slab = 0;
  Class urgency = Class::kDemand;
  telemetry::Chunk facts;  // for the recorder
  Clock::time_point started{};
  TransferNumber origin = 0;                         // in the node cache, which must stay until it is done
  cache::EntryIndex pulled_entry = cache::kNoEntry;  // Transfer's, which must stay until it is done
  cache::SlotCopy pulled_from;
  std::uint64_t claimed_bytes = 0;  // if it is a claim
  Version version = 0;
  std::vector<FetchNumber> fetches;  // with ready wants that depend on it
  void recycle() {
    QueuedChunk fresh;
    fresh.fetches.swap(fetches);
    fresh.fetches.clear();
    *this = std::move(fresh);
  }
};

struct Core::View {
  FetchNumber fetch = 0;
  LayerNumber layer = 0;
  ExpertIndex expert = 0;
  Version version = 0;
  TransferNumber transfer = 0;  // 0: nothing moved
  void recycle() {}
};

struct Core::Choice {
  enum class Kind : std::uint8_t { kUse, kPark, kStale, kLost } kind = Kind::kLost;
  const SourceOption* source = nullptr;
  Status why;
};

}  // namespace cardea::core
