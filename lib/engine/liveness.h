// SPDX-License-Identifier: Apache-2.0
// Which ranks of the job are still there, told apart from whether they make progress. A pure state machine: no clock, no
// thread, no socket; the runtime gives it time and what others say, and carries out its actions.
//
//   alive ──goodbye──► left     alive ──process ended, connection closed, nonsense──► died     alive ──silent──► expelled
//
// Who watches whom: every rank all ranks of its node, and of every other node those that it is paired with, so that each
// rank is watched by somebody in every node and a rank sends about one heartbeat per other node. Pairs are made anew among
// those who live. Whatever is received from a rank shows that it lives. News of losses are passed on along the same pairs.
//
// Silence is counted in time in which this rank itself ran: where its own timer was late, the others get that much longer,
// and it judges nobody before it has read what had come meanwhile. A silent rank
//   of this node    is lost at once: nothing but a stopped or hanging process keeps memory and a local socket silent;
//   of another one  may be cut off, or this rank may be. It is accused to the lowest rank of a node without silent ranks,
//   which asks
//                   everybody for whom they cannot hear, removes whom most cannot (of equals the highest rank) until those
//                   who are left hear each other, and counts. The side with more ranks survives, of two equal ones the side
//                   with the lowest rank. The other side, which comes to the same result, is expelled.
//
// Used under the runtime's mutex.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "lib/base/executor.h"
#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::engine {

enum class Loss : std::uint8_t {
  kLeft = 1,     // of its own will
  kDied = 2,     // its process ended or closed its connection, or it sent nonsense
  kExpelled = 3  // silent: it is fenced, whatever it does from now on
};

/// "I am here", and whom the sender cannot hear. The list goes with kAnswer and kAccuse.
struct Heartbeat {
  static constexpr std::uint8_t kAsk = 1;     // answer at once
  static constexpr std::uint8_t kAnswer = 2;  // `silent`: for most of the limit at least
  static constexpr std::uint8_t kAccuse = 4;  // `silent`: for longer than the limit
  std::uint8_t flags = 0;
  std::vector<Rank> silent;
};

/// These ranks are gone. To a rank that it names: it has been expelled.
struct LossNotice {
  Loss how = Loss::kDied;
  std::vector<Rank> ranks;
  std::string why;
};

struct LivenessOptions {
  Nanoseconds interval = std::chrono::seconds(1);  // between heartbeats
  Nanoseconds limit = std::chrono::seconds(5);     // of silence; at least two intervals
};

class Liveness {
 public:
  struct Tell {
    Rank to = kNoRank;
    std::variant<Heartbeat, LossNotice> message;
  };
  struct Lose {
    Rank rank = kNoRank;
    Loss how = Loss::kDied;
    std::string why;
  };
  /// This rank itself is fenced. `peer` is who said so, or whom it lost touch with.
  struct Expel {
    Rank peer = kNoRank;
    std::string why;
  };
  using Action = std::variant<Tell, Lose, Expel>;

  Liveness(Rank self, const std::vector<Node>& node_of, LivenessOptions options, Clock::time_point now);

  /// Anything came from the rank.
  void heard(Rank from, Clock::time_point now);
  void receive(Rank from, const Heartbeat& heartbeat, Clock::time_point now);
  void receive(Rank from, const LossNotice& notice, Clock::time_point now);
  /// This rank has noticed a loss by itself, and has dealt with it: there is no action to do so. `proven`: its process has
  /// ended, or it said goodbye; false: only that this rank's connection to it is gone.
  void noticed(Rank rank, Loss how, bool proven, const std::string& why, Clock::time_point now);
  void time_passed(Clock::time_point now);
  Clock::time_point next_deadline() const { return due_; }

  bool alive(Rank rank) const { return alive_.contains(rank); }
  bool expelled() const { return expelled_; }
  std::vector<Rank> watched() const;
  std::vector<Action> take_actions() { return std::exchange(actions_, {}); }

 private:
  struct Watch {
    Clock::time_point heard;
    bool paired = true;  // false: it watches this rank, so this one answers
  };
  struct Later {  // third-hand news, which must not overtake what the rank itself sent before
    Clock::time_point when;
    Lose loss;
  };
  struct Round {  // of asking everybody whom they cannot hear
    Clock::time_point began, decide;
    std::map<Rank, std::vector<Rank>> answers;
  };

  bool same_node(Rank rank) const { return node_of_[rank] == node_of_[self_]; }
  Nanoseconds limit() const;
  void pair_up(Clock::time_point now);
  std::vector<Rank> silent(Nanoseconds longer_than, Clock::time_point now) const;
  void judge(Clock::time_point now);
  void begin_round(Clock::time_point now);
  void answered(Rank from, std::vector<Rank> silent, Clock::time_point now);
  void decide(Clock::time_point now);
  std::set<Rank> removed_by(const std::map<Rank, std::vector<Rank>>& answers) const;
  static bool majority(const std::set<Rank>& side, const std::set<Rank>& all);
  void remove(const std::set<Rank>& ranks, Loss how, const std::string& why, Rank told_by, Clock::time_point now);
  void pass_on(const LossNotice& notice, Rank told_by);
  void expel(Rank peer, std::string why);
  void back_from_stop(Clock::time_point now);
  void set_due(Clock::time_point now);

  const Rank self_;
  const std::vector<Node> node_of_;
  const LivenessOptions options_;
  std::set<Rank> alive_;  // self included
  std::map<Rank, Watch> watches_;
  std::map<Rank, Later> later_;
  std::optional<Round> round_;
  std::set<Rank> accused_;  // by this rank, as it last said
  Clock::time_point next_beat_, due_;
  Nanoseconds lateness_{0};  // of this rank's timer, the worst of late
  bool late_ = false;        // it was late just now: what had come has not been read yet
  // After a long stop, until it is over: who was there then, and whose connection has broken since.
  std::optional<Clock::time_point> resumed_;
  std::set<Rank> then_, broken_;
  bool expelled_ = false;
  std::vector<Action> actions_;
};

}  // namespace cardea::engine
