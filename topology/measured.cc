// SPDX-License-Identifier: Apache-2.0
#include "topology/measured.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "topology/xml_file.h"

namespace cardea::topology {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
constexpr double kMostBandwidth = 1e14;
constexpr double kMostLatency = 1e10;
constexpr int kMostDepth = 8;

template <typename... Args>
Status wrong(fmt::format_string<Args...> format, Args&&... args) {
  return Status::error(CARDEA_ERR_CONFIGURATION, format, std::forward<Args>(args)...);
}

Result<Json> read(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return Json{{"version", 1}, {"machines", Json::object()}};
  Result<std::string> text = read_topology_file(path);
  if (!text.ok()) return text.status();
  bool deep = false;
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) { return deep = deep || depth > kMostDepth, !deep; };
  Json json = Json::parse(*text, shallow, false);
  if (deep || json.is_discarded() || !json.is_object()) return wrong("{}: not the JSON of measured figures", path);
  if (!json.contains("version") || json["version"] != 1) return wrong("{}: of another version than 1", path);
  if (!json.contains("machines") || !json["machines"].is_object()) return wrong("{}: has no \"machines\"", path);
  return json;
}

}  // namespace

std::string default_measured_path() {
  const auto variable = [](const char* name) { return std::getenv(name) ? std::string(std::getenv(name)) : std::string(); };
  if (const std::string path = variable("CARDEA_TOPO_MEASURED"); !path.empty()) return path;
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return cache + "/cardea/measured.json";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.cache/cardea/measured.json";
}

Result<std::vector<Measurement>> load_measured(const std::string& path, const std::string& fingerprint) {
  std::vector<Measurement> measurements;
  if (path.empty()) return measurements;
  Result<Json> json = read(path);
  if (!json.ok()) return json.status();
  const Json& machines = (*json)["machines"];
  if (!machines.contains(fingerprint)) return measurements;
  const Json& machine = machines[fingerprint];
  if (!machine.is_object() || !machine.contains("lanes") || !machine["lanes"].is_object()) {
    return wrong("{}: machine {} has no \"lanes\"", path, fingerprint);
  }
  for (const auto& entry : machine["lanes"].items()) {
    const std::string& lane = entry.key();
    const Json& figures = entry.value();
    Measurement one{lane, 0, 0};
    const auto take = [&](const char* name, double most, double& value) {
      if (!figures.is_object() || !figures.contains(name)) return figures.is_object();
      if (!figures[name].is_number()) return false;
      value = figures[name].get<double>();
      return value > 0 && value <= most;
    };
    if (!take("bytes_per_second", kMostBandwidth, one.bandwidth) || !take("latency_ns", kMostLatency, one.latency)) {
      return wrong("{}: lane \"{}\" has a figure that is none, not positive or absurd", path, lane.substr(0, 80));
    }
    measurements.push_back(one);
  }
  return measurements;
}

Status save_measured(const std::string& path, const Machine& machine, const std::vector<Measurement>& measurements) {
  if (path.empty()) return wrong("no place for measured figures: set CARDEA_TOPO_MEASURED or HOME");
  Result<Json> json = read(path);
  if (!json.ok()) return json.status();
  Json& entry = (*json)["machines"][machine.fingerprint()];
  if (!entry.is_object()) entry = Json::object();
  entry["name"] = machine.name();
  for (const Measurement& one : measurements) {
    Json figures = Json::object();
    if (one.bandwidth > 0) figures["bytes_per_second"] = one.bandwidth;
    if (one.latency > 0) figures["latency_ns"] = one.latency;
    entry["lanes"][one.lane] = figures;
  }
  std::error_code error;
  if (const fs::path folder = fs::path(path).parent_path(); !folder.empty()) fs::create_directories(folder, error);
  const std::string fresh = fmt::format("{}.{}", path, ::getpid());
  {
    std::ofstream file(fresh);
    file << json->dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    file.flush();
    if (!file) return Status::error(CARDEA_ERR_SYSTEM, "{} cannot be written", fresh);
  }
  fs::rename(fresh, path, error);
  if (error) return Status::error(CARDEA_ERR_SYSTEM, "{}: {}", path, error.message());
  return {};
}

std::size_t apply_measured(Machine& machine, const std::vector<Measurement>& measurements) {
  std::size_t used = 0;
  for (const Measurement& one : measurements) used += machine.set_measured(one.lane, one.bandwidth, one.latency);
  return used;
}

}  // namespace cardea::topology
