// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/environment.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "lib/bootstrap/secret_file.h"
#include "lib/bootstrap/slurm_hosts.h"
#include "tests/bootstrap/joining.h"
#include "tests/support/ranks.h"

namespace cardea::bootstrap {
namespace {

using Variables = std::map<std::string, std::string>;

class EnvironmentTest : public ::testing::Test {
 protected:
  EnvironmentTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "cardea-home-XXXXXX";
    home_ = mkdtemp(pattern.data());
  }
  ~EnvironmentTest() override { std::filesystem::remove_all(home_); }

  Result<Options> read(Variables variables) {
    variables.emplace("HOME", home_);
    return from_environment([&](const char* name) -> std::optional<std::string> {
      const auto found = variables.find(name);
      return found == variables.end() ? std::nullopt : std::optional(found->second);
    });
  }
  std::string home_;
};

const Variables kCardeaRun = {{"CARDEA_RANK", "1"}, {"CARDEA_WORLD_SIZE", "4"}, {"CARDEA_ROOT", "127.0.0.1:4000"}};
const Variables kTorchrun = {{"RANK", "2"},
                             {"WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "node7"},
                             {"MASTER_PORT", "29500"},
                             {"TORCHELASTIC_RUN_ID", "abc"},
                             {"TORCHELASTIC_RESTART_COUNT", "1"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "3"},
                            {"OMPI_COMM_WORLD_SIZE", "4"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                            {"PMIX_NAMESPACE", "77@1"}};
const Variables kSlurm = {{"SLURM_PROCID", "5"},
                          {"SLURM_NTASKS", "8"},
                          {"SLURM_JOB_ID", "123"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_STEP_NODELIST", "gpu[007-012,020],x"}};

Variables with(Variables base, const Variables& changes) {
  for (const auto& [name, value] : changes) base[name] = value;
  return base;
}

TEST_F(EnvironmentTest, ReadsEachLaunchersRankSizeAndRoot) {
  const struct {
    Variables variables;
    Rank rank;
    std::uint32_t size;
    std::string root;
  } cases[] = {{kCardeaRun, 1, 4, "127.0.0.1:4000"},
               {kTorchrun, 2, 4, "node7:29501"},
               {with(kTorchrun, {{"CARDEA_ROOT", "[::1]:9"}}), 2, 4, "[::1]:9"},
               {with(kOpenMpi, {{"CARDEA_ROOT", "h:9"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}}), 3, 4, "h:9"},
               {with(kSlurm, {{"CARDEA_ROOT", "unix:x"}}), 5, 8, "unix:x"}};
  for (const auto& expected : cases) {
    const Result<Options> options = read(expected.variables);
    ASSERT_TRUE(options.ok()) << options.status().message();
    EXPECT_EQ(options->rank, expected.rank);
    EXPECT_EQ(options->world_size, expected.size);
    EXPECT_EQ(to_string(options->roots.at(0)), expected.root);
    EXPECT_TRUE(options->runs_meeting_point);
    EXPECT_NE(options->secret, Secret{});
  }
  EXPECT_TRUE(read(kOpenMpi)->roots.at(0).unix_name.starts_with("cardea-"));
  const Endpoint slurm = read(kSlurm)->roots.at(0);
  EXPECT_EQ(slurm.host, "gpu007");
  EXPECT_GE(slurm.port, 20000);
  EXPECT_LT(slurm.port, 32000);
}

TEST_F(EnvironmentTest, JobsThatDifferHaveOtherNamesAndKeys) {
  EXPECT_NE(read(kTorchrun)->job, read(with(kTorchrun, {{"TORCHELASTIC_RESTART_COUNT", "2"}}))->job);
  EXPECT_NE(read(kTorchrun)->secret, read(with(kTorchrun, {{"TORCHELASTIC_RESTART_COUNT", "2"}}))->secret);
  EXPECT_NE(read(kOpenMpi)->roots, read(with(kOpenMpi, {{"PMIX_NAMESPACE", "78@1"}}))->roots);
  EXPECT_NE(read(kSlurm)->job, read(with(kSlurm, {{"SLURM_STEP_ID", "1"}}))->job);
  EXPECT_EQ(read(kSlurm)->secret, read(with(kSlurm, {{"SLURM_PROCID", "0"}}))->secret);
}

TEST_F(EnvironmentTest, TheFirstLauncherInOrderDecides) {
  Variables all = with(with(with(kCardeaRun, kTorchrun), kOpenMpi), kSlurm);
  EXPECT_EQ(read(all)->rank, 1u);
  all.erase("CARDEA_RANK"), all.erase("CARDEA_WORLD_SIZE"), all.erase("CARDEA_ROOT");
  EXPECT_EQ(read(all)->rank, 2u);
  all.erase("RANK");  // WORLD_SIZE alone, as batch scripts export it, does not make it torchrun's
  EXPECT_EQ(read(all)->rank, 3u);
  all.erase("OMPI_COMM_WORLD_RANK");
  EXPECT_EQ(read(all)->rank, 5u);
}

TEST_F(EnvironmentTest, WhatIsPresentAndWrongIsNamed) {
  const struct {
    Variables variables;
    const char* named;
  } cases[] = {{{}, "CARDEA_RANK"},
               {{{"CARDEA_RANK", "0"}}, "CARDEA_WORLD_SIZE is not set"},
               {{{"CARDEA_WORLD_SIZE", "2"}}, "CARDEA_RANK is not set"},
               {{{"CARDEA_RANK", "0"}, {"CARDEA_WORLD_SIZE", "2"}}, "CARDEA_ROOT is not set"},
               {with(kCardeaRun, {{"CARDEA_RANK", "x"}}), "CARDEA_RANK: \"x\""},
               {with(kCardeaRun, {{"CARDEA_RANK", "-1"}}), "CARDEA_RANK: \"-1\""},
               {with(kCardeaRun, {{"CARDEA_RANK", "4"}}), "CARDEA_RANK is 4"},
               {with(kCardeaRun, {{"CARDEA_WORLD_SIZE", "0"}}), "CARDEA_WORLD_SIZE: 0"},
               {with(kCardeaRun, {{"CARDEA_WORLD_SIZE", "99999999999999999999"}}), "CARDEA_WORLD_SIZE"},
               {with(kCardeaRun, {{"CARDEA_ROOT", "host:0"}}), "CARDEA_ROOT"},
               {with(kCardeaRun, {{"CARDEA_ROOT", "host:99999"}}), "CARDEA_ROOT"},
               {with(kTorchrun, {{"MASTER_PORT", "0"}}), "MASTER_PORT: 0"},
               {with(kTorchrun, {{"MASTER_PORT", "99999"}}), "MASTER_PORT: 99999"},
               {with(kTorchrun, {{"MASTER_ADDR", ""}}), "MASTER_ADDR is not set"},
               {{{"WORLD_SIZE", "4"}}, "RANK is not set"},
               {{{"OMPI_COMM_WORLD_RANK", "1"}}, "OMPI_COMM_WORLD_SIZE is not set"},
               {with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}}), "set CARDEA_ROOT"},
               {with(kOpenMpi, {{"PMIX_NAMESPACE", ""}}), "PMIX_NAMESPACE"},
               {with(kSlurm, {{"SLURM_NTASKS", "5"}}), "SLURM_PROCID is 5"},
               {with(kSlurm, {{"SLURM_JOB_ID", ""}}), "SLURM_JOB_ID"},
               {with(kSlurm, {{"SLURM_STEP_NODELIST", "gpu[1"}}), "SLURM_STEP_NODELIST"},
               {with(kCardeaRun, {{"CARDEA_SECRET_FILE", "/nonexistent"}}), "CARDEA_SECRET_FILE"},
               {with(kCardeaRun, {{"HOME", ""}}), "HOME"}};
  for (const auto& wrong : cases) {
    const Status status = read(wrong.variables).status();
    EXPECT_EQ(status.code(), CARDEA_ERR_CONFIGURATION) << wrong.named;
    EXPECT_NE(status.message().find(wrong.named), std::string::npos) << status.message();
  }
}

TEST_F(EnvironmentTest, OneRankNeedsNeitherRootNorSecret) {
  const Result<Options> options = read({{"CARDEA_RANK", "0"}, {"CARDEA_WORLD_SIZE", "1"}});
  ASSERT_TRUE(options.ok()) << options.status().message();
  EXPECT_TRUE(join(*options, in_seconds(1)).ok());
  EXPECT_FALSE(std::filesystem::exists(home_ + "/.cardea"));
}

TEST_F(EnvironmentTest, RacingRanksMakeOneSecretAndLeaveNothingElse) {
  test::SharedBoard board;
  test::run_ranks(8, [&](Rank rank) {
    board.barrier(0, 8);
    const Result<Bytes> secret = read_or_make_user_secret(home_);
    ASSERT_TRUE(secret.ok()) << secret.status().message();
    ASSERT_EQ(secret->size(), 32u);
    board.set(rank, std::to_integer<unsigned long>((*secret)[0]) << 8 | std::to_integer<unsigned long>((*secret)[31]));
  });
  for (Rank rank = 1; rank < 8; ++rank) EXPECT_EQ(board.get(rank), board.get(0));
  struct stat about {};
  ASSERT_EQ(stat((home_ + "/.cardea/secret").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 07777, 0600u);
  ASSERT_EQ(stat((home_ + "/.cardea").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 07777, 0700u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(home_ + "/.cardea"), {}), 1);
}

TEST_F(EnvironmentTest, ASecretFileThatOthersMayReadOrThatIsShortIsRefused) {
  const std::string path = home_ + "/s";
  const auto make = [&](std::size_t bytes, mode_t mode) {
    std::ofstream(path, std::ios::trunc) << std::string(bytes, 's');
    chmod(path.c_str(), mode);
    return read_secret_file(path).status();
  };
  EXPECT_TRUE(make(16, 0600).ok());
  EXPECT_TRUE(make(4096, 0400).ok());
  chmod(path.c_str(), 0600);
  EXPECT_NE(make(32, 0640).message().find("0640"), std::string::npos);
  EXPECT_EQ(make(15, 0600).code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_EQ(make(4097, 0600).code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_NE(read_secret_file(home_).status().message().find("not a regular file"), std::string::npos);
}

TEST(SlurmHosts, FindsTheFirst) {
  const std::pair<const char*, const char*> cases[] = {
      {"a", "a"},     {"node001,node002", "node001"},   {"n[007-012,020]", "n007"},
      {"n[3]", "n3"}, {"r[1-2]n[5,9]-ib,x", "r1n5-ib"}, {"10.0.0.1", "10.0.0.1"}};
  for (const auto& [list, host] : cases) {
    const Result<std::string> first = first_slurm_host(list);
    ASSERT_TRUE(first.ok()) << list;
    EXPECT_EQ(*first, host);
  }
  for (const char* list : {"", ",a", "n[", "n[]", "n[a]", "n[1-x]", "a b", "n]"})
    EXPECT_FALSE(first_slurm_host(list).ok()) << list;
  EXPECT_FALSE(first_slurm_host(std::string(256, 'a')).ok());
}

}  // namespace
}  // namespace cardea::bootstrap
