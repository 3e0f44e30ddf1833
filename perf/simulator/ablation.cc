// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/ablation.h"

#include "perf/simulator/simulation.h"

namespace cardea::simulator {
namespace {

double seconds(Nanoseconds time) {
  return static_cast<double>(time.count()) * 1e-9;
}

}  // namespace

Result<std::vector<AblationRow>> ablation(const Plan& plan,
                                          const std::function<void(const std::string&, double)>& progress) {
  Plan with = plan;
  with.stagger = with.network_first = with.side_by_side = with.node_cache = with.prefetch = with.split = with.nic_affinity =
      false;
  std::vector<AblationRow> rows;
  const auto run = [&](const char* name) -> Status {
    const Result<Report> report = simulate(with, nullptr, [&](double done) {
      if (progress) progress(name, done);
    });
    if (!report.ok()) return report.status();
    rows.push_back({name, *report, lower_bound(with, *Routing::make(with))});
    return {};
  };
  if (const Status status = run("naive order"); !status.ok()) return status;
  with.stagger = true;
  if (const Status status = run("+ stagger"); !status.ok()) return status;
  with.network_first = with.side_by_side = true;
  if (const Status status = run("+ side-by-side lanes"); !status.ok()) return status;
  if (plan.ranks_per_node > 1) {
    with.node_cache = true;
    if (const Status status = run("+ node cache"); !status.ok()) return status;
  } else {
    rows.push_back({"+ node cache", std::nullopt, {}});
  }
  with.prefetch = true;
  if (const Status status = run("+ prefetch"); !status.ok()) return status;
  if (plan.machine.empty()) return rows;
  with.split = true;
  if (const Status status = run("+ PCIe-aware split"); !status.ok()) return status;
  with.nic_affinity = true;
  if (const Status status = run("+ NIC affinity"); !status.ok()) return status;
  return rows;
}

std::string to_table(const std::vector<AblationRow>& rows) {
  std::string out = fmt::format("{:<22} {:>12} {:>12} {:>12} {:>12} {:>14}  {}\n", "strategy", "time", "row before", "bound",
                                "to bound", "network", "busiest");
  out += fmt::format("{:<22} {:>12} {:>12} {:>12} {:>12} {:>14}\n", "", "ms", "/ this", "ms", "", "MiB");
  const Report* before = nullptr;
  for (const AblationRow& row : rows) {
    if (!row.report) {
      out += fmt::format("{:<22} {:>12}\n", row.name, "nobody shares");
      continue;
    }
    const double time = seconds(row.report->time);
    out += fmt::format("{:<22} {:>12.3f} {:>12} {:>12.3f} {:>12.3f} {:>14.0f}  {}\n", row.name, time * 1e3,
                       before == nullptr ? "" : fmt::format("{:.3f}", seconds(before->time) / time),
                       seconds(row.bound.time) * 1e3, time / seconds(row.bound.time),
                       static_cast<double>(row.report->network_bytes) / (1 << 20), row.bound.busiest);
    before = &*row.report;
  }
  out +=
      "\nbound = max(over lanes: bytes that must pass / rate, over ranks: time of computing), for each row's own traffic:\n"
      "without the node cache an expert enters a node once for each rank that wants it, with it once. In a machine, lanes\n"
      "are those of its model: out of a node bytes pass GPU, PCIe and NIC; from host memory to a GPU its PCIe uplink, with\n"
      "split and swap any uplink of the node once, and NVLink.\n";
  return out;
}

std::string to_json(const Plan& plan, const std::vector<AblationRow>& rows) {
  std::string out = fmt::format("{{\n  \"plan\": \"{}\",\n  \"rows\": [\n", to_line(plan));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const AblationRow& row = rows[i];
    out += fmt::format("    {{\"strategy\": \"{}\", ", row.name);
    if (row.report) {
      out += fmt::format(
          "\"seconds\": {:.9f}, \"bound_seconds\": {:.9f}, \"busiest\": \"{}\", \"network_bytes\": {}, "
          "\"copy_bytes\": {}, \"violations\": {}}}",
          seconds(row.report->time), seconds(row.bound.time), row.bound.busiest, row.report->network_bytes,
          row.report->copy_bytes, row.report->violation_count);
    } else {
      out += "\"shared\": false}";
    }
    out += i + 1 < rows.size() ? ",\n" : "\n";
  }
  return out + "  ]\n}\n";
}

}  // namespace cardea::simulator
