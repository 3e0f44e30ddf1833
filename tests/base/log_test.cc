// SPDX-License-Identifier: Apache-2.0
// What CARDEA_DEBUG and CARDEA_DEBUG_FILE show, where, and what they refuse. Each test runs in a
// process of its own, since the log is the process's.
#include "lib/base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "lib/base/path_pattern.h"
#include "tests/support/ranks.h"

namespace cardea::log {
namespace {

struct Variables {
  const char* level = nullptr;
  std::string file = {};
};

Status configure(const Variables& variables) {
  const auto set = [](const char* name, const char* value) { value == nullptr ? unsetenv(name) : setenv(name, value, 1); };
  set("CARDEA_DEBUG", variables.level);
  set("CARDEA_DEBUG_FILE", variables.file.empty() ? nullptr : variables.file.c_str());
  return configure_from_environment();
}

void alone(const std::function<void()>& body) {
  test::run_ranks(1, [&](unsigned) { body(); });
}

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Log, LevelsAndVersion) {
  alone([] {
    ASSERT_TRUE(configure({}).ok());
    EXPECT_TRUE(enabled(Level::kWarn, "ucx"));
    EXPECT_FALSE(enabled(Level::kInfo, "ucx"));
    EXPECT_FALSE(tells_version());
    ASSERT_TRUE(configure({.level = "VERSION"}).ok());
    EXPECT_TRUE(enabled(Level::kError, "ucx"));
    EXPECT_FALSE(enabled(Level::kWarn, "ucx"));
    EXPECT_TRUE(tells_version());
    ASSERT_TRUE(configure({.level = "TRACE"}).ok());
    EXPECT_TRUE(enabled(Level::kTrace, "ucx"));
    EXPECT_TRUE(tells_version());
  });
}

TEST(Log, MuchTextDoesNotWaitForAReaderAndGoesOnWhereItStopped) {
  alone([] {
    ASSERT_TRUE(configure({}).ok());
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    ASSERT_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    std::string lines;
    for (int i = 0; i < 20000; ++i) lines += "line " + std::to_string(i) + "\n";
    lines.append(9000, 'x').append("\nlast");
    std::size_t done = try_write_lines(Level::kWarn, "7", "engine", lines);
    ASSERT_GT(done, 0u);
    ASSERT_LT(done, lines.size()) << "a pipe holds 64 KiB";
    EXPECT_EQ(lines[done - 1], '\n') << "whole lines";
    EXPECT_EQ(try_write_lines(Level::kWarn, "7", "engine", std::string_view(lines).substr(done)), 0u);
    std::string read_back;
    char buffer[4096];
    while (done < lines.size()) {
      read_back.append(buffer, static_cast<std::size_t>(std::max<ssize_t>(0, read(ends[0], buffer, sizeof buffer))));
      done += try_write_lines(Level::kWarn, "7", "engine", std::string_view(lines).substr(done));
    }
    close(ends[1]);
    close(STDERR_FILENO);
    for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
      read_back.append(buffer, static_cast<std::size_t>(got));
    std::istringstream back(read_back);
    std::string line;
    for (int i = 0; i < 20000; ++i) {
      ASSERT_TRUE(std::getline(back, line));
      ASSERT_EQ(line, "cardea[7] WARN engine: line " + std::to_string(i));
    }
    ASSERT_TRUE(std::getline(back, line));
    EXPECT_EQ(line.size(), 4095u) << "a long line loses its end";
    ASSERT_TRUE(std::getline(back, line));
    EXPECT_EQ(line, "cardea[7] WARN engine: last");
    EXPECT_FALSE(std::getline(back, line));
  });
}

TEST(Log, TextForWhichNobodyIsThereIsDropped) {
  alone([] {
    ASSERT_TRUE(configure({}).ok());
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    ASSERT_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    close(ends[0]);
    EXPECT_EQ(try_write_lines(Level::kWarn, "7", "engine", "one\ntwo\n"), 8u) << "and no SIGPIPE";
  });
}

TEST(Log, SubsystemsSelectInfoAndTraceButNotWarnings) {
  alone([] {
    ASSERT_TRUE(configure({.level = "INFO:ucx,cache"}).ok());
    EXPECT_TRUE(enabled(Level::kInfo, "ucx"));
    EXPECT_TRUE(enabled(Level::kInfo, "cache"));
    EXPECT_FALSE(enabled(Level::kInfo, "shm"));
    EXPECT_TRUE(enabled(Level::kWarn, "shm"));
    ASSERT_TRUE(configure({.level = "INFO:^events"}).ok());
    EXPECT_FALSE(enabled(Level::kInfo, "events"));
    EXPECT_TRUE(enabled(Level::kInfo, "shm"));
  });
}

TEST(Log, WhatIsWrongIsRefusedByName) {
  alone([] {
    const auto refused = [](const Variables& variables, const char* name) {
      const Status status = configure(variables);
      EXPECT_EQ(status.code(), CARDEA_ERR_CONFIGURATION) << name;
      EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
    };
    refused({.level = "warn"}, "CARDEA_DEBUG is \"warn\"");
    refused({.level = "INFO:ucx,nonsense"}, "CARDEA_DEBUG is \"INFO:ucx,nonsense\"; behind the colon");
    refused({.level = "INFO:"}, "behind the colon");
    refused({.level = "TRACE:^"}, "behind the colon");
    refused({.file = "x%q"}, "CARDEA_DEBUG_FILE");
    refused({.file = "/nonexistent-directory/x"}, "CARDEA_DEBUG_FILE: open: /nonexistent-directory/x");
  });
}

TEST(Log, AFileGetsTheLinesOfItsRank) {
  const std::string directory = (std::filesystem::temp_directory_path() / fmt::format("cardea-log-{}", getpid())).string();
  std::filesystem::create_directory(directory);
  alone([&] {
    ASSERT_TRUE(configure({.file = directory + "/%r.%p.log"}).ok());
    ASSERT_TRUE(open_file(7).ok());
    const std::string path = fmt::format("{}/7.{}.log", directory, getpid());
    print(Level::kWarn, "7", "ucx", "a {}", "warning");
    print(Level::kInfo, "7", "ucx", "not shown");
    write_lines(Level::kError, "7", "engine", "one\ntwo\n");
    EXPECT_EQ(text_of(path), "cardea[7] WARN ucx: a warning\ncardea[7] ERROR engine: one\ncardea[7] ERROR engine: two\n");
    ASSERT_TRUE(open_file(8).ok());
    print(Level::kWarn, "8", "ucx", "another rank of this process");
    EXPECT_EQ(text_of(fmt::format("{}/8.{}.log", directory, getpid())),
              "cardea[8] WARN ucx: another rank of this process\n");
  });
  std::filesystem::remove_all(directory);
}

TEST(PathPattern, ExpandsHostProcessRankAndPercent) {
  char host[256] = {};
  ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
  const auto path = expand_path("a%%b.%h.%p.%r", 12);
  ASSERT_TRUE(path.ok());
  EXPECT_EQ(*path, fmt::format("a%b.{}.{}.12", host, getpid()));
  EXPECT_FALSE(expand_path("a%", 1).ok());
  EXPECT_FALSE(expand_path("%R", 1).ok());
  EXPECT_TRUE(names_rank("x.%r"));
  EXPECT_FALSE(names_rank("x%%r"));
}

}  // namespace
}  // namespace cardea::log
