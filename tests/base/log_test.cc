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
