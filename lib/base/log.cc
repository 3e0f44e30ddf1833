// SPDX-License-Identifier: Apache-2.0
#include "lib/base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "lib/base/path_pattern.h"

namespace cardea::log {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"ERROR", "WARN", "INFO", "TRACE"};
constexpr std::array<std::string_view, 11> kSubsystems = {"api", "bootstrap", "cache", "cuda",      "engine",  "events",
                                                          "shm", "sim",       "ucx",   "telemetry", "topology"};
constexpr std::uint32_t kAll = UINT32_MAX;

// The only state: what is shown and where, written rarely and read everywhere; relaxed, since nothing else hangs on it.
std::atomic<int> threshold{static_cast<int>(Level::kWarn)};
std::atomic<bool> version_wanted{false};
std::atomic<std::uint32_t> subsystems{kAll};
std::atomic<int> output{STDERR_FILENO};

const char* variable(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr || *text == '\0' ? nullptr : text;
}

/// What CARDEA_DEBUG says.
struct Shown {
  int level = static_cast<int>(Level::kWarn);
  bool version = false;
  std::uint32_t subsystems = kAll;
};

Status read_subsystems(std::string_view list, std::string_view text, Shown& shown) {
  std::string_view rest = list;
  const bool all_but = rest.starts_with('^');
  if (all_but) rest.remove_prefix(1);
  std::uint32_t mask = 0;
  for (bool more = true; more;) {
    const std::size_t comma = rest.find(',');
    const std::string_view name = rest.substr(0, comma);
    more = comma != std::string_view::npos;
    rest.remove_prefix(more ? comma + 1 : rest.size());
    std::uint32_t bit = name == "ALL" ? kAll : 0;
    for (std::size_t i = 0; i < kSubsystems.size(); ++i) {
      if (kSubsystems[i] == name) bit = std::uint32_t{1} << i;
    }
    if (bit == 0) {
      return Status::error(CARDEA_ERR_CONFIGURATION,
                           "CARDEA_DEBUG is \"{}\"; behind the colon it takes ALL or a list of {}, after ^ all but these",
                           text, fmt::join(kSubsystems, ","));
    }
    mask |= bit;
  }
  shown.subsystems = all_but ? ~mask : mask;
  return {};
}

Result<Shown> parse_level(std::string_view all) {
  const std::size_t colon = all.find(':');
  const std::string_view name = all.substr(0, colon);
  Shown shown;
  shown.version = name == "VERSION";
  shown.level = shown.version ? static_cast<int>(Level::kError) : -1;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) shown.level = static_cast<int>(i);
  }
  if (shown.level < 0) {
    return Status::error(CARDEA_ERR_CONFIGURATION, "CARDEA_DEBUG is \"{}\"; it takes ERROR, VERSION, WARN, INFO or TRACE",
                         all);
  }
  shown.version = shown.version || shown.level >= static_cast<int>(Level::kInfo);
  if (colon != std::string_view::npos) {
    if (Status status = read_subsystems(all.substr(colon + 1), all, shown); !status.ok()) return status;
  }
  return shown;
}

Status read_level() {
  const char* const text = variable("CARDEA_DEBUG");
  if (text == nullptr) return {};
  const Result<Shown> shown = parse_level(text);
  if (!shown.ok()) return shown.status();
  subsystems.store(shown->subsystems, std::memory_order_relaxed);
  threshold.store(shown->level, std::memory_order_relaxed);
  version_wanted.store(shown->version, std::memory_order_relaxed);
  return {};
}

Status open_for(std::optional<Rank> rank) {
  const char* const pattern = variable("CARDEA_DEBUG_FILE");
  if (pattern == nullptr) return {};
  const Result<std::string> path = expand_path(pattern, rank);
  if (!path.ok()) return path.status().within("CARDEA_DEBUG_FILE");
  if (!rank && names_rank(pattern)) return {};
  const int file = ::open(path->c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) {
    return Status(CARDEA_ERR_CONFIGURATION, Status::from_errno(errno, "open", *path).within("CARDEA_DEBUG_FILE").message());
  }
  const int before = output.load(std::memory_order_relaxed);
  if (before == STDERR_FILENO) {
    output.store(file, std::memory_order_relaxed);
  } else {
    // Others may be writing just now: the number stays, the file behind it changes.
    ::dup3(file, before, O_CLOEXEC);
    ::close(file);
  }
  return {};
}

std::string head(Level level, std::string_view who, std::string_view subsystem) {
  return fmt::format("cardea[{}] {} {}: ", who, kNames[static_cast<std::size_t>(level)], subsystem);
}

/// One write call keeps lines of several processes whole.
void bring_out(const std::string& text) {
  [[maybe_unused]] const auto written = ::write(output.load(std::memory_order_relaxed), text.data(), text.size());
}

}  // namespace

Status configure_from_environment() {
  if (Status status = read_level(); !status.ok()) return status;
  return open_for(std::nullopt);
}

Status check_level(std::string_view text) {
  return parse_level(text).status();
}

Status open_file(Rank rank) {
  const char* const pattern = variable("CARDEA_DEBUG_FILE");
  return pattern != nullptr && names_rank(pattern) ? open_for(rank) : Status();
}

bool tells_version() {
  return version_wanted.load(std::memory_order_relaxed);
}

bool enabled(Level level, std::string_view subsystem) {
  if (static_cast<int>(level) > threshold.load(std::memory_order_relaxed)) return false;
  const std::uint32_t shown = subsystems.load(std::memory_order_relaxed);
  if (level <= Level::kWarn || shown == kAll) return true;
  for (std::size_t i = 0; i < kSubsystems.size(); ++i) {
    if (kSubsystems[i] == subsystem) return (shown >> i & 1) != 0;
  }
  return false;
}

void write(Level level, std::string_view who, std::string_view subsystem, std::string_view text) {
  bring_out(head(level, who, subsystem) + std::string(text) + '\n');
}

void write_lines(Level level, std::string_view who, std::string_view subsystem, std::string_view lines) {
  const std::string first = head(level, who, subsystem);
  std::string text;
  while (!lines.empty()) {
    const std::size_t end = lines.find('\n');
    text += first;
    text += lines.substr(0, end);
    text += '\n';
    lines.remove_prefix(end == std::string_view::npos ? lines.size() : end + 1);
  }
  bring_out(text);
}

std::size_t try_write_lines(Level level, std::string_view who, std::string_view subsystem, std::string_view lines) {
  // A pipe that is ready takes as much in one piece.
  constexpr std::size_t kPiece = PIPE_BUF;
  const std::string first = head(level, who, subsystem).substr(0, kPiece / 2);
  const int file = output.load(std::memory_order_relaxed);
  std::string piece;
  for (std::size_t done = 0; done < lines.size();) {
    piece.clear();
    std::size_t next = done;
    while (next < lines.size()) {
      const std::string_view rest = lines.substr(next);
      const std::string_view line = rest.substr(0, std::min(rest.find('\n'), rest.size()));
      const std::string_view cut = line.substr(0, kPiece - first.size() - 1);
      if (!piece.empty() && piece.size() + first.size() + cut.size() + 1 > kPiece) break;
      piece.append(first).append(cut).append(1, '\n');
      next += std::min(line.size() + 1, rest.size());
    }
    pollfd ready{file, POLLOUT, 0};
    if (::poll(&ready, 1, 0) < 1) return done;
    if ((ready.revents & POLLOUT) == 0 || (ready.revents & (POLLERR | POLLNVAL)) != 0) return lines.size();
    if (::write(file, piece.data(), piece.size()) < 0) return errno == EAGAIN || errno == EINTR ? done : lines.size();
    done = next;
  }
  return lines.size();
}

}  // namespace cardea::log
