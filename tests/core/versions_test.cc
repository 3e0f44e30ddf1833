// SPDX-License-Identifier: Apache-2.0
// The version machine of several ranks, notices carried by hand.
#include "lib/core/versions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <set>

namespace cardea::core {
namespace {

using testing::HasSubstr;

/// All members of a layer; what one tells another arrives in order, pair by pair.
class Members {
 public:
  explicit Members(std::vector<Node> node_of) : node_of_(std::move(node_of)) {
    std::vector<Rank> ranks;
    for (Rank rank = 0; rank < node_of_.size(); ++rank) ranks.push_back(rank);
    for (const Rank rank : ranks) versions_.emplace_back(Membership(rank, ranks, node_of_));
  }

  Versions& at(Rank rank) { return versions_[rank]; }
  Status publish(Rank rank, Version version) {
    return with_notices(rank, [&](auto& out) { return at(rank).publish(version, out); });
  }
  void finish(Rank rank, Version version) {
    (void)with_notices(rank, [&](auto& out) { return at(rank).finish(version, out), Status(); });
  }
  void leave(Rank rank) { go(rank, true); }
  void die(Rank rank) { go(rank, false); }
  void deliver() {
    while (!flying_.empty()) {
      const auto [from, notice] = flying_.front();
      flying_.pop_front();
      sent_.emplace_back(from, notice);
      const Status status = with_notices(notice.to, [&](auto& out) { return at(notice.to).receive(from, notice, out); });
      EXPECT_TRUE(status.ok()) << status.message();
    }
  }
  std::vector<std::pair<Rank, Notice>> take_sent() { return std::exchange(sent_, {}); }
  Node node(Rank rank) const { return node_of_[rank]; }
  Rank count() const { return static_cast<Rank>(node_of_.size()); }

 private:
  void go(Rank rank, bool left) {
    for (Rank other = 0; other < versions_.size(); ++other) {
      if (other != rank) (void)with_notices(other, [&](auto& out) { return at(other).lose(rank, left, out), Status(); });
    }
    std::erase_if(flying_, [&](const auto& entry) { return entry.second.to == rank; });
  }
  template <typename Do>
  Status with_notices(Rank rank, Do act) {
    std::vector<Notice> notices;
    const Status status = act(notices);
    for (const Notice& notice : notices) flying_.emplace_back(rank, notice);
    return status;
  }

  std::vector<Node> node_of_;
  std::deque<Versions> versions_;
  std::deque<std::pair<Rank, Notice>> flying_;
  std::vector<std::pair<Rank, Notice>> sent_;
};

cardea_status_t told(Versions& to, Rank from, Notice::Kind kind, Node node, Version version) {
  std::vector<Notice> out;
  return to.receive(from, {kNoRank, kind, node, version}, out).code();
}

TEST(Versions, PublishedIsToldToEveryOtherMember) {
  Members all({0, 0, 1});
  EXPECT_EQ(all.at(1).published(0), kNoVersion);
  ASSERT_TRUE(all.publish(0, 5).ok());
  all.deliver();
  for (Rank rank = 0; rank < 3; ++rank) EXPECT_EQ(all.at(rank).published(0), 5u);
  EXPECT_EQ(all.take_sent().size(), 2u);
  EXPECT_TRUE(all.at(0).valid_here(5));
  EXPECT_FALSE(all.at(0).valid_here(4));
  EXPECT_FALSE(all.at(1).valid_here(5));
}

TEST(Versions, PublishIsRefusedOutOfTurn) {
  Members all({0});
  EXPECT_EQ(all.publish(0, kNoVersion).code(), CARDEA_ERR_INVALID_ARGUMENT);
  ASSERT_TRUE(all.publish(0, 5).ok());
  EXPECT_EQ(all.publish(0, 6).code(), CARDEA_ERR_BUSY) << "5 is not collected";
  all.finish(0, 5);
  ASSERT_TRUE(all.at(0).collect(5, false).ok());
  EXPECT_EQ(all.publish(0, 5).code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(all.publish(0, 4).code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_TRUE(all.publish(0, 9).ok());
}

TEST(Versions, FinishIsRefusedASecondTime) {
  Members all({0});
  EXPECT_EQ(all.at(0).finished(), std::nullopt);
  EXPECT_EQ(all.at(0).may_finish(kNoVersion).code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_TRUE(all.at(0).may_finish(0).ok()) << "0 is a version";
  all.finish(0, 3);
  EXPECT_EQ(all.at(0).finished(), 3u);
  EXPECT_EQ(all.at(0).may_finish(3).code(), CARDEA_ERR_STALE);
  EXPECT_EQ(all.at(0).may_finish(2).code(), CARDEA_ERR_STALE);
  EXPECT_TRUE(all.at(0).may_finish(4).ok());
}

TEST(Versions, CollectWaitsForEveryNodeAndForWhatIsLent) {
  Members all({0, 0, 1, 1});
  ASSERT_TRUE(all.publish(0, 1).ok());
  all.deliver();
  EXPECT_EQ(all.at(0).collect(2, false).code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(all.at(1).collect(1, false).code(), CARDEA_ERR_INVALID_ARGUMENT) << "published by another";
  EXPECT_EQ(all.at(0).collect(1, false).code(), CARDEA_ERR_BUSY) << "not finished here";
  for (const Rank rank : {0u, 3u, 1u}) {
    all.finish(rank, 1);
    all.deliver();
    EXPECT_EQ(all.at(0).collect(1, false).code(), CARDEA_IN_PROGRESS) << "after rank " << rank;
  }
  all.finish(2, 1);
  all.deliver();
  EXPECT_EQ(all.at(0).collect(1, true).code(), CARDEA_IN_PROGRESS) << "something is lent";
  EXPECT_TRUE(all.at(0).collect(1, false).ok());
  EXPECT_EQ(all.at(0).collect(1, false).code(), CARDEA_ERR_STALE);
  EXPECT_EQ(all.at(0).published(0), kNoVersion);
}

TEST(Versions, FinishingALaterVersionFinishesTheEarlierOnes) {
  Members all({0, 1});
  ASSERT_TRUE(all.publish(0, 1).ok());
  all.finish(0, 1);
  all.finish(1, 4);
  all.deliver();
  EXPECT_TRUE(all.at(0).collect(1, false).ok());
}

TEST(Versions, OneFinishMessageForEachOrderedPairOfNodes) {
  for (const auto& nodes :
       std::vector<std::vector<Node>>{{0, 0, 1, 1}, {0, 0, 0, 1, 1, 1, 2, 2, 2}, {4, 2, 4, 2, 9}, {0, 0}, {0}}) {
    Members all(nodes);
    for (Rank rank = all.count(); rank-- > 0;) all.finish(rank, 7);
    all.deliver();
    const std::set<Node> distinct(nodes.begin(), nodes.end());
    std::map<std::pair<Node, Node>, int> between;
    int inside = 0;
    for (const auto& [from, notice] : all.take_sent()) {
      if (all.node(from) == all.node(notice.to)) {
        ++inside;
      } else {
        ++between[{all.node(from), all.node(notice.to)}];
      }
    }
    EXPECT_EQ(between.size(), distinct.size() * (distinct.size() - 1));
    for (const auto& [pair, count] : between) EXPECT_EQ(count, 1) << pair.first << " to " << pair.second;
    // In a node each but the leader reports once, and hears once of each node.
    const auto followers = static_cast<int>(nodes.size() - distinct.size());
    EXPECT_EQ(inside, followers + followers * static_cast<int>(distinct.size()));
    for (Rank rank = 0; rank < all.count(); ++rank) {
      ASSERT_TRUE(all.publish(rank, 7).ok());
      EXPECT_TRUE(all.at(rank).collect(7, false).ok()) << "everybody knows of everybody";
    }
  }
}

TEST(Versions, NoticesThatThePeerMayNotSendAreRefused) {
  Members all({0, 0, 1, 1});  // leaders 0 and 2
  const auto published = Notice::Kind::kPublished, rank_done = Notice::Kind::kRankFinished,
             node_done = Notice::Kind::kNodeFinished;
  EXPECT_EQ(told(all.at(0), 9, published, 0, 1), CARDEA_ERR_PROTOCOL) << "no member";
  EXPECT_EQ(told(all.at(0), 1, published, 0, kNoVersion), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(told(all.at(0), 1, published, 0, 5), CARDEA_OK);
  EXPECT_EQ(told(all.at(0), 1, published, 0, 5), CARDEA_ERR_PROTOCOL) << "not greater than its last";
  EXPECT_EQ(told(all.at(0), 1, published, 0, 4), CARDEA_ERR_PROTOCOL);

  EXPECT_EQ(told(all.at(0), 2, rank_done, 0, 1), CARDEA_ERR_PROTOCOL) << "of another node";
  EXPECT_EQ(told(all.at(0), 1, rank_done, 0, 2), CARDEA_OK);
  EXPECT_EQ(told(all.at(0), 1, rank_done, 0, 2), CARDEA_OK) << "repeated when a leader has gone";

  EXPECT_EQ(told(all.at(0), 2, node_done, 5, 1), CARDEA_ERR_PROTOCOL) << "no such node";
  EXPECT_EQ(told(all.at(0), 2, node_done, 0, 1), CARDEA_ERR_PROTOCOL) << "rank 2 is not of node 0";
  EXPECT_EQ(told(all.at(0), 1, node_done, 0, 1), CARDEA_ERR_PROTOCOL) << "a leader is not told of its own node";
  EXPECT_EQ(told(all.at(1), 2, node_done, 1, 1), CARDEA_OK) << "who leads is not asked, since leaders change";
  EXPECT_EQ(told(all.at(1), 0, node_done, 1, 1), CARDEA_OK);
  EXPECT_EQ(told(all.at(0), 2, node_done, 1, 1), CARDEA_OK);
  EXPECT_EQ(told(all.at(0), 2, static_cast<Notice::Kind>(9), 1, 1), CARDEA_ERR_PROTOCOL);
}

TEST(Versions, ALostRankIsNamedIfItsNodeHadNotFinished) {
  Members all({0, 1, 1});
  ASSERT_TRUE(all.publish(0, 1).ok());
  all.finish(0, 1);
  all.deliver();
  all.die(2);
  const Status status = all.at(0).collect(1, false);
  EXPECT_EQ(status.code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(status.detail().peer, 2u);
}

TEST(Versions, ARankLostAfterItsNodeHadFinishedHindersNothing) {
  Members all({0, 1, 1});
  ASSERT_TRUE(all.publish(0, 1).ok());
  for (Rank rank = 0; rank < 3; ++rank) all.finish(rank, 1);
  all.deliver();
  for (const Rank rank : {1u, 2u}) all.die(rank);
  EXPECT_TRUE(all.at(0).collect(1, false).ok());
}

TEST(Versions, TheNextRankTakesOverFromALeaderThatLeft) {
  // Rank 0 leads ranks 1 and 2, and leaves before, while or after the others finish: whatever it had not passed on is told
  // again to rank 1.
  for (const int moment : {0, 1, 2}) {
    Members all({0, 0, 0, 1, 1});
    for (const Rank source : {1u, 4u}) ASSERT_TRUE(all.publish(source, 1).ok());
    all.deliver();
    if (moment == 0) all.leave(0);
    for (const Rank rank : {1u, 3u, 4u}) all.finish(rank, 1);
    if (moment != 1) all.deliver();
    if (moment == 1) all.leave(0);  // with everything that was on its way to it
    all.deliver();
    all.finish(2, 1);
    if (moment == 2) all.leave(0);
    all.deliver();
    for (const Rank source : {1u, 4u})
      EXPECT_TRUE(all.at(source).collect(1, false).ok()) << "rank " << source << ", moment " << moment;
  }
}

TEST(Versions, ADeadLeaderIsNamed) {
  Members all({0, 0, 1});
  ASSERT_TRUE(all.publish(1, 1).ok());
  all.finish(1, 1);
  all.die(0);
  all.finish(2, 1);
  all.deliver();
  const Status status = all.at(1).collect(1, false);
  EXPECT_EQ(status.code(), CARDEA_ERR_PEER_LOST) << "it had not finished, and never will";
  EXPECT_EQ(status.detail().peer, 0u);
}

TEST(Versions, WhoHasLeftHoldsNobodyUp) {
  Members all({0, 0, 1});
  ASSERT_TRUE(all.publish(2, 1).ok());
  all.finish(0, 1);
  all.finish(2, 1);
  all.deliver();
  EXPECT_EQ(all.at(2).collect(1, false).code(), CARDEA_IN_PROGRESS);
  all.leave(1);  // without a word of finish
  all.deliver();
  EXPECT_TRUE(all.at(2).collect(1, false).ok());
}

}  // namespace
}  // namespace cardea::core
