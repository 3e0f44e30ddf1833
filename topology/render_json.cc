// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "topology/cpu_set.h"
#include "topology/render.h"

namespace cardea::topology {
namespace {

using Json = nlohmann::ordered_json;

Json figure(const Figure& value) {
  return {{"value", value.value}, {"origin", to_string(value.origin)}};
}

Json names(const Machine& machine, const std::vector<DeviceId>& ids) {
  Json all = Json::array();
  for (const DeviceId id : ids) all.push_back(machine.device(id).name);
  return all;
}

Json device_json(const Machine& machine, const Device& device) {
  Json out = {{"name", device.name}, {"kind", to_string(device.kind)}};
  if (device.parent != kNoDevice) out["parent"] = machine.device(device.parent).name;
  if (device.numa != kNoDevice) out["numa"] = machine.device(device.numa).name;
  if (device.bus_id) out["bus_id"] = to_string(*device.bus_id);
  if (!device.model.empty()) out["model"] = device.model;
  if (!device.uuid.empty()) out["uuid"] = device.uuid;
  if (!device.os_names.empty()) out["os_names"] = device.os_names;
  if (device.os_index) out["os_index"] = *device.os_index;
  if (device.cuda_index) out["cuda_index"] = *device.cuda_index;
  if (device.link.rate > 0) out["link"] = {{"gigatransfers", device.link.rate}, {"width", device.link.width}};
  if (device.memory_bytes > 0) out["memory_bytes"] = device.memory_bytes;
  if (!device.cores.empty()) out["cores"] = device.cores;
  return out;
}

Json paths_json(const Machine& machine) {
  Json all = Json::array();
  std::vector<DeviceId> ends = machine.of(DeviceKind::kNumaNode);
  for (const DeviceKind kind : {DeviceKind::kGpu, DeviceKind::kNic})
    ends.insert(ends.end(), machine.of(kind).begin(), machine.of(kind).end());
  for (const DeviceId from : ends) {
    for (const DeviceId to : ends) {
      const Result<Path> path = find_path(machine, from, to, MemoryKind::kDevice);
      if (!path.ok() || (from == to && machine.device(from).kind == DeviceKind::kNic)) continue;
      Json lanes = Json::array();
      for (const LaneId lane : path->lanes) lanes.push_back(machine.lane(lane).name);
      Json entry = {{"from", machine.device(from).name},
                    {"to", machine.device(to).name},
                    {"nearness", nearness_label(machine, from, to)},
                    {"bytes_per_second", path->bandwidth},
                    {"origin", to_string(path->origin)},
                    {"latency_ns", path->latency},
                    {"bottleneck", machine.lane(path->bottleneck).name},
                    {"lanes", lanes}};
      all.push_back(std::move(entry));
    }
  }
  return all;
}

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string render_json(const Machine& machine, const std::vector<RankAffinity>& ranks) {
  Json out = {{"name", machine.name()},
              {"source", machine.source()},
              {"fingerprint", machine.fingerprint()},
              {"notes", machine.notes()}};
  out["devices"] = Json::array();
  for (const Device& device : machine.devices()) out["devices"].push_back(device_json(machine, device));
  out["lanes"] = Json::array();
  for (const Lane& lane : machine.lanes()) {
    Json entry = {{"name", lane.name},
                  {"kind", to_string(lane.kind)},
                  {"from", machine.device(lane.from).name},
                  {"to", machine.device(lane.to).name},
                  {"bytes_per_second", figure(lane.bandwidth)},
                  {"latency_ns", figure(lane.latency)}};
    if (lane.links > 0) entry["links"] = lane.links;
    if (!lane.users.empty()) entry["users"] = names(machine, lane.users);
    out["lanes"].push_back(std::move(entry));
  }
  out["paths"] = paths_json(machine);
  out["ranks"] = Json::array();
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    Json entry = {{"rank", r}};
    if (ranks[r].gpu != kNoDevice) entry["gpu"] = machine.device(ranks[r].gpu).name;
    entry["nics"] = names(machine, ranks[r].nics);
    entry["numa"] = machine.device(ranks[r].numa).name;
    entry["engine_cpus"] = ranks[r].cpus;
    if (ranks[r].rails) entry["rails"] = *ranks[r].rails;  // empty: as UCX chooses
    out["ranks"].push_back(std::move(entry));
  }
  return dump(out);
}

std::string render_findings_json(const std::vector<Finding>& findings) {
  Json out = Json::array();
  for (const Finding& finding : findings) {
    out.push_back({{"kind", finding.kind}, {"devices", finding.devices}, {"what", finding.what}, {"do", finding.remedy}});
  }
  return dump(out);
}

}  // namespace cardea::topology
