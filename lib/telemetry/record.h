// SPDX-License-Identifier: Apache-2.0
// What happens in a rank, as fixed-size records: the one stream from which counters, event logs, traces and dumps are made.
// Plain values of 64 bytes; made without allocation, formatted by whoever reads them (event_text.h). docs/telemetry.md
// tells what each means.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cardea/cardea.h"
#include "lib/base/types.h"

namespace cardea::telemetry {

enum class What : std::uint8_t {
  kNone = 0,
  // requests of this rank
  kFetch,    // id, layer, version, urgency, flags, segments, deadline, count of experts; their indices follow in kNumbers
  kTake,     // id, count
  kRelease,  // id, expert
  kWait,     // id: a waiting thread changed something
  kCancel,   // id
  kDestroy,  // id
  kPublish,  // layer, version; likewise the next two
  kFinish,
  kCollect,  // when it succeeded
  kLeave,    // the context was destroyed
  // what followed
  kStart,   // a chunk: id (its number), layer, expert, version, bytes, extra (offset), peer (source), lane, urgency, path
  kDone,    // the same with its status; extra: ns on the way
  kReady,   // id (fetch), layer, expert, version, peer (source), urgency, path; extra: ns since the fetch
  kFailed,  // id (fetch), layer, expert, version, peer (at fault), urgency, path, status
  kTold,    // by peer: count (Notice::Kind), layer, version
  kLost,    // peer; count: 1 if it left of its own will
  kLend,    // to peer: id (lease), layer, expert, version, bytes
  kReturn,  // id (lease), bytes (sent)
  kCopied,  // copies of this rank's GPU that went together, told when they are done: lane (GpuQueue), id (number of the
            // queue's), bytes, count of experts or chunks; by the device's own time, extra: ns that they took, version: ns
            // ago that they began
  // about the job
  kLayer,    // layer, id (framework's number), count of experts, bytes of one, extra (segments), peer (members), path (of
             // experts of the node); the home of each expert follows in kNumbers
  kNumbers,  // continues the record before: a list of numbers, count of them in all
};
inline constexpr std::size_t kWhats = static_cast<std::size_t>(What::kNumbers) + 1;

/// Of kCopied, in Record::lane.
enum class GpuQueue : std::uint8_t { kPull, kUpload, kDownload };

/// Flags of kFetch, in Record::path.
inline constexpr std::uint8_t kGang = 1, kIntoSlots = 2, kWantsViews = 4;

struct Body {
  std::uint64_t id = 0;
  std::uint64_t version = 0;
  std::uint64_t bytes = 0;  // of kFetch: mask of segments
  std::uint64_t extra = 0;  // of kFetch: deadline, ns of the steady clock, 0: none
  std::uint32_t layer = 0;  // core::LayerNumber, from 1
  std::uint32_t expert = kNoExpert;
  std::uint32_t peer = kNoRank;
  std::uint32_t count = 0;
};

inline constexpr std::size_t kNumbersPerRecord = sizeof(Body) / sizeof(std::uint32_t);
using Numbers = std::array<std::uint32_t, kNumbersPerRecord>;

struct Record {
  std::int64_t when = 0;  // ns of the steady clock
  What what = What::kNone;
  std::uint8_t urgency = 0;  // core::Class
  std::uint8_t path = 0;     // cardea_path_t
  std::uint8_t lane = 0;     // core::LaneNumber
  std::int32_t status = 0;   // cardea_status_t; of kNumbers: how many it holds
  Body body;

  Numbers numbers() const { return std::bit_cast<Numbers>(body); }
};
static_assert(sizeof(Body) == 48 && sizeof(Record) == 64 && std::is_trivially_copyable_v<Record>);

/// A chunk as whoever moves it knows it.
struct Chunk {
  std::uint64_t number = 0;
  std::uint64_t version = 0, offset = 0, bytes = 0;
  std::uint32_t layer = 0, expert = 0, source = kNoRank;
  std::uint32_t lane = 0;
  std::uint8_t urgency = 0, path = 0;
};

/// A want that became ready or failed.
struct Outcome {
  std::uint64_t fetch = 0, version = 0;
  std::uint32_t layer = 0, expert = 0, peer = kNoRank;
  std::uint8_t urgency = 0, path = 0;
};

/// "demand", "gradient", "prefetch", "placement".
const char* class_name(std::uint8_t urgency);

}  // namespace cardea::telemetry
