// SPDX-License-Identifier: Apache-2.0
// The runtime's half that watches its peers: carries out what liveness decides, and looks for what does not move.
#include "lib/base/log.h"
#include "lib/engine/lanes.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

constexpr std::size_t kOutstandingLines = 256;  // of a dump that nobody asked for
constexpr Nanoseconds kDumpPause = std::chrono::milliseconds(20);
constexpr Nanoseconds kDumpPatience = std::chrono::seconds(20);

}  // namespace

void Runtime::start_watch() {
  if (!options_.watch) return;
  watch_ = std::make_unique<PeerWatch>(
      PeerWatch{*options_.watch, Liveness(options_.self, options_.node_of, options_.watch->liveness, now())});
  enqueue([this] { beat(); });
}

void Runtime::beat() {
  const auto held = lock();
  watch_->timer = kNoTimer;
  if (left_ || watch_->liveness.expelled()) return;
  watch_->liveness.time_passed(now());
  carry_out_watch();
  look_for_stalls();
  dispatch();
}

void Runtime::arm_beat() {
  // What was heard may have brought the next deadline nearer.
  const Clock::time_point next = watch_->liveness.next_deadline();
  if (left_ || watch_->liveness.expelled() || (watch_->timer != kNoTimer && watch_->armed <= next)) return;
  executor_.cancel(watch_->timer);
  watch_->armed = next;
  watch_->timer = executor_.at(next, [this] { beat(); });
}

void Runtime::carry_out_watch() {
  for (const Liveness::Action& action : watch_->liveness.take_actions()) {
    if (const auto* tell = std::get_if<Liveness::Tell>(&action)) {
      std::visit([&](const auto& message) { send(tell->to, message); }, tell->message);
    } else if (const auto* loss = std::get_if<Liveness::Lose>(&action)) {
      lose_by_word(*loss);
    } else {
      const auto& expel = std::get<Liveness::Expel>(action);
      const Status why =
          Status::error(CARDEA_ERR_EXPELLED, "this rank was expelled from the job: {}", expel.why).with_peer(expel.peer);
      log::print(log::Level::kError, name_, "engine", "{}", why.message());
      core_.cancel_all(why, now());
      observer_.on_expelled(why);
    }
  }
  arm_beat();
}

void Runtime::lose_by_word(const Liveness::Lose& loss) {
  const Rank peer = loss.rank;
  if (lost_.contains(peer)) return;
  if (loss.how == Loss::kExpelled && spoken_to_.contains(peer)) {
    // Should it come back, it reads this first.
    send(peer, LossNotice{loss.how, {peer}, loss.why});
  }
  if (loss.how == Loss::kLeft) {
    departed_.insert(peer);
    lose(peer, Status::error(CARDEA_ERR_PEER_LOST, "rank {} has left the job", peer));
  } else {
    const Status why = Status::error(CARDEA_ERR_PEER_LOST, "rank {} was lost: {}", peer, loss.why);
    log::print(log::Level::kWarn, name_, "engine", "{}", why.message());
    lose(peer, why);
  }
  enqueue([transport = route_[peer], peer] { transport->disconnect(peer); });
}

void Runtime::heard(Rank from) {
  if (watch_) watch_->liveness.heard(from, executor_.now());
}

void Runtime::look_for_stalls() {
  PeerWatch& watch = *watch_;
  const Clock::time_point time = now();
  if (time - watch.looked < watch.options.liveness.interval) return;
  watch.looked = time;
  dump_if_stalled();  // before anything of it is given up
  const auto lane_name = [&](const InFlight& flight) {
    return flight.path == CARDEA_PATH_NETWORK ? network_lane_name(options_.rails, flight.lane - kNetworkIn) : "node-copy";
  };
  std::vector<std::pair<core::ChunkNumber, Status>> given_up;
  in_flight_.for_each([&](core::ChunkNumber chunk, InFlight& flight) {
    if (flight.source == kNoRank || flight.given_up) return;
    const auto moved = watch.moved.from.find(flight.source);
    const Clock::time_point since = moved == watch.moved.from.end() ? flight.since : std::max(flight.since, moved->second);
    const Nanoseconds still = time - since;
    if (still < watch.options.progress_warning) return;
    const bool over = still >= watch.options.progress_limit;
    if (flight.warned && !over) return;
    const auto text =
        fmt::format("no progress for {:.1f} s: expert {} of layer {} from rank {}, lane \"{}\", {} bytes outstanding",
                    static_cast<double>(still.count()) / 1e9, flight.expert, flight.layer_id, flight.source,
                    lane_name(flight), flight.payload);
    log::print(log::Level::kWarn, name_, "engine", "{}", text);
    flight.warned = true;
    if (!over) return;
    flight.given_up = true;
    given_up.emplace_back(chunk, Status(CARDEA_ERR_TIMEOUT, text, {.peer = flight.source}));
  });
  for (const auto& [chunk, why] : given_up) core_.give_up(chunk, why, time);

  if (const auto parked = core_.oldest_parked()) {
    const Nanoseconds still = time - parked->since;
    if (still >= watch.options.progress_warning && time - watch.parked_warned >= watch.options.progress_warning) {
      watch.parked_warned = time;
      log::print(log::Level::kWarn, name_, "engine",
                 "expert {} of layer {}: rank {} has not published version {} for {:.1f} s", parked->expert,
                 parked->layer_id, parked->source, parked->version, static_cast<double>(still.count()) / 1e9);
    }
    if (still >= watch.options.progress_limit) core_.give_up_parked(time - watch.options.progress_limit, time);
  }
}

void Runtime::dump_if_stalled() {
  PeerWatch& watch = *watch_;
  const Clock::time_point time = now();
  if (watch.dumping || !(watch.options.on_dump || log::enabled(log::Level::kWarn, "engine"))) return;
  const Nanoseconds patience = watch.options.progress_warning;
  const auto oldest = core_.oldest_outstanding();
  // Without this, every look would list all that is outstanding.
  const bool possible = oldest && time - *oldest >= patience;
  const std::vector<Stall> stalls =
      possible ? find_stalls(core_.outstanding(), watch.moved, patience, time) : std::vector<Stall>();
  if (!watch.stalls.tell(stalls, time)) return;
  if (recorder_) recorder_->stalled();
  watch.dumping = true;
  // Text is made and written without the mutex.
  auto dump = std::make_shared<const Dump>(take_dump());
  enqueue([this, dump, reason = stall_reason(*dump, stalls)] {
    auto text = std::make_shared<const std::string>(to_text(*dump, reason, kOutstandingLines));
    if (!watch_->options.on_dump) return bring_out_dump(std::move(text), 0, executor_.now() + kDumpPatience);
    watch_->options.on_dump(*text);
    const auto held = lock();
    watch_->dumping = false;
  });
}

void Runtime::bring_out_dump(std::shared_ptr<const std::string> text, std::size_t from, Clock::time_point until) {
  // Whoever reads the log may be slow, or stopped like the peer that this is about: the engine does not wait for it.
  from += log::try_write_lines(log::Level::kWarn, name_, "engine", std::string_view(*text).substr(from));
  if (from < text->size() && executor_.now() < until) {
    executor_.after(kDumpPause, [this, text, from, until] { bring_out_dump(text, from, until); });
    return;
  }
  const auto held = lock();
  watch_->dumping = false;
}

}  // namespace cardea::engine
