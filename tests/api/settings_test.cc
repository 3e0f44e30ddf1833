// SPDX-License-Identifier: Apache-2.0
// What the environment sets: few variables, all of them in the README, and none that is taken when it is wrong.
#include "lib/api/settings.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <string>

namespace cardea::api {
namespace {

using Values = std::map<std::string, std::string>;

Result<Settings> settings(const Values& values, const cardea_config_t& config = CARDEA_CONFIG_INIT) {
  return settings_of(config, [values](const char* name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  });
}

TEST(Settings, DefaultsAreThoseOfTheTable) {
  const Result<Settings> defaults = settings({});
  ASSERT_TRUE(defaults.ok());
  EXPECT_EQ(defaults->setup_timeout, std::chrono::seconds(60));
  EXPECT_EQ(defaults->chunk_bytes, 1048576u);
  EXPECT_EQ(defaults->chunks_in_flight, 8u);
  EXPECT_EQ(defaults->node_id, "");
  EXPECT_EQ(defaults->watch.liveness.interval, std::chrono::seconds(1));
  EXPECT_EQ(defaults->watch.liveness.limit, std::chrono::seconds(5));
  EXPECT_EQ(defaults->watch.progress_limit, std::chrono::minutes(10));
  EXPECT_EQ(defaults->watch.progress_warning, std::chrono::seconds(30));
}

TEST(Settings, TheEnvironmentReplacesDefaultsAndTheConfigurationReplacesTheEnvironment) {
  const Values values = {{"CARDEA_SETUP_TIMEOUT", "5"},
                         {"CARDEA_CHUNK_BYTES", "8192"},
                         {"CARDEA_CHUNKS_IN_FLIGHT", "3"},
                         {"CARDEA_NODE_ID", "a"}};
  const Result<Settings> environment = settings(values);
  ASSERT_TRUE(environment.ok());
  EXPECT_EQ(environment->setup_timeout, std::chrono::seconds(5));
  EXPECT_EQ(environment->chunk_bytes, 8192u);
  EXPECT_EQ(environment->chunks_in_flight, 3u);
  EXPECT_EQ(environment->node_id, "a");
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.setup_timeout = 7;
  config.chunk_bytes = 4096;
  config.chunks_in_flight = 2;
  config.node_id = "b";
  const Result<Settings> given = settings(values, config);
  ASSERT_TRUE(given.ok());
  EXPECT_EQ(given->setup_timeout, std::chrono::nanoseconds(7));
  EXPECT_EQ(given->chunk_bytes, 4096u);
  EXPECT_EQ(given->chunks_in_flight, 2u);
  EXPECT_EQ(given->node_id, "b");
}

TEST(Settings, HeartbeatsFollowTheLivenessLimitUnlessTheyAreSet) {
  const Result<Settings> short_limit = settings({{"CARDEA_LIVENESS_LIMIT", "1000"}});
  ASSERT_TRUE(short_limit.ok());
  EXPECT_EQ(short_limit->watch.liveness.interval, std::chrono::milliseconds(200));
  EXPECT_EQ(settings({{"CARDEA_LIVENESS_LIMIT", "60000"}})->watch.liveness.interval, std::chrono::seconds(1));
  const Result<Settings> both = settings({{"CARDEA_LIVENESS_LIMIT", "1000"}, {"CARDEA_HEARTBEAT", "500"}});
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(both->watch.liveness.interval, std::chrono::milliseconds(500));
  EXPECT_EQ(settings({{"CARDEA_HEARTBEAT", "2501"}}).status().code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_EQ(settings({{"CARDEA_PROGRESS_LIMIT", "100"}})->watch.progress_warning, std::chrono::seconds(5));
}

TEST(Settings, AValueThatIsWrongIsAnErrorThatNamesVariableAndValue) {
  for (const char* const name : {"CARDEA_SETUP_TIMEOUT", "CARDEA_CHUNK_BYTES", "CARDEA_CHUNKS_IN_FLIGHT", "CARDEA_HEARTBEAT",
                                 "CARDEA_LIVENESS_LIMIT", "CARDEA_PROGRESS_LIMIT"}) {
    for (const char* const value : {"", "0", "-1", "x", "10s", "1e3", " 4096", "4096 ", "0x1000", "99999999999999999999"}) {
      const Result<Settings> wrong = settings({{name, value}});
      ASSERT_FALSE(wrong.ok()) << name << "=" << value;
      EXPECT_EQ(wrong.status().code(), CARDEA_ERR_CONFIGURATION);
      EXPECT_NE(wrong.status().message().find(std::string(name) + " is \"" + value + "\""), std::string::npos)
          << wrong.status().message();
    }
  }
  EXPECT_FALSE(settings({{"CARDEA_CHUNK_BYTES", "4095"}}).ok());
  EXPECT_FALSE(settings({{"CARDEA_CHUNKS_IN_FLIGHT", "1025"}}).ok());
}

TEST(Settings, WhetherTheNetworkWritesIntoAGpuIsAutoOnOrOff) {
  EXPECT_EQ(settings({})->gpu_direct, engine::GpuDirect::kAuto);
  EXPECT_EQ(settings({{"CARDEA_GPU_DIRECT", "auto"}})->gpu_direct, engine::GpuDirect::kAuto);
  EXPECT_EQ(settings({{"CARDEA_GPU_DIRECT", "on"}})->gpu_direct, engine::GpuDirect::kOn);
  EXPECT_EQ(settings({{"CARDEA_GPU_DIRECT", "off"}})->gpu_direct, engine::GpuDirect::kOff);
  for (const std::string value : {"", "1", "ON", "yes", "on,off", " on"}) {
    const Result<Settings> wrong = settings({{"CARDEA_GPU_DIRECT", value}});
    ASSERT_FALSE(wrong.ok()) << value;
    EXPECT_EQ(wrong.status().code(), CARDEA_ERR_CONFIGURATION);
    EXPECT_NE(wrong.status().message().find("CARDEA_GPU_DIRECT is \"" + value + "\"; it takes auto, on or off"),
              std::string::npos)
        << wrong.status().message();
  }
}

TEST(Settings, AWrongValueStopsTheCreationOfAContext) {
  setenv("CARDEA_CHUNK_BYTES", "many", 1);
  cardea_context_t context{};
  EXPECT_EQ(cardea_context_create(nullptr, &context), CARDEA_ERR_CONFIGURATION);
  unsetenv("CARDEA_CHUNK_BYTES");
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  EXPECT_NE(std::string(info.message).find("CARDEA_CHUNK_BYTES is \"many\""), std::string::npos) << info.message;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

TEST(Settings, ThereAreFewVariablesEachWithUnitDefaultAndMeaning) {
  EXPECT_LE(kVariables.size(), 21u);
  std::set<std::string> names;
  for (const Variable& variable : kVariables) {
    EXPECT_EQ(std::string(variable.name).rfind("CARDEA_", 0), 0u) << variable.name;
    EXPECT_EQ(std::string(variable.name).find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_"), std::string::npos)
        << variable.name;
    EXPECT_TRUE(names.insert(variable.name).second) << variable.name << " is listed twice";
    for (const char* const field : {variable.unit, variable.fallback, variable.meaning}) EXPECT_STRNE(field, "");
  }
}

TEST(Settings, TheReadmesTableIsTheCodes) {
  const std::string readme = text_of(CARDEA_SOURCE_DIR "/README.md");
  const std::string head = "<!-- variables -->\n", foot = "<!-- /variables -->";
  const std::size_t begin = readme.find(head);
  if (begin == std::string::npos) GTEST_SKIP() << "README.md has no table of variables";
  const std::size_t end = readme.find(foot, begin);
  ASSERT_NE(end, std::string::npos);
  std::string table = readme.substr(begin + head.size(), end - begin - head.size());
  table.erase(0, table.find_first_not_of('\n'));
  table.erase(table.find_last_not_of('\n') + 1);
  EXPECT_EQ(table + "\n", variables_table()) << "cardea-run --variables prints what README.md should say";
}

}  // namespace
}  // namespace cardea::api
