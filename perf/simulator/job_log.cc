// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/job_log.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>

namespace cardea::simulator {
namespace {

using What = LoggedRequest::What;
using Words = std::map<std::string, std::string, std::less<>>;

constexpr std::string_view kHeader = "# cardea events 1";
constexpr std::string_view kJob = "# job ";
constexpr std::string_view kLayer = "# layer ";
constexpr std::string_view kLost = "# lost ";
constexpr std::string_view kEnd = "# end";

struct Layer {
  std::uint64_t experts = 0, segments = 0, bytes = 0, members = 0, node_path = 0;
  std::vector<std::uint64_t> homes;
  friend bool operator==(const Layer&, const Layer&) = default;
};

struct RankLog {
  std::uint64_t rank = 0, ranks = 0, chunk_bytes = 0, network_chunks = 0, copy_chunks = 0, cache_bytes = 0, wall = 0;
  std::vector<std::uint64_t> nodes;
  std::map<std::uint64_t, Layer> layers;
  std::vector<LoggedRequest> requests;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> lost;             // when, whom
  std::vector<std::pair<std::uint64_t, std::uint64_t>> network, copies;  // times of chunks: start, end
  std::uint64_t network_bytes = 0, copy_bytes = 0, last = 0;
  bool ended = false;
};

Words words_of(std::string_view line) {
  Words words;
  while (!line.empty()) {
    const std::string_view word = line.substr(0, line.find(' '));
    line.remove_prefix(std::min(line.size(), word.size() + 1));
    const std::size_t equals = word.find('=');
    if (equals != std::string_view::npos) words.emplace(word.substr(0, equals), word.substr(equals + 1));
  }
  return words;
}

bool parse(std::string_view text, std::uint64_t& value) {
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc() && end.ptr == text.data() + text.size();
}

/// Reads numbers of a line and remembers the first that is not there.
class Reader {
 public:
  explicit Reader(std::string_view line) : words_(words_of(line)) {}
  std::uint64_t number(const char* name, std::uint64_t most = std::numeric_limits<std::uint64_t>::max()) {
    std::uint64_t value = 0;
    const auto found = words_.find(name);
    if (found == words_.end() || !parse(found->second, value) || value > most) wrong_ = name;
    return value;
  }
  std::vector<std::uint64_t> numbers(const char* name) {
    std::vector<std::uint64_t> values;
    const auto found = words_.find(name);
    std::string_view rest = found == words_.end() ? std::string_view() : found->second;
    if (rest.empty()) wrong_ = name;
    while (!rest.empty()) {
      const std::string_view one = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), one.size() + 1));
      if (!parse(one, values.emplace_back())) wrong_ = name;
    }
    return values;
  }
  const std::string& wrong() const { return wrong_; }

 private:
  Words words_;
  std::string wrong_;
};

Status refuse(std::size_t log, std::uint64_t line, const std::string& why) {
  return Status::error(CARDEA_ERR_PROTOCOL, "log {}, line {}: {}", log + 1, line, why);
}

std::string read_event(std::string_view line, const std::string& what, std::uint64_t when, RankLog& log,
                       std::map<std::uint64_t, std::uint64_t>& chunks) {
  log.last = std::max(log.last, when);
  if (what == "lost") {
    Reader in(line);
    if (in.number("left") == 0) log.lost.emplace_back(when, in.number("peer"));
    return in.wrong();
  }
  if (what == "start") {
    Reader in(line);
    chunks[in.number("chunk")] = when;
    return in.wrong();
  }
  if (what != "done") return {};
  Reader in(line);
  const auto started = chunks.extract(in.number("chunk"));
  if (started.empty() || in.number("status") != 0) return in.wrong();
  const bool network = in.number("lane") == 0;
  (network ? log.network : log.copies).emplace_back(started.mapped(), when);
  (network ? log.network_bytes : log.copy_bytes) += in.number("bytes");
  return in.wrong();
}

Result<RankLog> read_one(std::istream& in, std::size_t number) {
  RankLog log;
  std::uint64_t at = 1;
  std::string line;
  if (!std::getline(in, line) || line != kHeader) return refuse(number, at, fmt::format("must be \"{}\"", kHeader));
  ++at;
  if (!std::getline(in, line) || !line.starts_with(kJob)) return refuse(number, at, "must tell the job");
  Reader job(line);
  log.rank = job.number("rank");
  log.ranks = job.number("ranks", 65'536);
  log.nodes = job.numbers("nodes");
  log.chunk_bytes = job.number("chunk-bytes");
  log.network_chunks = job.number("network-chunks");
  log.copy_chunks = job.number("copy-chunks");
  log.cache_bytes = job.number("cache-bytes");
  log.wall = job.number("wall", std::uint64_t{1} << 62);
  if (!job.wrong().empty()) return refuse(number, at, fmt::format("\"{}\" is missing or wrong", job.wrong()));
  if (log.nodes.size() != log.ranks || log.rank >= log.ranks) return refuse(number, at, "ranks and nodes do not agree");

  // Requests are read by the one reader of requests; events only where they tell something of the job.
  std::ostringstream requests;
  requests << kHeader << "\n# plan layers=4096 experts=65536 segments=8 expert-bytes=64 nodes=" << log.ranks
           << " ranks-per-node=1 nics=1 slots=1\n";
  std::map<std::uint64_t, std::uint64_t> chunks;
  while (std::getline(in, line)) {
    ++at;
    if (line.starts_with(kLayer)) {
      Reader layer(line);
      Layer& made = log.layers[layer.number("number", 4095)];
      made = {layer.number("experts", 65'536), layer.number("segments"),  layer.number("expert-bytes"),
              layer.number("members"),         layer.number("node-path"), layer.numbers("homes")};
      if (!layer.wrong().empty()) return refuse(number, at, fmt::format("\"{}\" is missing or wrong", layer.wrong()));
      if (made.homes.size() != made.experts) return refuse(number, at, "it does not tell the home of each expert");
      continue;
    }
    if (line.starts_with(kLost)) return refuse(number, at, "records are missing here, so requests may be, too");
    if (line == kEnd) log.ended = true;
    if (line.empty() || line.front() == '#') continue;
    std::istringstream begins(line);
    std::uint64_t when = 0;
    std::string what, rank;
    begins >> when >> rank >> what;
    if (line.find(" incomplete=1") != std::string::npos) return refuse(number, at, "the list is incomplete");
    if (const std::string why = read_event(line, what, when, log, chunks); !why.empty())
      return refuse(number, at, fmt::format("\"{}\" is missing or wrong", why));
    requests << line << '\n';
  }
  std::istringstream again(requests.str());
  Result<RecordedRun> run = read_log(again);
  if (!run.ok()) return run.status().within(fmt::format("log {}, comments left out", number + 1));
  log.requests = std::move(run->requests);
  return log;
}

// ---------------------------------------------------------------- one job of them

/// Time in which any of the spans was open.
std::uint64_t covered(std::vector<std::pair<std::uint64_t, std::uint64_t>> spans) {
  std::sort(spans.begin(), spans.end());
  std::uint64_t sum = 0, until = 0;
  for (const auto& [from, to] : spans) {
    if (to <= until) continue;
    sum += to - std::max(from, until);
    until = to;
  }
  return sum;
}

std::uint64_t rate(std::uint64_t bytes, std::uint64_t nanoseconds, std::uint64_t fallback) {
  if (bytes == 0 || nanoseconds == 0) return fallback;
  const double rate = static_cast<double>(bytes) * 1e9 / static_cast<double>(nanoseconds);
  return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(rate), 1'000'000, std::uint64_t{1} << 43);
}

class Merger {
 public:
  explicit Merger(std::vector<RankLog> logs) : logs_(std::move(logs)) {}

  Result<JobLog> run() {
    if (const Status status = agree(); !status.ok()) return status;
    if (const Status status = describe(); !status.ok()) return status;
    collect();
    if (!wrong_.ok()) return wrong_;
    return std::move(out_);
  }

 private:
  Status agree() {
    std::sort(logs_.begin(), logs_.end(), [](const RankLog& a, const RankLog& b) { return a.rank < b.rank; });
    const RankLog& first = logs_.front();
    for (std::size_t i = 0; i < logs_.size(); ++i) {
      if (logs_[i].ranks != first.ranks || logs_[i].nodes != first.nodes)
        return Status(CARDEA_ERR_MISMATCH, "the logs are of different jobs");
      if (logs_[i].rank != i || (i + 1 == logs_.size() && logs_.size() != first.ranks)) {
        return Status::error(CARDEA_ERR_MISMATCH, "{} logs of {} ranks: rank {}'s is missing or there twice", logs_.size(),
                             first.ranks, logs_[i].rank != i ? std::min<std::uint64_t>(i, logs_[i].rank) : i + 1);
      }
    }
    const auto per_node = static_cast<std::uint64_t>(std::count(first.nodes.begin(), first.nodes.end(), first.nodes[0]));
    for (std::size_t rank = 0; rank < first.nodes.size(); ++rank) {
      if (first.ranks % per_node != 0 || first.nodes[rank] != rank / per_node)
        return Status(CARDEA_ERR_UNSUPPORTED,
                      "a simulated node has as many ranks as every other, numbered one after the other");
    }
    Plan& plan = out_.run.plan;
    plan.ranks_per_node = per_node;
    plan.nodes = first.ranks / per_node;
    return {};
  }

  /// The layers to replay are those over all ranks that have the most bytes.
  Status describe() {
    const RankLog& first = logs_.front();
    std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> shapes;  // bytes, experts → bytes in all
    for (const auto& [number, layer] : first.layers) {
      if (layer.members == first.ranks) shapes[{layer.bytes, layer.experts}] += layer.bytes * layer.experts;
    }
    if (shapes.empty()) return Status(CARDEA_ERR_UNSUPPORTED, "the job had no layer over all ranks");
    const auto [bytes, experts] = std::max_element(shapes.begin(), shapes.end(), [](const auto& a, const auto& b) {
                                    return a.second < b.second;
                                  })->first;
    std::uint64_t others = 0;
    const Layer* chosen = nullptr;
    for (const auto& [number, layer] : first.layers) {
      const bool same = layer.members == first.ranks && layer.bytes == bytes && layer.experts == experts &&
                        (chosen == nullptr || layer == *chosen);
      if (!same) {
        ++others;
        continue;
      }
      chosen = &layer;
      const std::uint64_t next = layers_.size();
      layers_[number] = next;
    }
    if (others != 0) out_.left_out.push_back(fmt::format("{} layers of other groups, shapes or homes", others));
    for (const RankLog& log : logs_) {
      for (const auto& [number, as] : layers_) {
        const auto found = log.layers.find(number);
        if (found == log.layers.end() || found->second.homes != chosen->homes)
          return Status::error(CARDEA_ERR_UNSUPPORTED, "rank {} made its layers in another order than rank 0", log.rank);
      }
    }
    Plan& plan = out_.run.plan;
    plan.layers = layers_.size();
    plan.experts = experts;
    plan.expert_bytes = bytes;
    plan.segments = std::min<std::uint64_t>(chosen->segments, 8);
    if (chosen->segments > 8) return Status(CARDEA_ERR_UNSUPPORTED, "a simulated expert has at most 8 segments");
    plan.mapped = chosen->node_path == CARDEA_PATH_NODE_MAPPED;
    plan.chunk_bytes = first.chunk_bytes;
    plan.network_chunks = first.network_chunks;
    plan.copy_chunks = first.copy_chunks;
    plan.node_cache = first.cache_bytes != 0;
    if (plan.node_cache) plan.cache_bytes = first.cache_bytes;
    plan.nics = 1;
    plan.prefetch = false;
    plan.slots = std::min<std::uint64_t>(experts * plan.layers, 1'000'000);
    plan.dense_time = plan.expert_time = 0;
    out_.left_out.push_back("the sizes of slabs: each has a slot for every expert");
    measure();
    if (const Status status = renumber(*chosen); !status.ok()) return status;
    return check(plan).within("the job as a plan");
  }

  /// Rates as the run itself showed them, while anything was on the way.
  void measure() {
    Plan& plan = out_.run.plan;
    std::uint64_t network = 0, copies = 0;
    for (std::uint64_t node = 0; node < plan.nodes; ++node) {
      std::uint64_t bytes = 0;
      std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
      for (const RankLog& log : logs_) {
        if (log.nodes[log.rank] != node) continue;
        bytes += log.network_bytes;
        spans.insert(spans.end(), log.network.begin(), log.network.end());
        copies = std::max(copies, rate(log.copy_bytes, covered(log.copies), 0));
      }
      network = std::max(network, rate(bytes, covered(std::move(spans)), 0));
    }
    if (network != 0) plan.nic_rate = network;
    if (copies != 0) plan.copy_rate = copies;
  }

  /// A plan has an expert's home follow from its number, so experts are numbered by their homes.
  Status renumber(const Layer& layer) {
    const Plan& plan = out_.run.plan;
    std::vector<std::uint64_t> order(plan.experts);
    std::iota(order.begin(), order.end(), std::uint64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint64_t a, std::uint64_t b) { return layer.homes[a] < layer.homes[b]; });
    as_.resize(plan.experts);
    bool moved = false;
    for (std::uint64_t place = 0; place < plan.experts; ++place) {
      if (layer.homes[order[place]] != plan.home_of(place)) {
        return Status(CARDEA_ERR_UNSUPPORTED, "a simulated layer's experts are divided evenly among the ranks");
      }
      as_[order[place]] = static_cast<ExpertIndex>(place);
      moved |= order[place] != place;
    }
    if (moved) out_.left_out.push_back("the experts' numbers: they are numbered by their homes");
    return {};
  }

  void collect() {
    std::uint64_t base = std::numeric_limits<std::uint64_t>::max();
    for (const RankLog& log : logs_) base = std::min(base, log.wall);
    std::map<std::uint64_t, std::uint64_t> died;  // rank → when
    std::uint64_t begins = std::numeric_limits<std::uint64_t>::max(), ends = 0;
    for (RankLog& log : logs_) {
      const std::uint64_t shift = log.wall - base;
      ends = std::max(ends, log.last + shift);
      for (const auto& [when, whom] : log.lost) {
        const auto [known, fresh] = died.emplace(whom, when + shift);
        if (!fresh) known->second = std::min(known->second, when + shift);
      }
      std::set<std::uint64_t> open;  // fetches of layers that are replayed
      for (LoggedRequest& request : log.requests) {
        if (!keep(request, open)) continue;
        request.when += shift;
        if (request.deadline != 0) request.deadline += shift;
        begins = std::min(begins, request.when);
        out_.run.requests.push_back(std::move(request));
      }
    }
    for (const auto& [rank, when] : died) {
      if (rank >= logs_.size() || logs_[rank].ended) continue;  // it closed its log: others gave it up, it did not die
      LoggedRequest death;
      death.when = when;
      death.rank = static_cast<Rank>(rank);
      death.what = What::kDie;
      out_.run.requests.push_back(death);
    }
    std::stable_sort(out_.run.requests.begin(), out_.run.requests.end(),
                     [](const LoggedRequest& a, const LoggedRequest& b) { return a.when < b.when; });
    if (begins == std::numeric_limits<std::uint64_t>::max()) begins = 0;
    for (LoggedRequest& request : out_.run.requests) {
      request.when -= std::min(request.when, begins);
      if (request.deadline != 0) request.deadline -= std::min(request.deadline - 1, begins);
    }
    out_.nanoseconds = ends - std::min(ends, begins);
  }

  /// Whether the request is of a layer that is replayed; its layer and experts get the plan's numbers.
  bool keep(LoggedRequest& request, std::set<std::uint64_t>& open) {
    switch (request.what) {
      case What::kPublish:
      case What::kFinish:
      case What::kCollect:
      case What::kFetch: {
        const auto layer = layers_.find(request.layer);
        if (layer == layers_.end()) return false;
        request.layer = layer->second;
        if (request.what != What::kFetch) return true;
        for (ExpertIndex& expert : request.experts) expert = as(request.rank, expert);
        if (request.slots != 0) out_.run.plan.mapped = false;
        open.insert(request.id);
        return true;
      }
      case What::kRelease:
        if (!open.contains(request.id)) return false;
        request.expert = as(request.rank, request.expert);
        return true;
      case What::kTake:
      case What::kCancel:
      case What::kDestroy:
      case What::kWait:
        return open.contains(request.id);
      case What::kLeave:
      case What::kDie:
      case What::kStop:
        return true;
    }
    return false;
  }

  ExpertIndex as(Rank rank, std::uint64_t expert) {
    if (expert < as_.size()) return as_[expert];
    wrong_ = Status::error(CARDEA_ERR_PROTOCOL, "rank {} speaks of expert {} of {}", rank, expert, as_.size());
    return 0;
  }

  std::vector<RankLog> logs_;
  JobLog out_;
  Status wrong_;
  std::map<std::uint64_t, std::uint64_t> layers_;  // the job's number → the plan's
  std::vector<ExpertIndex> as_;                    // the job's number → the plan's
};

}  // namespace

bool is_job_log(std::istream& in) {
  std::string first, second;
  const bool is = std::getline(in, first) && std::getline(in, second) && first == kHeader && second.starts_with(kJob);
  in.clear();
  in.seekg(0);
  return is;
}

Result<JobLog> merge_job_logs(const std::vector<std::unique_ptr<std::istream>>& logs) {
  if (logs.empty()) return Status(CARDEA_ERR_MISMATCH, "no logs");
  std::vector<RankLog> read;
  for (std::size_t i = 0; i < logs.size(); ++i) {
    Result<RankLog> one = read_one(*logs[i], i);
    if (!one.ok()) return one.status();
    read.push_back(std::move(*one));
  }
  return Merger(std::move(read)).run();
}

}  // namespace cardea::simulator
