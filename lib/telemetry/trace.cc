// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "cardea/cardea.h"

namespace cardea::telemetry {
namespace {

constexpr std::int64_t kDay = 86'400'000'000'000;
constexpr std::size_t kRequests = 0, kViews = 1, kServing = 2, kFirstLane = 3;
// Perfetto lists the threads of a process by their numbers, but the one first that has the process's own: ranks lie below.
constexpr std::uint32_t kRowsPerTrack = 10'000;
constexpr std::uint32_t kVersions = 100'000;  // the thread of moments

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') out += '\\';
    if (static_cast<unsigned char>(letter) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(letter));
    } else {
      out += letter;
    }
  }
  return out + '"';
}

const char* path_name(std::uint8_t path) {
  return cardea_path_string(static_cast<cardea_path_t>(path));
}

std::string expert_name(std::uint32_t layer, std::uint32_t expert) {
  return fmt::format("L{} E{}", layer - 1, expert);
}

}  // namespace

TraceSink::TraceSink(OutputFile file, const JobFacts& facts)
    : file_(std::move(file)),
      self_(facts.self),
      first_queue_(kFirstLane + facts.lanes.size()),
      shift_(facts.wall % kDay - facts.began) {
  std::vector<std::string> names = {"requests", "views", "serving"};
  names.insert(names.end(), facts.lanes.begin(), facts.lanes.end());
  for (const char* queue : {"gpu pulls", "gpu uploads", "gpu downloads"}) names.emplace_back(queue);
  // In the order in which a reader wants them: requests, lanes, the GPU's queues, views, serving.
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::size_t place = i == kRequests ? 1 : i >= kFirstLane ? i - kFirstLane + 2 : names.size() + i;
    tracks_.push_back({names[i], kVersions + static_cast<std::uint32_t>(place) * kRowsPerTrack});
  }
  file_.buffer() += "[\n";
  event(fmt::format("\"ph\":\"M\",\"name\":\"cardea_job\",\"tid\":0,\"args\":{{\"rank\":{},\"ranks\":{},\"day\":{}}}", self_,
                    facts.node_of.size(), facts.wall / kDay));
  event(fmt::format("\"ph\":\"M\",\"name\":\"process_name\",\"tid\":0,\"args\":{{\"name\":{}}}",
                    json_string(fmt::format("rank {} on node {} ({})", self_, facts.node_of[self_], facts.host))));
  event(fmt::format("\"ph\":\"M\",\"name\":\"process_sort_index\",\"tid\":0,\"args\":{{\"sort_index\":{}}}", self_));
  name_thread(kVersions, "versions");
}

// ---------------------------------------------------------------- events

std::string TraceSink::time(std::int64_t when) const {
  const std::int64_t nanoseconds = when + shift_;
  return fmt::format("{}.{:03}", nanoseconds / 1000, nanoseconds % 1000);
}

void TraceSink::event(const std::string& body) {
  fmt::format_to(std::back_inserter(file_.buffer()), "{{\"pid\":{},{}}},\n", self_, body);
  file_.write_if_full();
}

void TraceSink::name_thread(std::uint32_t thread, const std::string& name) {
  event(fmt::format("\"ph\":\"M\",\"name\":\"thread_name\",\"tid\":{},\"args\":{{\"name\":{}}}", thread, json_string(name)));
  event(fmt::format("\"ph\":\"M\",\"name\":\"thread_sort_index\",\"tid\":{0},\"args\":{{\"sort_index\":{0}}}", thread));
}

void TraceSink::begin(std::int64_t when, std::uint32_t thread, const std::string& name, const std::string& arguments) {
  event(fmt::format("\"ph\":\"B\",\"ts\":{},\"tid\":{},\"cat\":\"cardea\",\"name\":{},\"args\":{{{}}}", time(when), thread,
                    json_string(name), arguments));
}

void TraceSink::end(std::int64_t when, std::uint32_t thread, const std::string& arguments) {
  event(fmt::format("\"ph\":\"E\",\"ts\":{},\"tid\":{},\"args\":{{{}}}", time(when), thread, arguments));
  leave(thread);
}

void TraceSink::flow(std::int64_t when, std::uint32_t thread, char phase, std::uint64_t number) {
  event(fmt::format("\"ph\":\"{}\",\"ts\":{},\"tid\":{},\"cat\":\"cardea\",\"name\":\"expert\",\"id\":\"{:#x}\"{}", phase,
                    time(when), thread, (std::uint64_t{self_} << 40) | number, phase == 'f' ? ",\"bp\":\"e\"" : ""));
}

void TraceSink::moment(std::int64_t when, const std::string& name, const std::string& arguments) {
  event(fmt::format("\"ph\":\"i\",\"s\":\"t\",\"ts\":{},\"tid\":{},\"cat\":\"cardea\",\"name\":{},\"args\":{{{}}}",
                    time(when), kVersions, json_string(name), arguments));
}

std::uint32_t TraceSink::enter(Track& track) {
  const auto free = std::find(track.taken.begin(), track.taken.end(), false);
  const auto row = static_cast<std::size_t>(free - track.taken.begin());
  const auto thread = static_cast<std::uint32_t>(track.first_thread + row % kRowsPerTrack);
  if (free == track.taken.end()) {
    track.taken.push_back(true);
    name_thread(thread, row == 0 ? track.name : fmt::format("{} {}", track.name, row + 1));
    rows_[thread] = {static_cast<std::size_t>(&track - tracks_.data()), row};
  } else {
    *free = true;
  }
  return thread;
}

void TraceSink::leave(std::uint32_t thread) {
  const auto row = rows_.find(thread);
  if (row != rows_.end()) tracks_[row->second.first].taken[row->second.second] = false;
}

// ---------------------------------------------------------------- records

void TraceSink::write(std::span<const Record> records) {
  for (const Record& record : records) one(record);
}

void TraceSink::one(const Record& record) {
  const Body& body = record.body;
  if (filling_ != 0 && record.what != What::kNumbers) {
    // Its list broke off: what is known of it has to do.
    if (const auto found = fetches_.find(filling_); found != fetches_.end()) open_fetch(filling_, found->second);
    filling_ = 0;
  }
  switch (record.what) {
    case What::kFetch: {
      Fetch& fetch = fetches_[body.id];
      fetch.layer = body.layer;
      fetch.version = body.version;
      fetch.outstanding = body.count;
      fetch.urgency = record.urgency;
      fetch.views = (record.path & kWantsViews) != 0;
      fetch.since = record.when;
      filling_ = body.id;
      return;
    }
    case What::kNumbers: {
      const auto found = filling_ == 0 ? fetches_.end() : fetches_.find(filling_);
      if (found == fetches_.end()) return;
      const Numbers numbers = record.numbers();
      Fetch& fetch = found->second;
      const auto some = std::min<std::size_t>(static_cast<std::size_t>(record.status), kNumbersPerRecord);
      fetch.experts.insert(fetch.experts.end(), numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(some));
      if (fetch.experts.size() < fetch.outstanding) return;
      open_fetch(filling_, fetch);
      filling_ = 0;
      return;
    }
    case What::kReady:
      return outcome(record, record.path);
    case What::kFailed:
      return outcome(record, kFailed);
    case What::kTake:
      return take(record);
    case What::kRelease:
      if (const auto view = views_.extract({body.id, body.expert}); !view.empty()) end(record.when, view.mapped());
      return;
    case What::kDestroy:
      if (const auto fetch = fetches_.find(body.id); fetch != fetches_.end()) {
        close_fetch(fetch->second, record.when);
        for (const std::uint32_t expert : fetch->second.experts) forget_flow(body.id, expert, fetch->second);
        fetches_.erase(fetch);
      }
      return;
    case What::kStart:
      return start(record);
    case What::kDone:
      if (const auto chunk = chunks_.extract(body.id); !chunk.empty()) {
        end(record.when, chunk.mapped(),
            fmt::format("\"status\":{}", json_string(cardea_status_string(static_cast<cardea_status_t>(record.status)))));
      }
      return;
    case What::kLend:
      lent_[body.id] = enter(tracks_[kServing]);
      begin(record.when, lent_[body.id], fmt::format("{} to rank {}", expert_name(body.layer, body.expert), body.peer),
            fmt::format("\"bytes\":{},\"version\":{},\"to\":{}", body.bytes, body.version, body.peer));
      return;
    case What::kReturn:
      if (const auto lease = lent_.extract(body.id); !lease.empty())
        end(record.when, lease.mapped(), fmt::format("\"sent\":{}", body.bytes));
      return;
    case What::kCopied:
      return copied(record);
    case What::kPublish:
      return moment(record.when, fmt::format("publish L{} v{}", body.layer - 1, body.version), "");
    case What::kFinish:
      return moment(record.when, fmt::format("finish L{} v{}", body.layer - 1, body.version), "");
    case What::kCollect:
      return moment(record.when, fmt::format("collect L{} v{}", body.layer - 1, body.version), "");
    case What::kCancel:
      return moment(record.when, fmt::format("cancel fetch {}", body.id), "");
    case What::kTold:
      return moment(record.when, fmt::format("rank {} told L{} v{}", body.peer, body.layer - 1, body.version),
                    fmt::format("\"kind\":{}", body.count));
    case What::kLost:
      return moment(record.when, fmt::format("rank {} {}", body.peer, body.count != 0 ? "left" : "was lost"), "");
    case What::kLeave:
      return moment(record.when, "leave", "");
    case What::kNone:
    case What::kWait:
    case What::kLayer:
      return;
  }
}

void TraceSink::open_fetch(std::uint64_t id, Fetch& fetch) {
  fetch.open = true;
  fetch.thread = enter(tracks_[kRequests]);
  begin(fetch.since, fetch.thread,
        fmt::format("{} L{} v{}", fetch.views ? "fetch" : "prefetch", fetch.layer - 1, fetch.version),
        fmt::format("\"fetch\":{},\"experts\":{},\"class\":\"{}\"", id, fetch.outstanding, class_name(fetch.urgency)));
  if (!fetch.views) return;
  for (const std::uint32_t expert : fetch.experts) {
    if (!flows_.try_emplace({id, expert}, Flows{{next_flow_}}).second) continue;
    wanted_.emplace(ExpertKey{fetch.layer, expert, fetch.version}, id);
    flow(fetch.since, fetch.thread, 's', next_flow_++);
  }
}

void TraceSink::close_fetch(Fetch& fetch, std::int64_t when) {
  if (!std::exchange(fetch.open, false)) return;
  end(when, fetch.thread, fmt::format("\"outstanding\":{}", fetch.outstanding));
}

/// A chunk has started on `thread`: it lies on the way of all who want its expert.
void TraceSink::pass(const Record& record, std::uint32_t thread) {
  const Body& body = record.body;
  const auto [first, last] = wanted_.equal_range({body.layer, body.expert, body.version});
  for (auto wanted = first; wanted != last; ++wanted) {
    Flows& flows = flows_.at({wanted->second, body.expert});
    const Fetch& fetch = fetches_.at(wanted->second);
    if (std::exchange(flows.moved, true) && fetch.open) {
      flows.numbers.push_back(next_flow_++);
      flow(record.when, fetch.thread, 's', flows.numbers.back());
    }  // else: the request's own, or, after it has ended (a slot was taken back), on from the chunk before
    flow(record.when, thread, 't', flows.numbers.back());
  }
}

void TraceSink::forget_flow(std::uint64_t id, std::uint32_t expert, const Fetch& fetch) {
  if (flows_.erase({id, expert}) == 0) return;
  const auto [first, last] = wanted_.equal_range({fetch.layer, expert, fetch.version});
  const auto mine = std::find_if(first, last, [&](const auto& wanted) { return wanted.second == id; });
  if (mine != last) wanted_.erase(mine);
}

void TraceSink::outcome(const Record& record, std::uint8_t path) {
  const auto found = fetches_.find(record.body.id);
  if (found == fetches_.end()) return;
  Fetch& fetch = found->second;
  // An expert whose slot was taken back before it was delivered becomes ready a second time.
  const std::uint32_t expert = record.body.expert;
  const bool again = std::erase_if(fetch.ready, [&](const auto& ready) { return ready.first == expert; }) != 0;
  if (fetch.views) fetch.ready.emplace_back(expert, path);
  if (path == kFailed) forget_flow(found->first, expert, fetch);
  if (!again && fetch.outstanding != 0 && --fetch.outstanding == 0) close_fetch(fetch, record.when);
}

void TraceSink::take(const Record& record) {
  const auto found = fetches_.find(record.body.id);
  if (found == fetches_.end()) return;
  Fetch& fetch = found->second;
  for (std::uint32_t i = 0; i < record.body.count && !fetch.ready.empty(); ++i) {
    const auto [expert, path] = fetch.ready.front();
    fetch.ready.pop_front();
    if (path == kFailed) continue;
    const std::uint32_t thread = enter(tracks_[kViews]);
    views_[{found->first, expert}] = thread;
    begin(record.when, thread, fmt::format("{} by {}", expert_name(fetch.layer, expert), path_name(path)),
          fmt::format("\"fetch\":{},\"version\":{}", found->first, fetch.version));
    if (const auto flows = flows_.find({found->first, expert}); flows != flows_.end()) {
      for (const std::uint64_t number : flows->second.numbers) flow(record.when, thread, 'f', number);
      forget_flow(found->first, expert, fetch);
    }
  }
}

void TraceSink::start(const Record& record) {
  const Body& body = record.body;
  Track& track = tracks_[std::min(kFirstLane + record.lane, first_queue_ - 1)];
  const std::uint32_t thread = enter(track);
  chunks_[body.id] = thread;
  begin(record.when, thread, fmt::format("{} from rank {}", expert_name(body.layer, body.expert), body.peer),
        fmt::format("\"chunk\":{},\"offset\":{},\"bytes\":{},\"class\":\"{}\",\"path\":\"{}\",\"version\":{},\"source\":{}",
                    body.id, body.extra, body.bytes, class_name(record.urgency), path_name(record.path), body.version,
                    body.peer));
  pass(record, thread);
}

/// One after the other on the device, so one row does, and whole slices, since they are told when they are over.
void TraceSink::copied(const Record& record) {
  const Body& body = record.body;
  const std::size_t queue = std::min<std::size_t>(record.lane, queue_until_.size() - 1);
  Track& track = tracks_[first_queue_ + queue];
  // A microsecond may be missing where the device's time was compared with the host's anew; slices do not overlap for it.
  const std::int64_t end = record.when - static_cast<std::int64_t>(body.version) + static_cast<std::int64_t>(body.extra);
  const std::int64_t begin = std::max(end - static_cast<std::int64_t>(body.extra), queue_until_[queue]);
  const auto took = static_cast<std::uint64_t>(std::max<std::int64_t>(end - begin, 0));
  queue_until_[queue] = begin + static_cast<std::int64_t>(took);
  if (track.taken.empty()) {
    track.taken.push_back(true);
    name_thread(track.first_thread, track.name);
  }
  const double seconds = static_cast<double>(body.extra) * 1e-9;
  event(fmt::format(
      "\"ph\":\"X\",\"ts\":{},\"dur\":{}.{:03},\"tid\":{},\"cat\":\"gpu\",\"name\":\"{} copies, {:.1f} MB\","
      "\"args\":{{\"batch\":{},\"bytes\":{},\"GB/s\":{:.1f}}}",
      time(begin), took / 1000, took % 1000, track.first_thread, body.count, static_cast<double>(body.bytes) * 1e-6, body.id,
      body.bytes, seconds > 0 ? static_cast<double>(body.bytes) * 1e-9 / seconds : 0.0));
}

void TraceSink::lost(std::uint64_t records) {
  event(fmt::format("\"ph\":\"M\",\"name\":\"cardea_lost\",\"tid\":0,\"args\":{{\"records\":{}}}", records));
}

void TraceSink::close() {
  // The one event without a comma behind it.
  fmt::format_to(std::back_inserter(file_.buffer()),
                 "{{\"pid\":{},\"ph\":\"M\",\"name\":\"cardea_end\",\"tid\":0,\"args\":{{}}}}\n]\n", self_);
  file_.flush();
}

}  // namespace cardea::telemetry
