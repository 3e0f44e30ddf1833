// SPDX-License-Identifier: Apache-2.0
#include "topology/affinity.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "topology/cpu_set.h"
#include "topology/paths.h"

namespace cardea::topology {
namespace {

constexpr double kSlowShare = 0.25;  // of the fastest NIC: a management port, not a data path

double port(const Machine& machine, DeviceId nic) {
  return machine.lane(machine.find_lane(LaneKind::kNicOut, nic, nic)).bandwidth.value;
}

class NicAssigner {
 public:
  explicit NicAssigner(const Machine& machine) : machine_(machine) {
    for (const DeviceId nic : machine.of(DeviceKind::kNic)) fastest_ = std::max(fastest_, port(machine, nic));
  }

  std::vector<DeviceId> take(DeviceId end) {
    struct Choice {
      bool slow;
      Nearness nearness;
      double bandwidth;  // negated: more is better
      double load;
      std::size_t order;
      DeviceId nic;
    };
    std::vector<Choice> choices;
    const auto& nics = machine_.of(DeviceKind::kNic);
    for (std::size_t i = 0; i < nics.size(); ++i) {
      const Result<Path> path = find_path(machine_, end, nics[i], MemoryKind::kDevice);
      const double bandwidth = path.ok() ? path->bandwidth : 0;
      choices.push_back({port(machine_, nics[i]) < fastest_ * kSlowShare, nearness(machine_, end, nics[i], false),
                         -bandwidth, load_[nics[i]], i, nics[i]});
    }
    std::sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) {
      return std::tie(a.slow, a.nearness, a.bandwidth, a.load, a.order) <
             std::tie(b.slow, b.nearness, b.bandwidth, b.load, b.order);
    });
    std::vector<DeviceId> order;
    for (const Choice& choice : choices) order.push_back(choice.nic);
    return order;
  }

  void charge(DeviceId nic) { load_[nic] += 1 / port(machine_, nic); }

 private:
  const Machine& machine_;
  double fastest_ = 0;
  std::map<DeviceId, double> load_;
};

/// Deals the cores of each NUMA node to the ranks on it, in runs of equal length; more ranks than cores share.
void deal_cores(const Machine& machine, std::vector<RankAffinity>& ranks) {
  for (const DeviceId node : machine.of(DeviceKind::kNumaNode)) {
    const auto& cores = machine.device(node).cores;
    std::vector<RankAffinity*> here;
    for (RankAffinity& rank : ranks) {
      if (rank.numa == node) here.push_back(&rank);
    }
    if (cores.empty() || here.empty()) continue;
    for (std::size_t i = 0; i < here.size(); ++i) {
      std::size_t first = cores.size() * i / here.size();
      const std::size_t last = std::max(first + 1, cores.size() * (i + 1) / here.size());
      for (; first < last; ++first) here[i]->cpus.insert(here[i]->cpus.end(), cores[first].begin(), cores[first].end());
      std::sort(here[i]->cpus.begin(), here[i]->cpus.end());
    }
  }
}

template <typename... Args>
Status wrong(fmt::format_string<Args...> format, Args&&... args) {
  return Status::error(CARDEA_ERR_CONFIGURATION, format, std::forward<Args>(args)...);
}

Result<DeviceId> named(const Machine& machine, std::string_view name, DeviceKind kind) {
  const DeviceId id = machine.find(name);
  if (id == kNoDevice) return wrong("no device \"{}\"", name);
  if (machine.device(id).kind != kind)
    return wrong("{} is a {}, not a {}", name, to_string(machine.device(id).kind), to_string(kind));
  return id;
}

Status read_nics(const Machine& machine, std::string_view value, const IsInterface& is_interface, AffinityOverride& out) {
  while (!value.empty()) {
    const auto comma = std::min(value.find(','), value.size());
    const std::string name(value.substr(0, comma));
    value.remove_prefix(std::min(comma + 1, value.size()));
    if (machine.find(name) == kNoDevice && is_interface && is_interface(name)) {
      out.nic_names.push_back(name);
      continue;
    }
    const Result<DeviceId> nic = named(machine, name, DeviceKind::kNic);
    if (!nic.ok()) return nic.status();
    out.nics.push_back(*nic);
    out.nic_names.push_back(name);
  }
  return {};
}

Status read_word(const Machine& machine, std::string_view key, std::string_view value, const IsInterface& is_interface,
                 AffinityOverride& out, bool& ranked) {
  if (key == "rank") {
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out.rank);
    ranked = error == std::errc() && end == value.data() + value.size();
    return ranked ? Status() : wrong("\"{}\" is no rank", value);
  }
  if (key == "cpus") {
    const auto cpus = CpuSet::parse_list(value);
    if (!cpus || cpus->empty()) return wrong("\"{}\" is no list of processors such as 0-3,8", value);
    out.cpus = cpus->numbers();
    return {};
  }
  if (key == "nic") return read_nics(machine, value, is_interface, out);
  if (key == "rails") {
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out.rails);
    const bool whole = error == std::errc() && end == value.data() + value.size();
    return whole && out.rails >= 1 && out.rails <= kMaxRails
               ? Status()
               : wrong("\"{}\" is no number of rails, 1 to {}", value, kMaxRails);
  }
  if (key != "gpu" && key != "numa") return wrong("\"{}\" is none of rank, gpu, nic, rails, numa, cpus", key);
  const bool gpu = key == "gpu";
  const Result<DeviceId> id = named(machine, value, gpu ? DeviceKind::kGpu : DeviceKind::kNumaNode);
  if (!id.ok()) return id.status();
  (gpu ? out.gpu : out.numa) = *id;
  return {};
}

const AffinityOverride* override_of(const std::vector<AffinityOverride>& overrides, std::size_t rank) {
  const auto found =
      std::find_if(overrides.begin(), overrides.end(), [&](const AffinityOverride& each) { return each.rank == rank; });
  return found == overrides.end() ? nullptr : &*found;
}

}  // namespace

Result<AffinityOverride> parse_override(const Machine& machine, std::string_view text, const IsInterface& is_interface) {
  AffinityOverride out;
  bool ranked = false;
  const std::string whole(text);
  while (!text.empty()) {
    const auto space = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, space);
    text.remove_prefix(std::min(space + 1, text.size()));
    if (word.empty()) continue;
    const auto equals = word.find('=');
    if (equals == std::string_view::npos) return wrong("affinity \"{}\": \"{}\" is not key=value", whole, word);
    Status status = read_word(machine, word.substr(0, equals), word.substr(equals + 1), is_interface, out, ranked);
    if (!status.ok()) return status.within(fmt::format("affinity \"{}\"", whole));
  }
  if (!ranked) return wrong("affinity \"{}\" names no rank", whole);
  return out;
}

std::vector<RankAffinity> assign(const Machine& machine, const std::vector<DeviceId>& gpus,
                                 const std::vector<AffinityOverride>& overrides) {
  const auto& nodes = machine.of(DeviceKind::kNumaNode);
  std::vector<RankAffinity> ranks(gpus.size());
  for (std::size_t r = 0; r < gpus.size(); ++r) {
    const AffinityOverride* wish = override_of(overrides, r);
    ranks[r].gpu = wish && wish->gpu != kNoDevice ? wish->gpu : gpus[r];
    const DeviceId local = ranks[r].gpu == kNoDevice ? nodes[r % nodes.size()] : machine.device(ranks[r].gpu).numa;
    ranks[r].numa = wish && wish->numa != kNoDevice ? wish->numa : local == kNoDevice ? nodes[r % nodes.size()] : local;
  }
  // Wishes are charged first: the others make room.
  NicAssigner nics(machine);
  for (const AffinityOverride& wish : overrides) {
    if (wish.rank < ranks.size() && !wish.nics.empty()) nics.charge(wish.nics.front());
  }
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const AffinityOverride* wish = override_of(overrides, r);
    if (wish && !wish->nics.empty()) {
      ranks[r].nics = wish->nics;
      continue;
    }
    ranks[r].nics = nics.take(ranks[r].gpu == kNoDevice ? ranks[r].numa : ranks[r].gpu);
    if (!ranks[r].nics.empty()) nics.charge(ranks[r].nics.front());
  }
  deal_cores(machine, ranks);
  for (const AffinityOverride& wish : overrides) {
    if (wish.rank < ranks.size() && !wish.cpus.empty()) ranks[wish.rank].cpus = wish.cpus;
  }
  return ranks;
}

std::vector<DeviceId> natural_ranks(const Machine& machine) {
  if (!machine.of(DeviceKind::kGpu).empty()) return machine.of(DeviceKind::kGpu);
  return std::vector<DeviceId>(machine.of(DeviceKind::kNumaNode).size(), kNoDevice);
}

}  // namespace cardea::topology
