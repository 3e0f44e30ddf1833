// SPDX-License-Identifier: Apache-2.0
// Checks of variables: Cardea's, UCX's, and what a launcher left.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <sstream>

#include "lib/api/settings.h"
#include "lib/base/log.h"
#include "lib/bootstrap/secret_file.h"
#include "lib/doctor/checks.h"

namespace cardea::doctor {
namespace {

// Read by the tools and packages beside the library.
constexpr std::array kOtherNames = {"CARDEA_TOPO_MEASURED", "CARDEA_LIBRARY"};

std::vector<std::string> known_names() {
  std::vector<std::string> names(kOtherNames.begin(), kOtherNames.end());
  for (const api::Variable& variable : api::kVariables) names.emplace_back(variable.name);
  return names;
}

std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

std::vector<std::string> words(const std::string& list) {
  std::vector<std::string> all;
  std::istringstream in(list);
  for (std::string word; std::getline(in, word, ',');) {
    if (!word.empty()) all.push_back(word);
  }
  return all;
}

Findings unknown(const System& system) {
  const std::vector<std::string> known = known_names();
  Findings found;
  for (const auto& [name, value] : system.variables) {
    if (!name.starts_with("CARDEA_") || std::find(known.begin(), known.end(), name) != known.end()) continue;
    const auto nearer = [&name = name](const auto& a, const auto& b) { return distance(name, a) < distance(name, b); };
    const auto nearest = std::min_element(known.begin(), known.end(), nearer);
    const bool near = distance(name, *nearest) <= 4;
    found.push_back(
        {Severity::kWarning, "", fmt::format("{} is set, and nothing reads it", name),
         near ? fmt::format("did you mean {}?", *nearest) : "unset it; cardea run --variables lists those that are read"});
  }
  return found;
}

Findings settings(const System& system) {
  Findings found;
  const cardea_config_t config = CARDEA_CONFIG_INIT;
  if (const auto read = api::settings_of(config, system.environment()); !read.ok())
    found.push_back({Severity::kError, "", read.status().message(), "correct it or unset it; every job refuses to start"});
  if (const auto level = system.variable("CARDEA_DEBUG")) {
    if (const Status status = log::check_level(*level); !status.ok())
      found.push_back({Severity::kError, "", status.message(), "correct it or unset it; every job refuses to start"});
  }
  return found;
}

Findings launcher(const System& system) {
  const auto rank = system.variable("CARDEA_RANK"), ranks = system.variable("CARDEA_WORLD_SIZE");
  if (rank.has_value() != ranks.has_value()) {
    return {{Severity::kError, "",
             fmt::format("{} is set and {} is not", rank ? "CARDEA_RANK" : "CARDEA_WORLD_SIZE",
                         rank ? "CARDEA_WORLD_SIZE" : "CARDEA_RANK"),
             "set both, as cardea run does, or none"}};
  }
  return {};
}

Findings secret(const System& system) {
  const auto told = system.variable("CARDEA_SECRET_FILE");
  const auto home = system.variable("HOME");
  if (!told && !home) {
    return {{Severity::kWarning, "",
             "neither CARDEA_SECRET_FILE nor HOME is set: ranks that meet through an environment have no secret",
             "set CARDEA_SECRET_FILE to a file of mode 0600 with the same bytes on all hosts"}};
  }
  const std::string path = told ? *told : *home + "/.cardea/secret";
  std::error_code error;
  if (!told && !std::filesystem::exists(path, error)) return {};  // made at first use
  const auto read = bootstrap::read_secret_file(path);
  if (read.ok()) return {};
  return {{Severity::kError, "", read.status().message(),
           fmt::format("it must be this user's own, of mode 0600 (chmod 600 {}), with {} to {} bytes", path,
                       bootstrap::kLeastSecretBytes, bootstrap::kMostSecretBytes)}};
}

Findings meeting_place(const System& system) {
  if (!system.root_reach) return {};
  const Reach& reach = *system.root_reach;
  const auto finding = [&](Severity severity, std::string what, std::string advice) {
    return Findings{{severity, "", fmt::format("CARDEA_ROOT is {}: {}", reach.target, what), std::move(advice)}};
  };
  const std::string at = reach.address.empty() ? "" : fmt::format(" ({})", reach.address);
  switch (reach.outcome) {
    case Reach::Outcome::kConnected:
      return {};
    case Reach::Outcome::kMalformed:
      return finding(Severity::kError, reach.detail, "it takes host:port, [address]:port or unix:NAME");
    case Reach::Outcome::kUnresolved:
      return finding(Severity::kError, fmt::format("the host is not known here: {}", reach.detail),
                     "correct the name, /etc/hosts or the resolver, or give an address");
    case Reach::Outcome::kRefused:
      return finding(Severity::kNote,
                     fmt::format("connection refused{}: the host answers, and nobody listens there now", at),
                     "all is well if no job runs now; else rank 0 has not started, or a firewall rejects the port");
    case Reach::Outcome::kTimedOut:
      return finding(Severity::kError,
                     fmt::format("no answer{}: connecting timed out, as where a firewall drops packets", at),
                     "open the port between the hosts, or choose one that is open; check the address' network");
    case Reach::Outcome::kUnreachable:
      return finding(Severity::kError, fmt::format("no way to it{}: {}", at, reach.detail),
                     "check routes and interfaces (ip route get ADDRESS); the address may belong to another network");
    case Reach::Outcome::kFailed:
      return finding(Severity::kError, fmt::format("{}{}", reach.detail, at), "see what the system says");
  }
  return {};
}

Findings ucx_transports(const System& system) {
  const auto set = system.variable("UCX_TLS");
  if (!set) return {};
  static const std::set<std::string> kRdma = {"rc",   "rc_x",     "rc_v",    "rc_verbs", "rc_mlx5", "ud",      "ud_x",
                                              "ud_v", "ud_verbs", "ud_mlx5", "dc",       "dc_x",    "dc_mlx5", "ib"};
  const bool rdma_here = !system.list("/sys/class/infiniband").empty();
  const bool all_but = set->starts_with('^');
  const std::vector<std::string> named = words(all_but ? set->substr(1) : *set);
  const auto names = [&](const std::string& transport) {
    return std::find(named.begin(), named.end(), transport) != named.end();
  };
  const bool names_rdma = std::any_of(named.begin(), named.end(), [&](const auto& name) { return kRdma.contains(name); });
  const bool tcp = all_but ? !names("tcp") : names("tcp") || names("all");
  const bool rdma = rdma_here && (all_but ? !names("ib") : names_rdma || names("all"));
  Findings found;
  if (!tcp && !rdma) {
    found.push_back({Severity::kError, "",
                     fmt::format("UCX_TLS is {}: it leaves UCX no way to another host{}", *set,
                                 names_rdma ? ", for there is no RDMA device here" : ""),
                     "unset it, or name tcp too"});
  } else if (!rdma && rdma_here) {
    found.push_back({Severity::kWarning, "", fmt::format("UCX_TLS is {}: the RDMA device of this host stays unused", *set),
                     "unset it, or name rc too"});
  }
  if (!all_but && (names("cuda_ipc") || names("cuda"))) {
    found.push_back({Severity::kWarning, "",
                     fmt::format("UCX_TLS is {}: UCX's copies between GPUs contend with Cardea's own", *set),
                     "leave cuda_ipc out; Cardea copies over NVLink by itself"});
  }
  return found;
}

Findings ucx_devices(const System& system) {
  const auto set = system.variable("UCX_NET_DEVICES");
  if (!set || *set == "all" || set->starts_with('^')) return {};
  std::vector<std::string> here = system.list("/sys/class/net");
  for (std::string& name : system.list("/sys/class/infiniband")) here.push_back(std::move(name));
  std::vector<std::string> missing;
  for (const std::string& device : words(*set)) {
    const std::string name = device.substr(0, device.find(':'));
    if (std::find(here.begin(), here.end(), name) == here.end()) missing.push_back(name);
  }
  if (missing.empty() || here.empty()) return {};
  return {{Severity::kError, "",
           fmt::format("UCX_NET_DEVICES is {}, and {} {} no device here", *set, fmt::join(missing, ", "),
                       missing.size() == 1 ? "is" : "are"),
           fmt::format("name one of {}", fmt::join(here, ", "))}};
}

Findings ucx_log(const System& system) {
  const auto level = system.variable("UCX_LOG_LEVEL");
  if (!level) return {};
  std::string lower = *level;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char letter) { return std::tolower(letter); });
  static const std::set<std::string> kSlow = {"debug", "trace", "req", "data", "async", "func", "poll"};
  if (!kSlow.contains(lower)) return {};
  return {{Severity::kWarning, "",
           fmt::format("UCX_LOG_LEVEL is {}: UCX writes a line for nearly everything it does", *level),
           "unset it, or set it to warn"}};
}

constexpr std::array kChecks = {
    Check{"environment.unknown-variable", "CARDEA_ variables that nothing reads", unknown},
    Check{"environment.settings", "CARDEA_ variables that are wrong", settings},
    Check{"environment.launcher", "what a launcher left", launcher},
    Check{"environment.secret", "the file with the jobs' key", secret},
    Check{"environment.root", "whether CARDEA_ROOT can be reached", meeting_place},
    Check{"environment.ucx-transports", "UCX_TLS", ucx_transports},
    Check{"environment.ucx-devices", "UCX_NET_DEVICES", ucx_devices},
    Check{"environment.ucx-log", "UCX_LOG_LEVEL", ucx_log},
};

}  // namespace

std::span<const Check> environment_checks() {
  return kChecks;
}

}  // namespace cardea::doctor
