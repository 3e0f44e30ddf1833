// SPDX-License-Identifier: Apache-2.0
#include "lib/base/log.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <string>

namespace cardea::log {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"ERROR", "WARN", "INFO", "TRACE"};

// The only state: a threshold, written rarely and read everywhere; relaxed, since nothing else hangs on it.
std::atomic<int> threshold{static_cast<int>(Level::kWarn)};

}  // namespace

Status configure_from_environment() {
  const char* text = std::getenv("CARDEA_DEBUG");
  if (text == nullptr || *text == '\0') return {};
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == text) {
      threshold.store(static_cast<int>(i), std::memory_order_relaxed);
      return {};
    }
  }
  return Status::error(CARDEA_ERR_CONFIGURATION, "CARDEA_DEBUG is \"{}\"; it takes ERROR, WARN, INFO or TRACE", text);
}

bool enabled(Level level) {
  return static_cast<int>(level) <= threshold.load(std::memory_order_relaxed);
}

void write(Level level, std::string_view who, std::string_view subsystem, std::string_view text) {
  const std::string line =
      fmt::format("cardea[{}] {} {}: {}\n", who, kNames[static_cast<std::size_t>(level)], subsystem, text);
  // One write call per line keeps lines of several processes whole.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace cardea::log
