// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/event_text.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

namespace cardea::telemetry {
namespace {

/// Statuses are positive in logs.
std::uint64_t code(std::int32_t status) {
  return static_cast<std::uint64_t>(-static_cast<std::int64_t>(status));
}

std::uint32_t from_zero(std::uint32_t layer) {
  return layer - 1;
}

}  // namespace

void EventText::add(const Record& record, std::string& out) {
  if (record.what == What::kNumbers) {
    if (pending_.what == What::kNone) return;
    const Numbers some = record.numbers();
    const auto count = std::min<std::size_t>(static_cast<std::size_t>(record.status), kNumbersPerRecord);
    numbers_.insert(numbers_.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(count));
    if (numbers_.size() >= pending_.body.count) flush(out);
    return;
  }
  flush(out);
  if ((record.what == What::kFetch || record.what == What::kLayer) && record.body.count != 0) {
    pending_ = record;
    return;
  }
  write(record, out);
}

void EventText::flush(std::string& out) {
  if (pending_.what == What::kNone) return;
  write(std::exchange(pending_, Record{}), out);
  numbers_.clear();
}

void EventText::write(const Record& record, std::string& out) const {
  const Body& body = record.body;
  const auto to = std::back_inserter(out);
  const bool whole = numbers_.size() == body.count;
  const auto list = [&](const char* name) {
    if (!whole) fmt::format_to(to, " incomplete=1");
    if (!numbers_.empty()) fmt::format_to(to, " {}={}", name, fmt::join(numbers_, ","));
    out += '\n';
  };
  if (record.what == What::kLayer) {
    fmt::format_to(to, "# layer number={} id={} experts={} segments={} expert-bytes={} members={} node-path={}",
                   from_zero(body.layer), body.id, body.count, body.extra, body.bytes, body.peer, record.path);
    return list("homes");
  }
  fmt::format_to(to, "{} {} ", record.when - base_, self_);
  switch (record.what) {
    case What::kFetch: {
      // A deadline that has passed already is still one.
      const std::int64_t left = static_cast<std::int64_t>(body.extra) - base_;
      fmt::format_to(to, "fetch id={} layer={} version={} class={} gang={:d} slots={:d} views={:d} segments={} deadline={}",
                     body.id, from_zero(body.layer), body.version, record.urgency, (record.path & kGang) != 0,
                     (record.path & kIntoSlots) != 0, (record.path & kWantsViews) != 0, body.bytes,
                     body.extra == 0 ? 0 : std::max<std::int64_t>(left, 1));
      return list("experts");
    }
    case What::kTake:
      fmt::format_to(to, "take id={} count={}", body.id, body.count);
      break;
    case What::kRelease:
      fmt::format_to(to, "release id={} expert={}", body.id, body.expert);
      break;
    case What::kWait:
      fmt::format_to(to, "wait id={}", body.id);
      break;
    case What::kCancel:
      fmt::format_to(to, "cancel id={}", body.id);
      break;
    case What::kDestroy:
      fmt::format_to(to, "destroy id={}", body.id);
      break;
    case What::kPublish:
      fmt::format_to(to, "publish layer={} version={}", from_zero(body.layer), body.version);
      break;
    case What::kFinish:
      fmt::format_to(to, "finish layer={} version={}", from_zero(body.layer), body.version);
      break;
    case What::kCollect:
      fmt::format_to(to, "collect layer={} version={}", from_zero(body.layer), body.version);
      break;
    case What::kLeave:
      fmt::format_to(to, "leave");
      break;
    case What::kStart:
      fmt::format_to(to,
                     "start chunk={} lane={} layer={} expert={} version={} source={} offset={} bytes={} class={} path={}",
                     body.id, record.lane, from_zero(body.layer), body.expert, body.version, body.peer, body.extra,
                     body.bytes, record.urgency, record.path);
      break;
    case What::kDone:
      fmt::format_to(to, "done chunk={} lane={} layer={} expert={} source={} bytes={} took={} status={}", body.id,
                     record.lane, from_zero(body.layer), body.expert, body.peer, body.bytes, body.extra,
                     code(record.status));
      break;
    case What::kReady:
      fmt::format_to(to, "ready id={} layer={} expert={} version={} path={} source={} after={}", body.id,
                     from_zero(body.layer), body.expert, body.version, record.path, body.peer, body.extra);
      break;
    case What::kFailed:
      fmt::format_to(to, "failed id={} layer={} expert={} version={} status={} peer={}", body.id, from_zero(body.layer),
                     body.expert, body.version, code(record.status), body.peer);
      break;
    case What::kTold:
      fmt::format_to(to, "told by={} kind={} layer={} version={}", body.peer, body.count, from_zero(body.layer),
                     body.version);
      break;
    case What::kLost:
      fmt::format_to(to, "lost peer={} left={}", body.peer, body.count);
      break;
    case What::kLend:
      fmt::format_to(to, "lend lease={} to={} layer={} expert={} version={} bytes={}", body.id, body.peer,
                     from_zero(body.layer), body.expert, body.version, body.bytes);
      break;
    case What::kReturn:
      fmt::format_to(to, "return lease={} bytes={}", body.id, body.bytes);
      break;
    case What::kCopied:
      fmt::format_to(to, "copied queue={} number={} bytes={} count={} began-ago={} took={}", record.lane, body.id,
                     body.bytes, body.count, body.version, body.extra);
      break;
    case What::kNone:
    case What::kLayer:
    case What::kNumbers:
      break;
  }
  out += '\n';
}

}  // namespace cardea::telemetry
