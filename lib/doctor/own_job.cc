// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/own_job.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/base/unique_fd.h"

extern char** environ;

namespace cardea::doctor {
namespace {

constexpr std::size_t kMostOutput = std::size_t{8} << 20;  // what is kept: the report comes last

Probe failed(std::string what, std::string advice) {
  Probe probe;
  probe.findings.push_back({Severity::kError, "job.form", std::move(what), std::move(advice)});
  return probe;
}

std::string launcher_beside(const std::string& program) {
  const std::filesystem::path beside = std::filesystem::path(program).parent_path() / "cardea-run";
  std::error_code error;
  return std::filesystem::exists(beside, error) ? beside.string() : "cardea-run";
}

/// The end of what the job writes, until it ends or `end` comes.
std::string read_until(int from, Clock::time_point end, bool& in_time) {
  std::string text;
  std::array<char, 65536> buffer;
  in_time = false;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) return text;
    pollfd readable{from, POLLIN, 0};
    if (poll(&readable, 1, static_cast<int>(std::min<std::int64_t>(left, 1000))) <= 0) continue;
    const ssize_t got = read(from, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
    if (text.size() > kMostOutput) text.erase(0, text.size() / 2);
  }
  in_time = true;
  return text;
}

}  // namespace

std::string probe_line(const Probe& probe) {
  nlohmann::ordered_json all = {{"ranks", probe.ranks}, {"members", nlohmann::json::array()}};
  for (const Member& member : probe.members) all["members"].push_back(to_json(member));
  Member findings;  // in the form that members have
  findings.findings = probe.findings;
  all["findings"] = to_json(findings);
  return all.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Result<Probe> probe_from_line(const std::string& line) {
  const nlohmann::json all = nlohmann::json::parse(line, nullptr, false);
  if (!all.is_object()) return Status::error(CARDEA_ERR_CONFIGURATION, "no report of a job");
  try {
    Probe probe;
    if (!all.at("ranks").is_number_unsigned()) return Status::error(CARDEA_ERR_CONFIGURATION, "no report of a job");
    probe.ranks = static_cast<std::uint32_t>(std::min<std::uint64_t>(all.at("ranks").get<std::uint64_t>(), UINT32_MAX));
    probe.self = 0;
    for (const auto& text : all.at("members")) {
      Result<Member> member = member_from_json(text.get<std::string>());
      if (!member.ok()) return member.status();
      probe.members.push_back(std::move(*member));
    }
    Result<Member> findings = member_from_json(all.at("findings").get<std::string>());
    if (!findings.ok()) return findings.status();
    probe.findings = std::move(findings->findings);
    return probe;
  } catch (const nlohmann::json::exception& error) {
    return Status::error(CARDEA_ERR_CONFIGURATION, "no report of a job: {}", error.what());
  }
}

Probe own_job(const std::string& program, Nanoseconds patience) {
  const Clock::time_point end = Clock::now() + patience;
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) return failed(fmt::format("pipe: {}", std::strerror(errno)), "see limits.descriptors");
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  const auto seconds = std::max<std::int64_t>(1, std::chrono::duration_cast<std::chrono::seconds>(patience).count());
  std::vector<std::string> words = {
      launcher_beside(program), "-n", "4",     "--nodes",  "2",         "--timeout",
      std::to_string(seconds),  "--", program, "--member", "--timeout", std::to_string(seconds)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, input.get(), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  pid_t job = 0;
  const int error = posix_spawnp(&job, arguments[0], &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return failed(fmt::format("no job could be started: {}: {}", words[0], std::strerror(error)),
                  "install cardea-run beside this program, or run doctor under your own launcher");
  }
  input.reset();
  bool in_time = false;
  const std::string text = read_until(output.get(), end, in_time);
  if (!in_time) kill(-job, SIGKILL);
  int status = 0;
  while (waitpid(job, &status, 0) < 0 && errno == EINTR) {
  }
  const std::size_t mark = text.find(kMemberMark);
  if (mark != std::string::npos) {
    const std::size_t start = mark + std::strlen(kMemberMark);
    Result<Probe> probe = probe_from_line(text.substr(start, text.find('\n', start) - start));
    if (probe.ok()) return std::move(*probe);
  }
  std::string last = text.substr(text.size() - std::min<std::size_t>(text.size(), 600));
  std::replace(last.begin(), last.end(), '\n', ' ');
  return failed(in_time ? fmt::format("four ranks on this machine formed no job: {}", last)
                        : fmt::format("four ranks on this machine did not come to an end within {} s: {}", seconds, last),
                "see what they say; CARDEA_DEBUG=INFO says more");
}

}  // namespace cardea::doctor
