// SPDX-License-Identifier: Apache-2.0
#include "lib/api/settings.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace cardea::api {
namespace {

struct Range {
  std::uint64_t least, most;
};

Result<std::uint64_t> number(const bootstrap::Environment& environment, const char* name, Range range,
                             std::uint64_t fallback) {
  const auto text = environment(name);
  if (!text) return fallback;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < range.least || value > range.most) {
    return Status::error(CARDEA_ERR_CONFIGURATION, "{} is \"{}\"; it takes a whole number from {} to {}", name, *text,
                         range.least, range.most);
  }
  return value;
}

Result<std::uint64_t> choose(std::uint64_t given, const char* field, const bootstrap::Environment& environment,
                             const char* name, Range range, std::uint64_t fallback) {
  if (given == 0) return number(environment, name, range, fallback);
  if (given < range.least || given > range.most) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "config.{} is {}; it takes {} to {}", field, given, range.least,
                         range.most);
  }
  return given;
}

// Durations: nanoseconds in the configuration, a larger unit in the environment.
Result<Nanoseconds> duration(std::uint64_t given, const char* field, const bootstrap::Environment& environment,
                             const char* name, std::uint64_t unit, Range range, std::uint64_t fallback) {
  if (given == 0) {
    Result<std::uint64_t> units = number(environment, name, range, fallback / unit);
    if (!units.ok()) return units.status();
    return Nanoseconds(*units * unit);
  }
  const std::uint64_t most = range.most * unit;
  if (given < range.least * unit || given > most) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "config.{} is {} ns; it takes {} to {}", field, given,
                         range.least * unit, most);
  }
  return Nanoseconds(given);
}

Result<engine::GpuDirect> read_gpu_direct(const bootstrap::Environment& environment) {
  const std::string text = environment("CARDEA_GPU_DIRECT").value_or("auto");
  if (text == "auto") return engine::GpuDirect::kAuto;
  if (text == "on") return engine::GpuDirect::kOn;
  if (text == "off") return engine::GpuDirect::kOff;
  return Status::error(CARDEA_ERR_CONFIGURATION, "CARDEA_GPU_DIRECT is \"{}\"; it takes auto, on or off", text);
}

Status read_watch(const cardea_config_t& config, const bootstrap::Environment& environment, engine::WatchOptions& watch) {
  constexpr std::uint64_t kMilli = 1'000'000;
  constexpr std::uint64_t kSecond = 1'000'000'000;
  constexpr std::uint64_t kWeekSeconds = 7 * 24 * 3600;
  const Result<Nanoseconds> limit = duration(config.liveness_limit, "liveness_limit", environment, "CARDEA_LIVENESS_LIMIT",
                                             kMilli, {50, kWeekSeconds * 1000}, 5 * kSecond);
  if (!limit.ok()) return limit.status();
  watch.liveness.limit = *limit;
  const auto fifth = static_cast<std::uint64_t>(limit->count()) / 5;
  const Result<Nanoseconds> interval = duration(config.heartbeat, "heartbeat", environment, "CARDEA_HEARTBEAT", kMilli,
                                                {10, kWeekSeconds * 1000}, std::min(fifth, kSecond));
  if (!interval.ok()) return interval.status();
  watch.liveness.interval = *interval;
  if (*limit < *interval * 2) {
    return Status::error(
        config.heartbeat != 0 ? CARDEA_ERR_INVALID_ARGUMENT : CARDEA_ERR_CONFIGURATION,
        "a liveness limit (CARDEA_LIVENESS_LIMIT) of {} ms is less than two heartbeats (CARDEA_HEARTBEAT) of {} ms",
        limit->count() / 1'000'000, interval->count() / 1'000'000);
  }
  const Result<Nanoseconds> progress = duration(config.progress_limit, "progress_limit", environment,
                                                "CARDEA_PROGRESS_LIMIT", kSecond, {1, kWeekSeconds}, 600 * kSecond);
  if (!progress.ok()) return progress.status();
  watch.progress_limit = *progress;
  watch.progress_warning =
      config.progress_warning != 0 ? Nanoseconds(std::min(config.progress_warning, kWeekSeconds * kSecond)) : *progress / 20;
  return {};
}

}  // namespace

Result<Settings> settings_of(const cardea_config_t& config, const bootstrap::Environment& environment) {
  Settings settings;
  settings.node_id = config.node_id != nullptr ? config.node_id : environment("CARDEA_NODE_ID").value_or("");

  settings.affinity = environment("CARDEA_AFFINITY").value_or("auto");
  const Result<engine::GpuDirect> direct = read_gpu_direct(environment);
  if (!direct.ok()) return direct.status();
  settings.gpu_direct = *direct;

  constexpr std::uint64_t kSecond = 1'000'000'000;
  constexpr std::uint64_t kLongestSeconds = 7 * 24 * 3600;
  Result<std::uint64_t> seconds = number(environment, "CARDEA_SETUP_TIMEOUT", {1, kLongestSeconds}, 60);
  if (!seconds.ok()) return seconds.status();
  const std::uint64_t timeout = config.setup_timeout != 0 ? config.setup_timeout : *seconds * kSecond;
  settings.setup_timeout = Nanoseconds(std::min(timeout, kLongestSeconds * kSecond));

  Result<std::uint64_t> chunk =
      choose(config.chunk_bytes, "chunk_bytes", environment, "CARDEA_CHUNK_BYTES", {4096, 1 << 30}, 1 << 20);
  if (!chunk.ok()) return chunk.status();
  settings.chunk_bytes = *chunk;
  Result<std::uint64_t> chunks =
      choose(config.chunks_in_flight, "chunks_in_flight", environment, "CARDEA_CHUNKS_IN_FLIGHT", {1, 1024}, 8);
  if (!chunks.ok()) return chunks.status();
  settings.chunks_in_flight = static_cast<std::uint32_t>(*chunks);

  constexpr std::uint64_t kMostCache = std::uint64_t{1} << 44;
  constexpr std::uint64_t kUsualCache = std::uint64_t{8} << 30;
  const auto pages = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES));
  const std::uint64_t eighth = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) / 8;
  Result<std::uint64_t> cache = number(environment, "CARDEA_CACHE_BYTES", {0, kMostCache}, std::min(eighth, kUsualCache));
  if (!cache.ok()) return cache.status();
  settings.cache_bytes = config.cache_bytes == 0 ? *cache : config.cache_bytes == CARDEA_NO_CACHE ? 0 : config.cache_bytes;
  if (settings.cache_bytes != 0 && (settings.cache_bytes < settings.chunk_bytes || settings.cache_bytes > kMostCache)) {
    return Status::error(config.cache_bytes == 0 ? CARDEA_ERR_CONFIGURATION : CARDEA_ERR_INVALID_ARGUMENT,
                         "{} is {}; it takes 0, or a chunk ({}) to {}",
                         config.cache_bytes == 0 ? "CARDEA_CACHE_BYTES" : "config.cache_bytes", settings.cache_bytes,
                         settings.chunk_bytes, kMostCache);
  }
  Result<std::uint64_t> prefetch =
      choose(config.prefetch_bytes, "prefetch_bytes", environment, "CARDEA_PREFETCH_BYTES", {1, kMostCache}, 0);
  if (!prefetch.ok()) return prefetch.status();
  settings.prefetch_bytes = *prefetch;
  if (config.cuda_device < CARDEA_DEVICE_CURRENT)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "config.cuda_device is {}", config.cuda_device);
  settings.cuda_device = config.cuda_device;

  if (const auto traces = environment("CARDEA_TRACE"); traces && !traces->empty()) {
    Result<std::vector<telemetry::TraceTarget>> targets = telemetry::parse_trace_list(*traces);
    if (!targets.ok()) return targets.status().within("CARDEA_TRACE");
    settings.traces = std::move(*targets);
  }
  if (const Status status = read_watch(config, environment, settings.watch); !status.ok()) return status;
  return settings;
}

std::string variables_table() {
  const auto width = [](auto field) {
    std::size_t most = 0;
    for (const Variable& variable : kVariables) most = std::max(most, std::strlen(field(variable)));
    return most;
  };
  const std::size_t name = width([](const Variable& v) { return v.name; }) + 2;
  const std::size_t unit = width([](const Variable& v) { return v.unit; });
  const std::size_t fallback = width([](const Variable& v) { return v.fallback; });
  const std::size_t meaning = width([](const Variable& v) { return v.meaning; });
  std::string table = fmt::format("| {:{}} | {:{}} | {:{}} | {:{}} |\n", "variable", name, "unit", unit, "default", fallback,
                                  "meaning", meaning);
  table += fmt::format("|-{:-<{}}-|-{:-<{}}-|-{:-<{}}-|-{:-<{}}-|\n", "", name, "", unit, "", fallback, "", meaning);
  for (const Variable& variable : kVariables) {
    table += fmt::format("| {:{}} | {:{}} | {:{}} | {:{}} |\n", fmt::format("`{}`", variable.name), name, variable.unit,
                         unit, variable.fallback, fallback, variable.meaning, meaning);
  }
  return table;
}

}  // namespace cardea::api
