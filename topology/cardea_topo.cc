// SPDX-License-Identifier: Apache-2.0
// cardea-topo show | check | measure: what Cardea knows of a machine. Exit status: 0 fine, 1 check found something, 2 error.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "topology/discover.h"
#include "topology/measure.h"
#include "topology/rails.h"
#include "topology/render.h"

namespace cardea::topology {
namespace {

constexpr int kFound = 1;
constexpr int kFailed = 2;

struct Arguments {
  std::string file;
  std::string recorded;
  std::string measured = default_measured_path();
  std::vector<std::string> affinity;
  std::string path;
  bool host = false;
  bool json = false;
  bool no_gpus = false;
  unsigned mebibytes = 256;
};

int fail(const Status& status) {
  std::fprintf(stderr, "cardea-topo: %s\n", status.message().c_str());
  return kFailed;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

Result<Machine> machine_of(const Arguments& arguments) {
  if (!arguments.file.empty() && arguments.recorded.empty()) return machine_from_file(arguments.file, arguments.measured);
  Sources sources = Sources::from_environment();
  sources.measured = arguments.measured;
  if (!arguments.recorded.empty()) {
    // Somebody else's machine: this one's environment says nothing about it.
    sources = Sources{arguments.file, arguments.recorded, {}, arguments.measured, "/sys"};
  }
  return discover(sources);
}

Result<std::vector<RankAffinity>> ranks_of(const Machine& machine, const Arguments& arguments) {
  std::vector<AffinityOverride> overrides;
  for (const std::string& text : arguments.affinity) {
    const auto parsed = parse_override(machine, text, [](const std::string& name) { return find_port(name).has_value(); });
    if (!parsed.ok()) return parsed.status();
    if (parsed->rank >= natural_ranks(machine).size()) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "affinity \"{}\": the machine has {} ranks", text,
                           natural_ranks(machine).size());
    }
    overrides.push_back(*parsed);
  }
  // What this machine's ranks would do, and its environment, say nothing of somebody else's.
  if (!arguments.file.empty() || !arguments.recorded.empty()) return assign(machine, natural_ranks(machine), overrides);
  const char* const setting = std::getenv("CARDEA_AFFINITY");
  auto ranks = assign_as_set(machine, natural_ranks(machine), setting == nullptr ? "auto" : setting, std::move(overrides),
                             [](const std::string& name) { return find_port(name); });
  if (!ranks.ok() && setting != nullptr) return ranks.status().within(fmt::format("CARDEA_AFFINITY is \"{}\"", setting));
  return ranks;
}

int show_path(const Machine& machine, const Arguments& arguments) {
  const auto comma = arguments.path.find(',');
  const std::string from = arguments.path.substr(0, comma);
  const std::string to = comma == std::string::npos ? "" : arguments.path.substr(comma + 1);
  for (const std::string& name : {from, to}) {
    if (machine.find(name) == kNoDevice)
      return fail(Status::error(CARDEA_ERR_CONFIGURATION, "--path: no device \"{}\"", name));
  }
  const MemoryKind kind = arguments.host ? MemoryKind::kHost : MemoryKind::kDevice;
  const auto path = find_path(machine, machine.find(from), machine.find(to), kind);
  if (!path.ok()) return fail(path.status());
  print(render_path(machine, machine.find(from), machine.find(to), kind, *path));
  return 0;
}

int show(const Arguments& arguments) {
  const auto machine = machine_of(arguments);
  if (!machine.ok()) return fail(machine.status());
  if (!arguments.path.empty()) return show_path(*machine, arguments);
  const auto ranks = ranks_of(*machine, arguments);
  if (!ranks.ok()) return fail(ranks.status());
  print(arguments.json ? render_json(*machine, *ranks) : render(*machine, *ranks));
  const char* const setting = std::getenv("CARDEA_AFFINITY");
  if (!arguments.json && arguments.file.empty() && arguments.recorded.empty() && setting != nullptr && *setting != '\0')
    print(fmt::format("\nCARDEA_AFFINITY is \"{}\"{}\n", setting,
                      setting == std::string_view("off") ? ": none of this is used" : ""));
  return 0;
}

int check_machine(const Arguments& arguments) {
  const auto machine = machine_of(arguments);
  if (!machine.ok()) return fail(machine.status());
  const std::vector<Finding> findings = check(*machine);
  print(arguments.json ? render_findings_json(findings) : render_findings(findings));
  return findings.empty() ? 0 : kFound;
}

int measure_machine(const Arguments& arguments) {
  Sources sources = Sources::from_environment();
  sources.measured = arguments.measured;
  auto machine = discover(sources);
  if (!machine.ok()) return fail(machine.status());
  MeasureOptions options;
  options.memory_bytes = options.device_bytes = std::size_t{arguments.mebibytes} << 20;
  options.gpus = !arguments.no_gpus;
  options.progress = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  const auto measurements = measure(*machine, options);
  if (!measurements.ok()) return fail(measurements.status());
  if (const Status status = save_measured(arguments.measured, *machine, *measurements); !status.ok()) return fail(status);
  const std::size_t used = apply_measured(*machine, *measurements);
  if (arguments.json) {
    print(render_json(*machine, assign(*machine, natural_ranks(*machine))));
  } else {
    std::printf("%zu lanes measured, kept in %s for machine %s\n", used, arguments.measured.c_str(),
                machine->fingerprint().c_str());
  }
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app{"What Cardea knows of a machine: devices, lanes, paths, affinity."};
  app.require_subcommand(1);
  Arguments arguments;
  const auto common = [&](CLI::App* command) {
    command->add_option("--file", arguments.file, "a topology file (hwloc XML or NCCL) instead of this machine");
    command->add_option("--recorded", arguments.recorded,
                        "hwloc XML that stands for this machine; --file is then laid over it, as CARDEA_TOPO_FILE is");
    command->add_option("--measured", arguments.measured, "file of measured figures")->capture_default_str();
    command->add_flag("--json", arguments.json, "JSON");
  };
  CLI::App* showing = app.add_subcommand("show", "the machine as a tree and a matrix, and what each rank gets");
  common(showing);
  showing->add_option("--affinity", arguments.affinity,
                      "for one rank, such as \"rank=0 nic=mlx5_2,mlx5_3 rails=2 numa=NUMA1 cpus=8-15\", before what "
                      "CARDEA_AFFINITY says; repeatable");
  showing->add_option("--path", arguments.path,
                      "only the path between two devices, such as GPU0,NIC1 (names, bus ids, UUIDs)");
  showing->add_flag("--host", arguments.host, "with --path: the bytes lie in host memory of the first");
  CLI::App* checking = app.add_subcommand("check", "what looks wrong, and what to do; exit status 1 if something does");
  common(checking);
  CLI::App* measuring = app.add_subcommand("measure", "measure this machine's lanes and keep the figures");
  measuring->add_option("--measured", arguments.measured, "file of measured figures")->capture_default_str();
  measuring->add_option("--mebibytes", arguments.mebibytes, "size of one copy")
      ->capture_default_str()
      ->check(CLI::Range(1U, 65536U));
  measuring->add_flag("--no-gpus", arguments.no_gpus, "leave the GPUs alone");
  measuring->add_flag("--json", arguments.json, "the machine with its new figures, as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kFailed;
  }
  if (showing->parsed()) return show(arguments);
  return checking->parsed() ? check_machine(arguments) : measure_machine(arguments);
}

}  // namespace
}  // namespace cardea::topology

int main(int argc, char** argv) {
  return cardea::topology::run(argc, argv);
}
