// SPDX-License-Identifier: Apache-2.0
#include "lib/engine/liveness.h"

#include <algorithm>

namespace cardea::engine {
namespace {

double seconds(Nanoseconds time) {
  return static_cast<double>(time.count()) / 1e9;
}

std::string list(const std::set<Rank>& ranks) {
  constexpr std::size_t kShown = 8;
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  std::size_t shown = 0;
  for (const Rank rank : ranks) {
    if (shown == kShown) return text + fmt::format(" and {} more", ranks.size() - kShown);
    text += fmt::format("{} {}", shown++ == 0 ? "" : ",", rank);
  }
  return text;
}

}  // namespace

Liveness::Liveness(Rank self, const std::vector<Node>& node_of, LivenessOptions options, Clock::time_point now)
    : self_(self), node_of_(node_of), options_(options), next_beat_(now), due_(now) {
  for (Rank rank = 0; rank < node_of_.size(); ++rank) alive_.insert(rank);
  // Ranks begin within some time of each other: the first silence may be longer.
  pair_up(now + options_.limit);
}

std::vector<Rank> Liveness::watched() const {
  std::vector<Rank> ranks;
  for (const auto& [rank, watch] : watches_) {
    if (watch.paired) ranks.push_back(rank);
  }
  return ranks;
}

void Liveness::pair_up(Clock::time_point now) {
  std::map<Node, std::vector<Rank>> nodes;
  for (const Rank rank : alive_) nodes[node_of_[rank]].push_back(rank);
  const std::vector<Rank>& own = nodes[node_of_[self_]];
  const auto place = static_cast<std::size_t>(std::find(own.begin(), own.end(), self_) - own.begin());
  std::map<Rank, Watch> fresh;
  const auto watch = [&](Rank rank) {
    const auto known = watches_.find(rank);
    const bool was_paired = known != watches_.end() && known->second.paired;
    fresh[rank] = {was_paired ? known->second.heard : now, true};
  };
  for (const auto& [node, ranks] : nodes) {
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      if (ranks[i] == self_) continue;
      // The same from both ends.
      if (&ranks == &own || i % own.size() == place || place % ranks.size() == i) watch(ranks[i]);
    }
  }
  for (const auto& [rank, known] : watches_) {
    if (!known.paired && alive_.contains(rank)) fresh.emplace(rank, known);
  }
  watches_ = std::move(fresh);
}

Nanoseconds Liveness::limit() const {
  // Where this rank's own timer runs late, the others' do, too.
  return options_.limit + std::min(lateness_ * 2, options_.limit / 2);
}

std::vector<Rank> Liveness::silent(Nanoseconds longer_than, Clock::time_point now) const {
  std::vector<Rank> ranks;
  for (const auto& [rank, watch] : watches_) {
    if (watch.paired && now - watch.heard > longer_than) ranks.push_back(rank);
  }
  return ranks;
}

// ---------------------------------------------------------------- what others say

void Liveness::heard(Rank from, Clock::time_point now) {
  const auto watch = watches_.find(from);
  if (watch != watches_.end()) watch->second.heard = now;
}

void Liveness::receive(Rank from, const Heartbeat& heartbeat, Clock::time_point now) {
  if (expelled_ || !alive_.contains(from)) return;
  heard(from, now);
  // Whoever thinks that it is paired with this rank, since it has heard of other losses, gets answers.
  if (heartbeat.flags == 0) watches_.try_emplace(from, Watch{now, false});
  if (heartbeat.flags & Heartbeat::kAsk)
    actions_.push_back(Tell{from, Heartbeat{Heartbeat::kAnswer, silent(limit() * 3 / 4, now)}});
  if (heartbeat.flags & Heartbeat::kAccuse) begin_round(now);
  if (heartbeat.flags & (Heartbeat::kAccuse | Heartbeat::kAnswer)) answered(from, heartbeat.silent, now);
}

void Liveness::receive(Rank from, const LossNotice& notice, Clock::time_point now) {
  if (expelled_ || !alive_.contains(from)) return;
  heard(from, now);
  std::set<Rank> news;
  for (const Rank rank : notice.ranks) {
    if (rank == self_) return expel(from, notice.why);
    if (alive_.contains(rank) && !later_.contains(rank)) news.insert(rank);
  }
  if (news.empty()) return;
  if (notice.how == Loss::kExpelled) return remove(news, notice.how, notice.why, from, now);
  // What it sent before it went may still be on its way here, and this rank may be about to notice by itself.
  pass_on({notice.how, {news.begin(), news.end()}, notice.why}, from);
  for (const Rank rank : news) later_[rank] = {now + options_.limit / 4, {rank, notice.how, notice.why}};
  set_due(now);
}

void Liveness::noticed(Rank rank, Loss how, bool proven, const std::string& why, Clock::time_point now) {
  if (expelled_ || !alive_.contains(rank)) return;
  const bool told_already = later_.erase(rank) != 0;
  if (now - due_ > options_.limit / 2) back_from_stop(now);  // its sockets were looked at before its timer
  if (resumed_ && !proven) {
    // After a long stop a broken connection may mean that the other end has fenced this rank.
    broken_.insert(rank);
    std::set<Rank> rest;
    std::set_difference(then_.begin(), then_.end(), broken_.begin(), broken_.end(), std::inserter(rest, rest.end()));
    if (!majority(rest, then_)) return expel(rank, "this rank was stopped, and most of the others closed their connections");
  }
  alive_.erase(rank);
  watches_.erase(rank);
  pair_up(now);
  if (!told_already) pass_on({how, {rank}, why}, rank);
  if (round_) set_due(now);
}

void Liveness::pass_on(const LossNotice& notice, Rank told_by) {
  for (const auto& [rank, watch] : watches_) {
    const bool concerned = std::find(notice.ranks.begin(), notice.ranks.end(), rank) != notice.ranks.end();
    if (rank != told_by && !concerned) actions_.push_back(Tell{rank, notice});
  }
}

void Liveness::remove(const std::set<Rank>& ranks, Loss how, const std::string& why, Rank told_by, Clock::time_point now) {
  const LossNotice notice{how, {ranks.begin(), ranks.end()}, why};
  pass_on(notice, told_by);
  for (const Rank rank : ranks) {
    alive_.erase(rank);
    watches_.erase(rank);
    later_.erase(rank);
    accused_.erase(rank);
    actions_.push_back(Lose{rank, how, why});
  }
  pair_up(now);
  set_due(now);
}

void Liveness::expel(Rank peer, std::string why) {
  if (std::exchange(expelled_, true)) return;
  round_.reset();
  later_.clear();
  actions_.push_back(Expel{peer, std::move(why)});
}

// ---------------------------------------------------------------- time

void Liveness::time_passed(Clock::time_point now) {
  if (expelled_ || now < due_) return;
  const Nanoseconds overrun = now - due_;
  late_ = overrun > options_.interval / 2;
  lateness_ = std::max(overrun, lateness_ - lateness_ / 8);
  if (late_) {
    for (auto& [rank, watch] : watches_) watch.heard = std::min(now, watch.heard + overrun);
    for (auto& [rank, later] : later_) later.when += overrun;
    if (round_) round_->decide = std::max(round_->decide, now + options_.interval / 2);
    if (overrun > options_.limit / 2) back_from_stop(now);
  }
  if (resumed_ && now - *resumed_ > options_.limit) resumed_.reset();
  if (now >= next_beat_) {
    next_beat_ = now + options_.interval;
    std::erase_if(watches_,
                  [&](const auto& entry) { return !entry.second.paired && now - entry.second.heard > options_.limit; });
    for (const auto& [rank, watch] : watches_) actions_.push_back(Tell{rank, Heartbeat{}});
    accused_.clear();  // an accusation is repeated until somebody has decided
  }
  while (!expelled_) {
    const auto ripe =
        std::find_if(later_.begin(), later_.end(), [&](const auto& entry) { return entry.second.when <= now; });
    if (ripe == later_.end()) break;
    const Lose loss = ripe->second.loss;
    later_.erase(ripe);
    alive_.erase(loss.rank);
    watches_.erase(loss.rank);
    actions_.push_back(loss);
    pair_up(now);
  }
  if (!late_) {
    judge(now);
    if (round_ && !expelled_ && now >= round_->decide) decide(now);
  }
  set_due(now);
}

void Liveness::back_from_stop(Clock::time_point now) {
  if (resumed_ && now - *resumed_ < options_.limit) return;
  resumed_ = now;
  then_ = alive_;
  broken_.clear();
}

void Liveness::set_due(Clock::time_point now) {
  due_ = next_beat_;
  const auto consider = [&](Clock::time_point when) { due_ = std::min(due_, std::max(when, now)); };
  for (const auto& [rank, watch] : watches_) {
    if (!watch.paired || accused_.contains(rank)) continue;
    consider(watch.heard + limit() + std::chrono::milliseconds(1));
  }
  for (const auto& [rank, later] : later_) consider(later.when);
  if (round_) consider(round_->decide);
  // Late timers must not be answered by more of them.
  due_ = std::max(due_, now + std::chrono::milliseconds(1));
}

void Liveness::judge(Clock::time_point now) {
  std::set<Rank> here, elsewhere;
  for (const Rank rank : silent(limit(), now)) {
    if (later_.contains(rank)) continue;
    (same_node(rank) ? here : elsewhere).insert(rank);
  }
  if (!here.empty()) {
    remove(here, Loss::kExpelled,
           fmt::format("{} of the same node said nothing to rank {} for {:.1f} s", list(here), self_, seconds(limit())),
           self_, now);
  }
  const bool fresh = std::any_of(elsewhere.begin(), elsewhere.end(), [&](Rank rank) { return !accused_.contains(rank); });
  accused_ = elsewhere;
  if (!fresh) return;
  // Where one rank of a node is silent, the whole node may be out of reach; this rank does not watch all of it.
  std::set<Node> doubtful;
  for (const Rank rank : elsewhere) doubtful.insert(node_of_[rank]);
  const auto judge =
      std::find_if(alive_.begin(), alive_.end(), [&](Rank rank) { return !doubtful.contains(node_of_[rank]); });
  if (*judge == self_) {
    begin_round(now);
    answered(self_, silent(limit() * 3 / 4, now), now);
  } else {
    actions_.push_back(Tell{*judge, Heartbeat{Heartbeat::kAccuse, silent(limit() * 3 / 4, now)}});
  }
}

// ---------------------------------------------------------------- who can hear whom

void Liveness::begin_round(Clock::time_point now) {
  if (round_) return;
  round_ = Round{now, now + options_.limit / 4, {}};
  for (const Rank rank : alive_) {
    if (rank != self_) actions_.push_back(Tell{rank, Heartbeat{Heartbeat::kAsk, {}}});
  }
  answered(self_, silent(limit() * 3 / 4, now), now);
}

void Liveness::answered(Rank from, std::vector<Rank> silent, Clock::time_point now) {
  if (!round_) return;
  round_->answers[from] = std::move(silent);
  set_due(now);
  // When all that are not themselves in question have answered, there is nothing to wait for.
  const std::set<Rank> removed = removed_by(round_->answers);
  const bool complete = std::all_of(alive_.begin(), alive_.end(),
                                    [&](Rank rank) { return removed.contains(rank) || round_->answers.contains(rank); });
  if (complete && !late_) decide(now);
}

std::set<Rank> Liveness::removed_by(const std::map<Rank, std::vector<Rank>>& answers) const {
  std::map<Rank, std::set<Rank>> accusers;
  for (const auto& [from, silent] : answers) {
    for (const Rank rank : silent) {
      if (rank != from && alive_.contains(rank) && alive_.contains(from)) accusers[rank].insert(from);
    }
  }
  std::set<Rank> removed;
  for (;;) {
    const auto most = std::max_element(accusers.begin(), accusers.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second.size(), a.first) < std::pair(b.second.size(), b.first);
    });
    if (most == accusers.end() || most->second.empty()) return removed;
    const Rank gone = most->first;
    removed.insert(gone);
    accusers.erase(most);
    for (auto& [rank, by] : accusers) by.erase(gone);
  }
}

bool Liveness::majority(const std::set<Rank>& side, const std::set<Rank>& all) {
  if (side.size() * 2 != all.size()) return side.size() * 2 > all.size();
  return side.contains(*all.begin());
}

void Liveness::decide(Clock::time_point now) {
  const std::map<Rank, std::vector<Rank>>& answers = round_->answers;
  const std::set<Rank> removed = removed_by(answers);
  if (removed.empty()) return round_.reset();
  std::set<Rank> side;
  bool awaited = false;
  for (const Rank rank : alive_) {
    if (removed.contains(rank)) continue;
    if (answers.contains(rank)) {
      side.insert(rank);
    } else {
      awaited = true;
    }
  }
  const bool survives = majority(side, alive_);
  if (!survives && awaited && now - round_->began < options_.limit / 2) {
    round_->decide = now + options_.interval / 2;
    return set_due(now);
  }
  round_.reset();
  const std::string count = fmt::format("{} of {} ranks", side.size(), alive_.size());
  if (survives && !removed.contains(self_)) {
    return remove(
        removed, Loss::kExpelled,
        fmt::format("{} said nothing for {:.1f} s to {} that hear each other", list(removed), seconds(limit()), count),
        self_, now);
  }
  const std::string why = survives ? fmt::format("the others hear nothing of {}", list(removed))
                                   : fmt::format("{}, {}, lost touch with {}, whose side is larger or has the lowest rank",
                                                 list(side), count, list(removed));
  const std::set<Rank>& out = survives ? removed : side;
  pass_on({Loss::kExpelled, {out.begin(), out.end()}, why}, kNoRank);
  // pass_on leaves out those that a notice names; here they are the ones to be told.
  for (const Rank rank : out) {
    if (rank != self_) actions_.push_back(Tell{rank, LossNotice{Loss::kExpelled, {out.begin(), out.end()}, why}});
  }
  expel(survives ? *side.begin() : *removed.begin(), why);
}

}  // namespace cardea::engine
