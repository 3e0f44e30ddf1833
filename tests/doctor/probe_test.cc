// SPDX-License-Identifier: Apache-2.0
// Which peers are probed, what UCX's log says, and what members together show.
#include "lib/doctor/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "lib/doctor/own_job.h"
#include "tests/doctor/sample.h"

namespace cardea::doctor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST(PeersOf, AreThoseOfTheNodeAndOneOfEachOther) {
  EXPECT_THAT(peers_of(1, {0, 0, 2, 2}), ElementsAre(0, 3));
  EXPECT_THAT(peers_of(2, {0, 0, 2, 2}), ElementsAre(0, 3));
  EXPECT_THAT(peers_of(0, {0}), IsEmpty());
  EXPECT_THAT(peers_of(4, {0, 0, 0, 0, 4}), ElementsAre(0));
}

TEST(PeersOf, AreBoundedAndOfBothKinds) {
  std::vector<unsigned> node_of;
  for (unsigned rank = 0; rank < 800; ++rank) node_of.push_back(rank / 8 * 8);
  const std::vector<Rank> many = peers_of(13, node_of);
  EXPECT_EQ(many.size(), kMostPeers);
  EXPECT_EQ(std::count_if(many.begin(), many.end(), [](Rank rank) { return rank / 8 == 1; }), 7);
  const std::vector<Rank> crowd = peers_of(0, std::vector<unsigned>(100, 0));
  EXPECT_EQ(crowd.size(), kMostPeers);
}

TEST(DevicesOf, AreReadOutOfWhatUcxLogs) {
  EXPECT_EQ(
      devices_of("[1.5] [vm:1:0] ucp_worker.c:1763 UCX  INFO    ep_cfg[0]: rma_am(tcp/lo) am(tcp/lo) ka(tcp/lo)\n"
                 "[1.6] [vm:1:0] x UCX  INFO    ep_cfg[1]: tag(self/memory rc_mlx5/mlx5_0:1 tcp/eth0);\nother (a/b)\n"),
      "rc_mlx5/mlx5_0:1 tcp/eth0 tcp/lo");
  // As UCX 1.15 to 1.22 write it.
  EXPECT_EQ(devices_of("[1.5] [vm:1:0] ucp_worker.c:1991 UCX  INFO  cardea inter-node cfg#3 rma_am(tcp/eth0)  am(tcp/eth0)\n"
                       "[1.6] [vm:1:0] ucp_worker.c:1991 UCX  INFO  cardea self cfg#0 rma(self/memory)\n"),
            "tcp/eth0");
  EXPECT_EQ(devices_of("ep_cfg[0]: am(tcp/lo"), "");
  EXPECT_EQ(devices_of(""), "");
}

Member one(Rank rank, const std::string& host, unsigned node, double seconds = 0) {
  Member member;
  member.rank = rank;
  member.host = host;
  member.node = node;
  member.wall_ns = static_cast<std::int64_t>(seconds * 1e9);
  return member;
}

TEST(Judge, NothingIsWrongWithAJobInWhichAllHaveReachedAll) {
  EXPECT_THAT(judge({one(0, "a", 0, 5), one(1, "a", 0, 5.1), one(2, "b", 2, 5.9)}), IsEmpty());
  EXPECT_THAT(judge({}), IsEmpty());
}

TEST(Judge, NamesAPeerThatWasNotReached) {
  Member member = one(0, "a", 0);
  Peer peer;
  peer.rank = 3;
  peer.host = "b";
  peer.error = "CARDEA_ERR_TIMEOUT: nothing came";
  member.peers = {peer};
  const Findings found = judge({member});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].kind, "job.peer");
  EXPECT_EQ(found[0].severity, Severity::kError);
  EXPECT_THAT(found[0].what, HasSubstr("rank 0 (a) got nothing from rank 3 (b): CARDEA_ERR_TIMEOUT"));
}

TEST(Judge, NamesHostsWhoseClocksDiffer) {
  const Findings found = judge({one(0, "a", 0, 5), one(1, "b", 1, 9.5)});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].kind, "job.clocks");
  EXPECT_THAT(found[0].what, HasSubstr("a and b differ by 4.5 s"));
}

TEST(Judge, NamesRanksOfOneHostThatShareNoMemoryUnlessTheyWereToldTo) {
  const Findings found = judge({one(0, "a", 0), one(1, "a", 1)});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].kind, "job.nodes");
  Member told = one(1, "a", 1);
  told.node_id = "second";
  EXPECT_THAT(judge({one(0, "a", 0), told}), IsEmpty());
}

TEST(MemberJson, ComesBackAsItWent) {
  const Member member = sample_member();
  const auto back = member_from_json(to_json(member));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(to_json(*back), to_json(member));
  EXPECT_EQ(back->findings, member.findings);
  for (const char* const wrong :
       {"", "[]", "{}", "{\"rank\": \"x\"}", "\xff", "{\"rank\": -1}", "{\"rank\": 1e300}", "{\"rank\": 4294967296}"})
    EXPECT_FALSE(member_from_json(wrong).ok());

  Probe probe;
  probe.ranks = 2;
  probe.members = {member, one(1, "b", 1)};
  probe.findings = member.findings;
  const std::string line = probe_line(probe);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto again = probe_from_line(line);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(probe_line(*again), line);
  for (const char* const wrong : {"", "{}", "{\"ranks\": 1, \"members\": [1], \"findings\": \"\"}"})
    EXPECT_FALSE(probe_from_line(wrong).ok());
}

TEST(OwnJob, ReadsTheReportBehindMoreOutputThanItKeeps) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("cardea-own-job-" + std::to_string(getpid()));
  fs::create_directory(folder);
  Probe probe;
  probe.ranks = 4;
  probe.members = {sample_member()};
  std::ofstream(folder / "report") << kMemberMark << probe_line(probe) << "\n";
  std::ofstream(folder / "cardea-run") << "#!/bin/sh\nhead -c 20000000 /dev/zero | tr '\\0' 'x'\necho\ncat "
                                       << folder / "report"
                                       << "\n";
  fs::permissions(folder / "cardea-run", fs::perms::owner_all);
  const Probe read = own_job((folder / "cardea-doctor").string(), std::chrono::seconds(60));
  fs::remove_all(folder);
  EXPECT_EQ(read.ranks, 4u);
  EXPECT_THAT(read.members, SizeIs(1));
  EXPECT_THAT(read.findings, IsEmpty());
}

}  // namespace
}  // namespace cardea::doctor
