// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/plan.h"

#include <algorithm>
#include <charconv>

#include "lib/cache/directory.h"
#include "perf/simulator/cluster.h"

namespace cardea::simulator {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kMost = std::uint64_t{1} << 62;

template <typename T>
bool parse_number(std::string_view text, T& value) {
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc() && end.ptr == text.data() + text.size();
}

Status outside(const Field& field, const std::string& value) {
  return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} {}: must be from {} to {}", field.name, value, field.least,
                       field.most);
}

Status set(const Field& field, std::string_view text) {
  bool right = true;
  if (auto* const* number = std::get_if<std::uint64_t*>(&field.at)) {
    right = parse_number(text, **number);
  } else if (auto* const* real = std::get_if<double*>(&field.at)) {
    right = parse_number(text, **real);
  } else if (auto* const* flag = std::get_if<bool*>(&field.at)) {
    right = text == "0" || text == "1";
    **flag = text == "1";
  } else {
    *std::get<std::string*>(field.at) = text;
  }
  if (!right) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{}: \"{}\" is no value", field.name, text);
  return {};
}

}  // namespace

std::vector<Field> fields(Plan& p) {
  constexpr auto kDay = 86'400 * kSecond;
  return {
      {"seed", Unit::kCount, &p.seed, 0, kMost, "of all randomness"},
      {"nodes", Unit::kCount, &p.nodes, 1, 4096, "nodes"},
      {"ranks-per-node", Unit::kCount, &p.ranks_per_node, 1, 256, "ranks of each node"},
      {"nics", Unit::kCount, &p.nics, 1, 256, "NICs of each node, shared evenly by its ranks"},
      {"nic-rate", Unit::kRate, &p.nic_rate, 1'000'000, std::uint64_t{1} << 43, "of each NIC, each direction"},
      {"copy-rate", Unit::kRate, &p.copy_rate, 1'000'000, std::uint64_t{1} << 43, "of each rank's copies within its node"},
      {"memory-rate", Unit::kRate, &p.memory_rate, 0, std::uint64_t{1} << 43,
       "of each node's memory, shared by the copies of its ranks; 0: without limit"},
      {"network-latency", Unit::kTime, &p.network_latency, 0, 10 * kSecond, "one way, between nodes"},
      {"node-latency", Unit::kTime, &p.node_latency, 0, 10 * kSecond, "one way, within a node"},
      {"network-chunk-time", Unit::kTime, &p.network_chunk_time, 0, kSecond,
       "that each chunk costs its NICs beside its bytes"},
      {"copy-chunk-time", Unit::kTime, &p.copy_chunk_time, 0, kSecond,
       "that each chunk costs its copy lane beside its bytes"},
      {"fair", Unit::kSwitch, &p.fair, 0, 1, "lanes share their rate among chunks, instead of first come, first served"},
      {"swap-rate", Unit::kRate, &p.swap_rate, 0, std::uint64_t{1} << 43,
       "of each rank's pulls from other ranks' slots; 0: none can"},
      {"machine", Unit::kText, &p.machine, 0, 0, "topology file; every node is such a machine, a rank for each GPU"},
      {"mapped", Unit::kSwitch, &p.mapped, 0, 1,
       "experts of the node are read where they lie, instead of copied into slots"},
      {"layers", Unit::kCount, &p.layers, 1, 4096, "layers"},
      {"experts", Unit::kCount, &p.experts, 1, 65'536, "experts of each layer"},
      {"expert-bytes", Unit::kBytes, &p.expert_bytes, 8, std::uint64_t{1} << 40, "of each expert"},
      {"segments", Unit::kCount, &p.segments, 1, 8, "into which an expert's bytes are divided"},
      {"steps", Unit::kCount, &p.steps, 1, 1'000'000, "versions of all layers"},
      {"slots", Unit::kCount, &p.slots, 1, 1'000'000, "of each rank's slab"},
      {"routing", Unit::kText, &p.routing, 0, 0, "which experts a rank wants: all, zipf, or a file of counts"},
      {"zipf", Unit::kReal, &p.zipf, 0, 10, "exponent of the skew"},
      {"tokens", Unit::kCount, &p.tokens, 1, 1'000'000'000, "of each rank and layer"},
      {"top-k", Unit::kCount, &p.top_k, 1, 1024, "experts of each token"},
      {"expert-time", Unit::kTime, &p.expert_time, 0, 1000 * kSecond,
       "of computing with one expert, however many tokens it has"},
      {"tflops", Unit::kReal, &p.tflops, 0, 1'000'000, "of computing tokens, beside expert-time; 0: tokens cost nothing"},
      {"dense-time", Unit::kTime, &p.dense_time, 0, 1000 * kSecond, "of computing before each layer"},
      {"update-time", Unit::kTime, &p.update_time, 0, 1000 * kSecond, "from collecting a version to publishing the next"},
      {"open-ahead", Unit::kCount, &p.open_ahead, 1, 64, "layers whose fetches are open together"},
      {"fetches", Unit::kCount, &p.fetches, 1, 64, "into which the experts of a layer are split"},
      {"hold", Unit::kCount, &p.hold, 0, 4096, "views kept after computing"},
      {"gangs", Unit::kPercent, &p.gangs, 0, 100, "of fetches that reserve their slots together"},
      {"parts", Unit::kPercent, &p.parts, 0, 100, "of fetches that ask for some segments only"},
      {"take-any", Unit::kPercent, &p.take_any, 0, 100, "of experts taken from any open layer, not the first"},
      {"bytes", Unit::kSwitch, &p.bytes, 0, 1, "carry real bytes, and check each view's (small experts only)"},
      {"chunk-bytes", Unit::kBytes, &p.chunk_bytes, 8, 1 << 30, "at most, of each chunk"},
      {"network-chunks", Unit::kCount, &p.network_chunks, 1, 4096, "in flight over the network, of each rank"},
      {"copy-chunks", Unit::kCount, &p.copy_chunks, 1, 4096, "in flight within the node, of each rank"},
      {"pull-chunks", Unit::kCount, &p.pull_chunks, 1, 4096, "in flight out of other ranks' slots, of each rank"},
      {"stagger", Unit::kSwitch, &p.stagger, 0, 1, "each rank starts with the source after its own"},
      {"network-first", Unit::kSwitch, &p.network_first, 0, 1, "network fetches start first"},
      {"side-by-side", Unit::kSwitch, &p.side_by_side, 0, 1, "network and copies move at once"},
      {"node-cache", Unit::kSwitch, &p.node_cache, 0, 1, "experts cross the network once for each node"},
      {"cache-bytes", Unit::kBytes, &p.cache_bytes, 4096, std::uint64_t{1} << 44,
       "of each node's cache; prefetches may fill half"},
      {"cache-overdue", Unit::kTime, &p.cache_overdue, 1'000, 1000 * kSecond,
       "age at which others take over a chunk that a rank has claimed"},
      {"prefetch", Unit::kSwitch, &p.prefetch, 0, 1, "the next layer's experts while this one computes"},
      {"split", Unit::kSwitch, &p.split, 0, 1, "ranks copy parts of an expert out of host memory and swap them"},
      {"nic-affinity", Unit::kSwitch, &p.nic_affinity, 0, 1,
       "with --machine: each rank its nearest NICs, not the next in turn"},
      {"rails", Unit::kCount, &p.rails, 1, 4,
       "with --machine: NICs of a rank at most, where there are more NICs than ranks"},
      {"message-delay", Unit::kTime, &p.message_delay, 0, 10 * kSecond, "at most, random, of each notice"},
      {"chunk-delay", Unit::kTime, &p.chunk_delay, 0, 10 * kSecond, "at most, random, of each chunk"},
      {"cancels", Unit::kPercent, &p.cancels, 0, 100, "of fetches, somewhen"},
      {"deadlines", Unit::kPercent, &p.deadlines, 0, 100, "of fetches"},
      {"destroys", Unit::kPercent, &p.destroys, 0, 100, "of fetches, somewhen, with what is not delivered"},
      {"deaths", Unit::kCount, &p.deaths, 0, 4096, "ranks that die"},
      {"stops", Unit::kCount, &p.stops, 0, 4096, "times that a rank freezes for a while"},
      {"stop-time", Unit::kTime, &p.stop_time, 0, 1000 * kSecond, "at most, of a freeze"},
      {"detection", Unit::kTime, &p.detection, 0, 1000 * kSecond, "from a death until others hear of it"},
      {"fault-span", Unit::kTime, &p.fault_span, 0, kDay,
       "from the start, in which faults happen; 0: twice the lower bound"},
      {"watchdog", Unit::kTime, &p.watchdog, 1, 1000 * kDay, "virtual time after which a run has failed"},
  };
}

Status check(const Plan& plan) {
  Plan copy = plan;
  for (const Field& field : fields(copy)) {
    if (auto* const* number = std::get_if<std::uint64_t*>(&field.at)) {
      if (**number < field.least || **number > field.most) return outside(field, std::to_string(**number));
    } else if (auto* const* real = std::get_if<double*>(&field.at)) {
      if (!(**real >= 0 && **real <= static_cast<double>(field.most))) return outside(field, fmt::format("{}", **real));
    }
  }
  const auto wrong = [](std::string what) { return Status(CARDEA_ERR_INVALID_ARGUMENT, std::move(what)); };
  if (plan.ranks() > 65'536)
    return wrong(fmt::format("nodes {} times ranks-per-node {}: at most 65536 ranks", plan.nodes, plan.ranks_per_node));
  if (plan.nics > plan.ranks_per_node)
    return wrong(fmt::format("nics {}: a node of {} ranks uses no more", plan.nics, plan.ranks_per_node));
  if (plan.expert_bytes < plan.segments * 8)
    return wrong(fmt::format("expert-bytes {}: {} segments have 8 bytes each at least", plan.expert_bytes, plan.segments));
  if (plan.expert_bytes / plan.chunk_bytes >= 1 << 20)
    return wrong(fmt::format("chunk-bytes {}: an expert has at most 2^20 chunks", plan.chunk_bytes));
  if (plan.deaths >= plan.ranks() && plan.deaths != 0)
    return wrong(fmt::format("deaths {}: of {} ranks one must live", plan.deaths, plan.ranks()));
  if (plan.stops != 0 && plan.stop_time == 0) return wrong("stops without stop-time");
  if (plan.top_k > plan.experts) return wrong(fmt::format("top-k {}: of {} experts", plan.top_k, plan.experts));
  if (plan.caches()) {
    if (plan.ranks_per_node > cache::kMaxLocalRanks)
      return wrong(fmt::format("ranks-per-node {}: with node-cache at most {}", plan.ranks_per_node, cache::kMaxLocalRanks));
    if (plan.nics > cache::kMaxNics)
      return wrong(fmt::format("nics {}: with node-cache at most {}", plan.nics, cache::kMaxNics));
    if (const auto shape = cache::Shape::of(plan.cache_bytes, std::max<std::uint64_t>(plan.chunk_bytes, 64)); !shape.ok())
      return shape.status().within("cache-bytes");
  }
  const std::uint64_t memory = plan.expert_bytes * (plan.experts * plan.layers + plan.ranks() * plan.slots) +
                               (plan.caches() ? plan.nodes * plan.cache_bytes : 0);
  if (plan.bytes && memory > std::uint64_t{4} << 30)
    return wrong(fmt::format("bytes: this would take {} MiB of memory; make experts smaller", memory >> 20));
  if (plan.machine.find(' ') != std::string::npos) return wrong("machine: a path without spaces, so that logs can name it");
  return Cluster::make(plan).status();
}

std::string to_line(const Plan& plan) {
  Plan copy = plan;
  std::string line;
  for (const Field& field : fields(copy)) {
    if (!line.empty()) line += ' ';
    line += field.name;
    line += '=';
    std::visit(
        [&](auto* value) {
          if constexpr (std::is_same_v<decltype(value), bool*>) {
            line += *value ? '1' : '0';
          } else {
            line += fmt::format("{}", *value);
          }
        },
        field.at);
  }
  return line;
}

Result<Plan> from_line(std::string_view line) {
  Plan plan;
  const std::vector<Field> known = fields(plan);
  while (!line.empty()) {
    const std::string_view word = line.substr(0, line.find(' '));
    line.remove_prefix(std::min(line.size(), word.size() + 1));
    if (word.empty()) continue;
    const std::size_t equals = word.find('=');
    bool found = false;
    for (const Field& field : known) {
      if (equals == std::string_view::npos || word.substr(0, equals) != field.name) continue;
      if (const Status status = set(field, word.substr(equals + 1)); !status.ok()) return status;
      found = true;
    }
    if (!found) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" is no field of a plan", word);
  }
  if (const Status status = check(plan); !status.ok()) return status;
  return plan;
}

}  // namespace cardea::simulator
