// SPDX-License-Identifier: Apache-2.0
// Who lives and who is lost, in virtual time: stops, deaths, partitions and late timers, up to whole jobs of random faults.
// What is proved: nobody is lost without a fault, a fault is known everywhere within the time promised, of two sides at most
// one goes on, and whoever was fenced learns it.
#include "lib/engine/liveness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "lib/transport/sim/virtual_time.h"
#include "tests/core/seeds.h"

namespace cardea::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Ranks and the messages between them, each 1 ms on its way.
class Job {
 public:
  explicit Job(std::vector<Node> node_of, LivenessOptions options = {}) : node_of_(std::move(node_of)), options_(options) {
    for (Rank rank = 0; rank < node_of_.size(); ++rank) {
      ranks_.push_back(std::make_unique<State>(Liveness(rank, node_of_, options_, time.now())));
      arm(rank);
    }
  }

  void run_for(Nanoseconds duration) { time.run_to(time.now() + duration); }
  /// SIGSTOP: what comes waits.
  void stop(Rank rank) { ranks_[rank]->stopped = true; }
  void resume(Rank rank) {
    State& state = *ranks_[rank];
    state.stopped = false;
    // Sockets and timers are ready at once, and nobody knows which comes first.
    if (timer_first) beat(rank);
    for (const auto& held : std::exchange(state.held, {})) held();
    if (!timer_first) beat(rank);
  }
  void kill(Rank rank) { ranks_[rank]->dead = true; }
  void notice_death(Rank by, Rank of) {
    ranks_[by]->lost[of] = Loss::kDied;
    ranks_[by]->liveness.noticed(of, Loss::kDied, node_of_[by] == node_of_[of], "its process has ended", time.now());
    carry_out(by);
  }
  /// Messages between these are lost.
  std::function<bool(Rank, Rank)> cut = [](Rank, Rank) { return false; };
  /// How late a rank's timer is.
  std::function<Nanoseconds(Rank)> late = [](Rank) { return Nanoseconds(0); };
  bool timer_first = false;

  const std::map<Rank, Loss>& lost(Rank rank) const { return ranks_[rank]->lost; }
  std::vector<Rank> lost_ranks(Rank by) const {
    std::vector<Rank> ranks;
    for (const auto& [rank, how] : lost(by)) ranks.push_back(rank);
    return ranks;
  }
  bool expelled(Rank rank) const { return ranks_[rank]->expelled_by.has_value(); }
  std::optional<Rank> expelled_by(Rank rank) const { return ranks_[rank]->expelled_by; }
  const std::string& why(Rank rank) const { return ranks_[rank]->why; }
  Clock::time_point lost_at(Rank by, Rank of) const { return ranks_[by]->lost_at.at(of); }
  Liveness& at(Rank rank) { return ranks_[rank]->liveness; }
  Rank size() const { return static_cast<Rank>(ranks_.size()); }
  std::uint64_t messages() const { return messages_; }

  sim::VirtualTime time;

 private:
  struct State {
    explicit State(Liveness made) : liveness(std::move(made)) {}
    Liveness liveness;
    bool stopped = false, dead = false;
    std::vector<std::function<void()>> held;
    std::map<Rank, Loss> lost;
    std::map<Rank, Clock::time_point> lost_at;
    std::optional<Rank> expelled_by;
    std::string why;
    TimerId timer = kNoTimer;
    Clock::time_point armed{};
  };

  void arm(Rank rank) {
    State& state = *ranks_[rank];
    const Clock::time_point due = state.liveness.next_deadline();
    if (state.liveness.expelled() || (state.timer != kNoTimer && state.armed <= due)) return;
    time.cancel(state.timer);
    state.armed = due;
    state.timer = time.at(std::max(due, time.now()) + late(rank), [this, rank] { beat(rank); });
  }
  void beat(Rank rank) {
    State& state = *ranks_[rank];
    if (state.stopped || state.dead) {
      state.timer = kNoTimer;
      return;
    }
    time.cancel(std::exchange(state.timer, kNoTimer));
    state.liveness.time_passed(time.now());
    carry_out(rank);
    arm(rank);
  }
  void carry_out(Rank rank) {
    State& state = *ranks_[rank];
    for (const Liveness::Action& action : state.liveness.take_actions()) {
      if (const auto* tell = std::get_if<Liveness::Tell>(&action)) {
        if (!state.lost.contains(tell->to)) send(rank, tell->to, tell->message);
      } else if (const auto* loss = std::get_if<Liveness::Lose>(&action)) {
        if (loss->how == Loss::kExpelled) send(rank, loss->rank, LossNotice{loss->how, {loss->rank}, loss->why});
        state.lost[loss->rank] = loss->how;
        state.lost_at[loss->rank] = time.now();
        state.why = loss->why;
      } else {
        const auto& expel = std::get<Liveness::Expel>(action);
        EXPECT_FALSE(state.expelled_by) << "told once";
        state.expelled_by = expel.peer;
        state.why = expel.why;
      }
    }
    arm(rank);
  }
  void send(Rank from, Rank to, std::variant<Heartbeat, LossNotice> message) {
    ++messages_;
    if (cut(from, to)) return;
    time.at(time.now() + milliseconds(1), [this, from, to, message = std::move(message)] {
      State& state = *ranks_[to];
      const auto take = [this, from, to, message] {
        State& at = *ranks_[to];
        if (at.lost.contains(from)) return;  // disconnected
        std::visit([&](const auto& known) { at.liveness.receive(from, known, time.now()); }, message);
        carry_out(to);
      };
      if (state.dead) return;
      if (state.stopped) {
        state.held.push_back(take);
      } else {
        take();
      }
    });
  }

  const std::vector<Node> node_of_;
  const LivenessOptions options_;
  std::vector<std::unique_ptr<State>> ranks_;
  std::uint64_t messages_ = 0;
};

std::vector<Node> nodes(unsigned count, unsigned ranks_each) {
  std::vector<Node> node_of;
  for (unsigned i = 0; i < count * ranks_each; ++i) node_of.push_back(i / ranks_each * ranks_each);
  return node_of;
}

TEST(Liveness, EveryRankIsWatchedBySomebodyOfEveryNodeAndBothEndsAgree) {
  const std::vector<std::vector<Node>> shapes = {nodes(4, 4), {0, 1, 1, 1, 1, 1}, {0, 0, 0, 3, 3, 5}, nodes(1, 8), {0, 1}};
  for (const std::vector<Node>& node_of : shapes) {
    Job job(node_of);
    for (Rank a = 0; a < job.size(); ++a) {
      std::set<Node> watching;
      for (Rank b = 0; b < job.size(); ++b) {
        const auto watched = job.at(b).watched();
        const bool watches = std::find(watched.begin(), watched.end(), a) != watched.end();
        const auto mine = job.at(a).watched();
        EXPECT_EQ(watches, std::find(mine.begin(), mine.end(), b) != mine.end());
        if (watches) watching.insert(node_of[b]);
      }
      EXPECT_GE(watching.size(), std::set<Node>(node_of.begin(), node_of.end()).size() - 1);
    }
  }
  Job job(nodes(8, 8));
  EXPECT_EQ(job.at(13).watched().size(), 7u + 7u) << "its node, and one rank of every other";
}

TEST(Liveness, NobodyIsLostWithoutAFault) {
  Job job(nodes(3, 3));
  job.run_for(seconds(1000));
  for (Rank rank = 0; rank < job.size(); ++rank) {
    EXPECT_THAT(job.lost_ranks(rank), IsEmpty());
    EXPECT_FALSE(job.expelled(rank));
  }
  EXPECT_LT(job.messages(), 9 * 1100 * (2 + 2)) << "a heartbeat a second for each that is watched";
}

TEST(Liveness, AStoppedRankIsLostEverywhereWithinTheLimitAndAHeartbeatAndLearnsItWhenItComesBack) {
  for (const Rank victim : {0u, 1u, 4u}) {
    for (const bool timer_first : {false, true}) {
      Job job({0, 0, 0, 0, 4});  // rank 4 is alone on its node
      job.timer_first = timer_first;
      job.run_for(seconds(20));
      const auto stopped = job.time.now();
      job.stop(victim);
      job.run_for(seconds(30));
      for (Rank rank = 0; rank < job.size(); ++rank) {
        if (rank == victim) continue;
        EXPECT_THAT(job.lost_ranks(rank), ElementsAre(victim));
        EXPECT_EQ(job.lost(rank).at(victim), Loss::kExpelled);
        EXPECT_GT(job.lost_at(rank, victim) - stopped, seconds(4));
        EXPECT_LT(job.lost_at(rank, victim) - stopped, milliseconds(5100)) << "nobody else is in question, so no waiting";
        EXPECT_THAT(job.why(rank), HasSubstr("rank " + std::to_string(victim)));
      }
      EXPECT_FALSE(job.expelled(victim));
      job.resume(victim);
      job.run_for(milliseconds(10));
      EXPECT_TRUE(job.expelled(victim));
      EXPECT_THAT(job.lost_ranks(victim), IsEmpty()) << "it blames nobody";
    }
  }
}

TEST(Liveness, AStopShorterThanTheLimitIsForgotten) {
  Job job(nodes(2, 2));
  job.run_for(seconds(10));
  for (int i = 0; i < 20; ++i) {
    job.timer_first = i % 2 == 0;
    job.stop(static_cast<Rank>(i % 4));
    job.run_for(milliseconds(3900));
    job.resume(static_cast<Rank>(i % 4));
    job.run_for(seconds(2));
  }
  for (Rank rank = 0; rank < job.size(); ++rank) {
    EXPECT_THAT(job.lost_ranks(rank), IsEmpty());
    EXPECT_FALSE(job.expelled(rank));
  }
}

TEST(Liveness, AMachineThatIsBusyForLongLosesNobody) {
  Job job(nodes(3, 2), {milliseconds(200), seconds(1)});
  test::Random random(7);
  job.run_for(seconds(2));
  job.late = [&](Rank) { return milliseconds(static_cast<std::int64_t>(random.below(600))); };
  job.run_for(seconds(600));
  for (Rank rank = 0; rank < job.size(); ++rank) {
    EXPECT_THAT(job.lost_ranks(rank), IsEmpty()) << job.why(rank);
    EXPECT_FALSE(job.expelled(rank)) << job.why(rank);
  }
}

TEST(Liveness, WholeJobsThatAreStoppedTogetherGoOnTogether) {
  Job job(nodes(2, 2));
  job.run_for(seconds(10));
  for (Rank rank = 0; rank < 4; ++rank) job.stop(rank);
  job.run_for(seconds(3600));
  for (Rank rank = 0; rank < 4; ++rank) {
    job.timer_first = rank % 2 == 0;
    job.resume(rank);
    job.run_for(milliseconds(300));
  }
  job.run_for(seconds(60));
  for (Rank rank = 0; rank < 4; ++rank) EXPECT_THAT(job.lost_ranks(rank), IsEmpty());
}

TEST(Liveness, OfTwoSidesTheLargerSurvivesAndTheOtherExpelsItself) {
  Job job(nodes(3, 2));
  job.run_for(seconds(10));
  const auto cut_at = job.time.now();
  job.cut = [](Rank a, Rank b) { return (a < 2) != (b < 2); };
  job.run_for(milliseconds(7600));
  for (const Rank rank : {0u, 1u}) {
    EXPECT_TRUE(job.expelled(rank));
    EXPECT_THAT(job.lost_ranks(rank), IsEmpty());
  }
  for (Rank rank = 2; rank < 6; ++rank) {
    EXPECT_FALSE(job.expelled(rank)) << job.why(rank);
    EXPECT_THAT(job.lost_ranks(rank), ElementsAre(0, 1));
    EXPECT_LT(job.lost_at(rank, 0) - cut_at, seconds(7));
  }
  // Healing changes nothing any more.
  job.cut = [](Rank, Rank) { return false; };
  job.run_for(seconds(60));
  for (Rank rank = 2; rank < 6; ++rank) EXPECT_THAT(job.lost_ranks(rank), ElementsAre(0, 1));
}

TEST(Liveness, OfTwoEqualSidesTheOneWithTheLowestRankSurvives) {
  for (const unsigned each : {1u, 2u, 4u}) {
    Job job(nodes(2, each));
    job.run_for(seconds(10));
    job.cut = [=](Rank a, Rank b) { return (a < each) != (b < each); };
    job.run_for(seconds(10));
    for (Rank rank = 0; rank < each; ++rank) {
      EXPECT_FALSE(job.expelled(rank));
      EXPECT_EQ(job.lost(rank).size(), each);
    }
    for (Rank rank = each; rank < 2 * each; ++rank) {
      EXPECT_TRUE(job.expelled(rank));
      EXPECT_THAT(job.lost_ranks(rank), IsEmpty());
      EXPECT_THAT(job.why(rank), HasSubstr("lost touch with rank"));
      EXPECT_EQ(job.expelled_by(rank).value_or(kNoRank) < each || each > 1, true);
    }
  }
}

TEST(Liveness, WhereOneLinkIsDownOneOfItsEndsGoesAndAllAgreeWhich) {
  Job job(nodes(4, 1));
  job.run_for(seconds(10));
  job.cut = [](Rank a, Rank b) { return (a == 1 && b == 2) || (a == 2 && b == 1); };
  job.run_for(seconds(20));
  for (const Rank rank : {0u, 1u, 3u}) {
    EXPECT_THAT(job.lost_ranks(rank), ElementsAre(2));
    EXPECT_FALSE(job.expelled(rank));
  }
  EXPECT_TRUE(job.expelled(2));
}

TEST(Liveness, ARankThatIsCutOffFromAllExpelsItselfAndIsLostToAll) {
  for (const Rank victim : {0u, 3u}) {
    Job job(nodes(4, 1));
    job.run_for(seconds(10));
    job.cut = [=](Rank a, Rank b) { return a == victim || b == victim; };
    job.run_for(seconds(10));
    EXPECT_TRUE(job.expelled(victim));
    for (Rank rank = 0; rank < 4; ++rank) {
      if (rank != victim) {
        EXPECT_THAT(job.lost_ranks(rank), ElementsAre(victim));
      }
    }
  }
}

TEST(Liveness, ADeathThatOneRankNoticesIsKnownToAllWithoutWaitingForSilence) {
  Job job(nodes(4, 2));
  job.run_for(seconds(10));
  job.kill(5);
  const auto died = job.time.now();
  job.notice_death(4, 5);
  job.run_for(milliseconds(1300));
  for (Rank rank = 0; rank < 8; ++rank) {
    if (rank == 4 || rank == 5) continue;
    EXPECT_THAT(job.lost_ranks(rank), ElementsAre(5));
    EXPECT_EQ(job.lost(rank).at(5), Loss::kDied);
    EXPECT_GT(job.lost_at(rank, 5) - died, seconds(1)) << "what it sent before it died comes first";
  }
}

TEST(Liveness, ProvenDeathsBelongToNoSide) {
  // Three of four are dead, and known to be: the fourth is no minority.
  Job job(nodes(2, 2));
  job.run_for(seconds(10));
  for (const Rank rank : {0u, 1u, 2u}) {
    job.kill(rank);
    job.notice_death(3, rank);
  }
  job.run_for(seconds(60));
  EXPECT_FALSE(job.expelled(3)) << job.why(3);
}

TEST(Liveness, WhoWasStoppedAndFindsMostConnectionsClosedTakesItselfForExpelled) {
  Job job(nodes(4, 1));
  job.run_for(seconds(10));
  job.stop(3);
  job.run_for(seconds(60));
  job.cut = [](Rank, Rank) { return true; };  // and what they had told it does not reach it
  // Whether its timer or its sockets are looked at first.
  job.at(3).noticed(0, Loss::kDied, false, "connection reset", job.time.now());
  EXPECT_FALSE(job.at(3).expelled());
  job.at(3).noticed(1, Loss::kDied, false, "connection reset", job.time.now());
  EXPECT_TRUE(job.at(3).expelled()) << "0 and 1 of four are gone, and the lowest is among them";
}

TEST(Liveness, NonsenseFromMembersIsPassedOver) {
  Job job(nodes(2, 2));
  job.run_for(seconds(10));
  const auto now = job.time.now();
  job.at(0).receive(1, LossNotice{Loss::kExpelled, {77, 4000000000, 2}, "?"}, now);
  job.at(0).receive(99, Heartbeat{7, {0, 1, 2}}, now);
  job.at(0).receive(3, Heartbeat{Heartbeat::kAccuse, {3, 3, 88}}, now);
  bool lost_two = false;
  for (const Liveness::Action& action : job.at(0).take_actions()) {
    if (const auto* loss = std::get_if<Liveness::Lose>(&action)) {
      EXPECT_EQ(loss->rank, 2u);
      lost_two = true;
    }
  }
  EXPECT_TRUE(lost_two) << "what made sense of it counts";
  EXPECT_FALSE(job.at(0).alive(77));
}

/// Random stops, deaths and cuts; what must hold whatever they were.
TEST(Liveness, AfterAnyFaultsThoseWhoGoOnAgreeAndAreOneSide) {
  std::uint64_t stops = 0, cuts = 0, expelled = 0, survived = 0;
  test::for_each_seed(300, [&](std::uint64_t seed) {
    test::Random random(seed);
    std::vector<Node> node_of;
    const auto node_count = static_cast<unsigned>(1 + random.below(4));
    for (unsigned node = 0; node < node_count; ++node) {
      const auto first = static_cast<Node>(node_of.size());
      for (std::uint64_t i = 0; i <= random.below(3); ++i) node_of.push_back(first);
    }
    if (node_of.size() < 2) return;
    Job job(node_of);
    job.timer_first = random.below(2) == 0;
    job.run_for(milliseconds(static_cast<std::int64_t>(5000 + random.below(10000))));
    const auto faults = 1 + random.below(2);
    std::set<Rank> stopped;
    std::vector<std::set<Node>> sides;
    for (std::uint64_t i = 0; i < faults; ++i) {
      if (random.below(2) == 0) {
        const auto victim = static_cast<Rank>(random.below(job.size()));
        job.stop(victim);
        stopped.insert(victim);
        ++stops;
      } else {
        std::set<Node> side;
        for (const Node node : node_of) {
          if (random.below(2) == 0) side.insert(node);
        }
        sides.push_back(side);
        ++cuts;
        job.cut = [&](Rank a, Rank b) {
          return std::any_of(sides.begin(), sides.end(),
                             [&](const auto& one) { return one.contains(node_of[a]) != one.contains(node_of[b]); });
        };
      }
      job.run_for(milliseconds(static_cast<std::int64_t>(random.below(12000))));
    }
    job.run_for(seconds(60));
    for (const Rank rank : stopped) job.resume(rank);
    if (random.below(2) == 0) job.cut = [](Rank, Rank) { return false; };
    job.run_for(seconds(60));

    std::set<Rank> going_on;
    for (Rank rank = 0; rank < job.size(); ++rank) {
      if (job.expelled(rank)) {
        ++expelled;
      } else {
        going_on.insert(rank);
      }
    }
    survived += going_on.size();
    for (const Rank a : going_on) {
      for (const Rank b : going_on) {
        if (a == b) continue;
        EXPECT_FALSE(job.lost(a).contains(b)) << "rank " << a << " lost rank " << b << ", and both go on: " << job.why(a);
      }
    }
  });
  EXPECT_GT(stops, 50u);
  EXPECT_GT(cuts, 50u);
  EXPECT_GT(expelled, 100u);
  EXPECT_GT(survived, 100u);
}

}  // namespace
}  // namespace cardea::engine
