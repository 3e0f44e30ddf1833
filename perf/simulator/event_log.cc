// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/event_log.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <istream>
#include <map>
#include <optional>
#include <set>

namespace cardea::simulator {
namespace {

using What = LoggedRequest::What;

constexpr std::string_view kHeader = "# cardea events 1";
constexpr std::string_view kPlan = "# plan ";

std::optional<What> request_named(std::string_view name) {
  static const std::map<std::string_view, What> names = {
      {"publish", What::kPublish}, {"fetch", What::kFetch},     {"take", What::kTake},     {"release", What::kRelease},
      {"cancel", What::kCancel},   {"destroy", What::kDestroy}, {"finish", What::kFinish}, {"collect", What::kCollect},
      {"leave", What::kLeave},     {"die", What::kDie},         {"stop", What::kStop},     {"wait", What::kWait}};
  const auto found = names.find(name);
  return found == names.end() ? std::nullopt : std::optional(found->second);
}

std::string_view next_word(std::string_view& rest) {
  const std::string_view word = rest.substr(0, rest.find(' '));
  rest.remove_prefix(std::min(rest.size(), word.size() + 1));
  return word;
}

bool number(std::string_view text, std::uint64_t& value) {
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc() && end.ptr == text.data() + text.size();
}

bool set(LoggedRequest& request, std::string_view word) {
  const std::size_t equals = word.find('=');
  if (equals == std::string_view::npos) return false;
  const std::string_view name = word.substr(0, equals);
  std::string_view value = word.substr(equals + 1);
  if (name == "experts") {
    while (!value.empty()) {
      const std::string_view one = value.substr(0, value.find(','));
      value.remove_prefix(std::min(value.size(), one.size() + 1));
      std::uint64_t expert = 0;
      if (!number(one, expert) || expert > UINT32_MAX) return false;
      request.experts.push_back(static_cast<ExpertIndex>(expert));
    }
    return true;
  }
  const std::pair<std::string_view, std::uint64_t*> known[] = {
      {"id", &request.id},         {"layer", &request.layer},       {"version", &request.version},
      {"expert", &request.expert}, {"count", &request.count},       {"for", &request.nanoseconds},
      {"class", &request.urgency}, {"gang", &request.gang},         {"slots", &request.slots},
      {"views", &request.views},   {"segments", &request.segments}, {"deadline", &request.deadline}};
  for (const auto& [known_name, at] : known) {
    if (name == known_name) return number(value, *at);
  }
  return false;
}

/// Why the request makes no sense after those before; empty if it does.
std::string wrong(const LoggedRequest& request, const Plan& plan, std::set<std::pair<Rank, std::uint64_t>>& fetches) {
  if (request.rank >= plan.ranks()) return fmt::format("rank {} of {}", request.rank, plan.ranks());
  const bool of_layer = request.what == What::kPublish || request.what == What::kFetch || request.what == What::kFinish ||
                        request.what == What::kCollect;
  if (of_layer && request.layer >= plan.layers) return fmt::format("layer {} of {}", request.layer, plan.layers);
  if (request.version == kNoVersion) return "no version";
  const bool of_fetch = request.what == What::kTake || request.what == What::kRelease || request.what == What::kCancel ||
                        request.what == What::kDestroy || request.what == What::kWait;
  if (of_fetch && !fetches.contains({request.rank, request.id})) return fmt::format("fetch {} is unknown", request.id);
  if (request.what == What::kDestroy) fetches.erase({request.rank, request.id});
  if (request.what != What::kFetch) return {};
  if (!fetches.emplace(request.rank, request.id).second) return fmt::format("fetch {} is open already", request.id);
  if (request.urgency > 3) return fmt::format("class {}", request.urgency);
  if (request.experts.empty()) return "a fetch of no experts";
  for (const ExpertIndex expert : request.experts) {
    if (expert >= plan.experts) return fmt::format("expert {} of {}", expert, plan.experts);
  }
  if (request.segments == 0 || request.segments >> plan.segments != 0) return fmt::format("segments {}", request.segments);
  return {};
}

}  // namespace

void EventLog::begin(const Plan& plan) {
  if (file_ == nullptr) return;
  fmt::print(file_, "{}\n{}{}\n", kHeader, kPlan, to_line(plan));
}

void EventLog::event(Clock::time_point when, Rank rank, const char* what, std::initializer_list<EventArgument> arguments,
                     std::span<const ExpertIndex> experts) {
  ++events_;
  const auto nanoseconds = static_cast<std::uint64_t>(when.time_since_epoch().count());
  mix(nanoseconds);
  mix(rank);
  for (const char* letter = what; *letter != 0; ++letter) mix(static_cast<std::uint64_t>(*letter));
  for (const EventArgument& argument : arguments) mix(argument.value);
  for (const ExpertIndex expert : experts) mix(expert);
  if (file_ == nullptr) return;
  fmt::print(file_, "{} {} {}", nanoseconds, rank, what);
  for (const EventArgument& argument : arguments) fmt::print(file_, " {}={}", argument.name, argument.value);
  if (!experts.empty()) fmt::print(file_, " experts={}", fmt::join(experts, ","));
  std::fputc('\n', file_);
}

Result<RecordedRun> read_log(std::istream& in) {
  RecordedRun run;
  std::uint64_t at = 0;
  const auto refuse = [&](std::string_view why) {
    return Status::error(CARDEA_ERR_PROTOCOL, "line {} of the log: {}", at, why);
  };
  std::string line;
  ++at;
  if (!std::getline(in, line) || line != kHeader) return refuse(fmt::format("must be \"{}\"", kHeader));
  std::set<std::pair<Rank, std::uint64_t>> fetches;
  std::map<Rank, std::uint64_t> last;
  while (std::getline(in, line)) {
    ++at;
    if (line.starts_with(kPlan)) {
      Result<Plan> plan = from_line(std::string_view(line).substr(kPlan.size()));
      if (!plan.ok()) return refuse(plan.status().message());
      if (!run.requests.empty()) return refuse("a plan after requests, which were read by another");
      run.plan = *plan;
      continue;
    }
    if (line.empty() || line.front() == '#') continue;
    std::string_view rest = line;
    LoggedRequest request;
    std::uint64_t rank = 0;
    if (!number(next_word(rest), request.when) || request.when > std::uint64_t{1} << 62)
      return refuse("begins with no time");
    if (!number(next_word(rest), rank) || rank > UINT32_MAX) return refuse("names no rank");
    request.rank = static_cast<Rank>(rank);
    const auto what = request_named(next_word(rest));
    if (!what) continue;  // an event: it follows from the requests
    request.what = *what;
    while (!rest.empty()) {
      const std::string_view word = next_word(rest);
      if (!set(request, word)) return refuse(fmt::format("\"{}\" makes no sense", word));
    }
    if (const std::string why = wrong(request, run.plan, fetches); !why.empty()) return refuse(why);
    if (std::exchange(last[request.rank], request.when) > request.when) return refuse("the rank's time goes back");
    run.requests.push_back(std::move(request));
  }
  return run;
}

}  // namespace cardea::simulator
