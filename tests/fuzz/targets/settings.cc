// SPDX-License-Identifier: Apache-2.0
// The settings of a context, from the environment and from the caller's structure. An input is a number for each field of
// the structure (zero: not given) and then the text of one variable after the other, each ended by a newline.
#include "lib/api/settings.h"

#include <map>

#include "lib/base/log.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

constexpr std::size_t kFields = 5;

bool run(ByteView input) {
  Draw draw(input);
  cardea_config_t config = CARDEA_CONFIG_INIT;
  for (std::uint64_t* field : {&config.setup_timeout, &config.chunk_bytes, &config.cache_bytes, &config.prefetch_bytes}) {
    *field = draw.number(8);
  }
  config.chunks_in_flight = static_cast<std::uint32_t>(draw.number(8));
  std::map<std::string_view, std::string> variables;
  std::string_view text = as_text(draw.rest());
  for (const api::Variable& variable : api::kVariables) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (!line.empty()) variables[variable.name] = line;
  }
  const Result<api::Settings> settings = api::settings_of(config, [&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
  if (!settings.ok()) {
    const cardea_status_t code = settings.status().code();
    require(code == CARDEA_ERR_CONFIGURATION || code == CARDEA_ERR_INVALID_ARGUMENT, "a wrong setting is one of two errors");
    return false;
  }
  require(settings->chunk_bytes >= 4096 && settings->chunk_bytes <= 1 << 30, "chunks are 4 KiB to 1 GiB");
  require(settings->chunks_in_flight >= 1 && settings->chunks_in_flight <= 1024, "1 to 1024 chunks are in flight");
  require(settings->setup_timeout.count() > 0, "set-up has some time");
  require(settings->cache_bytes == 0 || settings->cache_bytes >= settings->chunk_bytes, "a cache holds a chunk");
  return true;
}

std::vector<Seed> seeds() {
  Script given;
  for (const std::uint64_t value : {1'000'000'000ULL, 65536ULL, 1ULL << 26, 1ULL << 20, 4ULL}) given.number(value, 8);
  std::string text;
  for (const api::Variable& variable : api::kVariables) {
    const std::string_view name = variable.name;
    text += name == "CARDEA_SETUP_TIMEOUT"      ? "30"
            : name == "CARDEA_CHUNK_BYTES"      ? "8192"
            : name == "CARDEA_CHUNKS_IN_FLIGHT" ? "16"
            : name == "CARDEA_CACHE_BYTES"      ? "1048576"
            : name == "CARDEA_PREFETCH_BYTES"   ? "65536"
                                                : "";
    text += '\n';
  }
  Script variables;
  for (std::size_t i = 0; i < kFields; ++i) variables.number(0, 8);
  variables.rest(as_bytes(text));
  return {{"defaults", Bytes(kFields * 8)}, {"given", given.bytes()}, {"variables", variables.bytes()}};
}

}  // namespace

Target settings() {
  return {"settings", "a context's settings, from variables and from the caller", run, seeds, 1024};
}

}  // namespace cardea::fuzz
