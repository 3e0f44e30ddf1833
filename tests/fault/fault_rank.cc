// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/fault_rank.h"

#include <dirent.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <thread>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

constexpr std::uint64_t kNever = std::uint64_t{1} << 40;  // a version that nobody publishes
constexpr std::uint32_t kPerRank = 2;

/// Fits the text into a report, cut if need be.
template <std::size_t size>
void note(char (&room)[size], const std::string& text) {
  room[text.copy(room, size - 1)] = '\0';
}

std::int64_t open_descriptors() {
  std::int64_t count = 0;
  DIR* const directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

void pause_until(const std::function<bool()>& done, const char* what) {
  const std::uint64_t end = monotonic_ns() + kPatience;
  while (!done()) {
    if (monotonic_ns() > end) throw std::runtime_error(std::string("waited in vain: ") + what);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
}

cardea_config_t config_of(const FaultCase& one, FaultBoard& board, std::uint32_t rank) {
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
  config.unique_id = &board.id;
  config.rank = rank;
  config.world_size = one.ranks;
  config.node_id = one.node_of(rank);
  config.cache_bytes = std::uint64_t{64} << 20;
  config.liveness_limit = one.limit_ms * kMilli;
  // Nobody watches anybody before the job has formed: there the set-up's deadline tells.
  const std::uint64_t quick = one.signal == SIGKILL ? 4 * kSecond : one.limit_ms * kMilli * 3 / 2;
  config.setup_timeout = one.phase == Phase::kBootstrap ? quick : kPatience;
  return config;
}

Shape shape_of(const FaultCase& one) {
  Shape shape;
  shape.per_rank = kPerRank;
  shape.slots = one.ranks * kPerRank;
  shape.mapped = one.mapped;
  shape.segments = {one.expert_bytes * 3 / 4, one.expert_bytes / 4};
  return shape;
}

/// Whether a list such as "ranks 0, 2-5" has the rank.
bool lists(const std::string& text, unsigned rank) {
  const std::size_t list = text.rfind("rank");
  if (list == std::string::npos) return false;
  const char* at = text.c_str() + list + (text.compare(list, 5, "ranks") == 0 ? 6 : 5);
  unsigned first = 0, last = 0;
  for (int used = 0; std::sscanf(at, "%u%n", &first, &used) == 1; at += 2) {
    at += used;
    last = first;
    if (std::sscanf(at, "-%u%n", &last, &used) == 1) at += used;
    if (rank >= first && rank <= last) return true;
    if (*at != ',') break;
  }
  return false;
}

bool names(const cardea_error_info_t& error, std::uint32_t victim) {
  // Of several ranks that set-up misses, the message has the list.
  return error.peer == victim || (error.status == CARDEA_ERR_TIMEOUT && lists(error.message, victim));
}

class Survivor {
 public:
  Survivor(const FaultCase& one, FaultBoard& board, std::uint32_t rank)
      : one_(one), board_(board), rank_(rank), report_(board.reports[rank]) {}

  int run() {
    const std::int64_t before = open_descriptors();
    if (!join()) return told() ? finish_report(before) : 1;
    const int failed = live();
    leave();
    return failed != 0 ? failed : finish_report(before);
  }

 private:
  int fail(const std::string& why) {
    note(report_.text, fmt::format("rank {}: {}", rank_, why));
    return 1;
  }
  bool told() const { return report_.told_at.load() != 0; }

  /// Takes note of an error that a call has just returned, which must name the victim. False, with the reason, if not.
  bool take(cardea_status_t status, const char* call) {
    const cardea_error_info_t error = last_error();
    const bool expelled = status == CARDEA_ERR_EXPELLED && one_.survivors_are_expelled();
    const bool setting_up = one_.phase == Phase::kBootstrap && status == CARDEA_ERR_TIMEOUT;
    if ((status != CARDEA_ERR_PEER_LOST && !expelled && !setting_up) || !names(error, one_.victim)) {
      fail(std::string(call) + " returned " + cardea_status_string(status) + " naming rank " +
           std::to_string(static_cast<int>(error.peer)) + ": " + error.message);
      return false;
    }
    if (told()) return true;
    if (board_.fault_at.load() == 0) {
      // The signal is sent before the time is noted down.
      pause_until([&] { return board_.fault_at.load() != 0; }, "an error before the fault");
    }
    note(report_.text, fmt::format("{}: {}", call, error.message));
    report_.status.store(status);
    report_.told_at.store(monotonic_ns());
    return true;
  }

  bool join() {
    const cardea_config_t config = config_of(one_, board_, rank_);
    const cardea_status_t status = cardea_context_create(&config, &context_);
    if (status == CARDEA_OK) return true;
    if (one_.phase == Phase::kBootstrap) {
      take(status, "context_create");
    } else {
      fail(std::string("context_create: ") + last_error().message);
    }
    return false;
  }

  /// 0, or 1 with the reason in the report.
  int live() {
    try {
      job_.emplace(context_, rank_);
      layer_.emplace(*job_, job_->all, shape_of(one_));
    } catch (const std::exception&) {
      // The victim was struck when its context had just been made.
      if (one_.phase == Phase::kBootstrap) return take(last_error().status, "layer_create") ? go_on() : 1;
      throw;
    }
    layer_->publish(1);
    probe_ = layer_->fetch(kNever, {one_.victim * kPerRank});  // fails when the victim is lost, and not before
    if (one_.phase != Phase::kBootstrap) {
      // So that everybody has had to do with everybody. A large expert's bytes are checked when the fault is over.
      release(drain_all(layer_->fetch(1, layer_->everything())));
      ++board_.formed;
      pause_until([&] { return board_.formed.load() == one_.ranks || lost(); }, "the job to form");
    }
    switch (one_.phase) {
      case Phase::kBootstrap:
      case Phase::kIdle:
      case Phase::kClose:
        if (!sleep_until_told()) return 1;
        break;
      case Phase::kFetch:
        while (!told()) {
          if (!fetch_once()) return 1;
          if (lost() && !take(cardea_wait(probe_, kPatience), "fetch of the victim's expert")) return 1;
        }
        break;
      case Phase::kPublish:
      case Phase::kFinish:
        for (std::uint64_t version = 1; !told(); ++version) {
          if (!turn(version)) return 1;
        }
    }
    return go_on();
  }

  bool lost() const {
    cardea_rank_info_t info = CARDEA_RANK_INFO_INIT;
    return cardea_rank_query(context_, one_.victim, &info) != CARDEA_OK || info.alive == 0;
  }

  static std::vector<cardea_view_t> drain_all(cardea_fetch_t fetch) {
    std::vector<cardea_view_t> views = drain(fetch);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    return views;
  }

  /// On the event descriptor alone.
  bool sleep_until_told() {
    int descriptor = -1;
    cardea_status_t status = cardea_event_descriptor(context_, &descriptor);
    if (status != CARDEA_OK) return take(status, "event_descriptor");
    while (!told()) {
      status = cardea_event_clear(context_);
      if (status != CARDEA_OK) return take(status, "event_clear");
      status = cardea_wait(probe_, 0);
      if (status != CARDEA_IN_PROGRESS) return take(status, "wait");
      pollfd event{descriptor, POLLIN, 0};
      if (poll(&event, 1, 30000) != 1) return fail("the event descriptor told nothing for 30 s"), false;
    }
    return true;
  }

  bool fetch_once() {
    ++fetches_;
    const std::uint32_t flags = fetches_ % 2 == 0 ? CARDEA_FETCH_SLOTS : CARDEA_FETCH_DEFAULT;
    const std::vector<std::uint32_t> everything = layer_->everything();
    const cardea_fetch_desc_t want = layer_->want(1, everything, flags);
    cardea_fetch_t fetch{};
    cardea_status_t status = cardea_fetch(layer_->handle, &want, &fetch);
    if (status != CARDEA_OK) return take(status, "fetch");
    for (;;) {
      std::vector<cardea_view_t> views = next(fetch, 1, kPatience, &status);
      if (status != CARDEA_OK) return take(status, "next");
      if (views.empty()) break;
      const cardea_view_t& view = views[0];
      if (view.status != CARDEA_OK) {
        if (view.status != CARDEA_ERR_EXPELLED && view.expert / kPerRank != one_.victim)
          return fail("an expert of rank " + std::to_string(view.expert / kPerRank) + " failed: " + last_error().message),
                 false;
        if (!take(view.status, "view")) return false;
        continue;
      }
      // All bytes of small ones and one in four of the others, for the sake of two cores.
      if (one_.expert_bytes <= 4096 || (fetches_ + view.expert) % 64 == 0) {
        const ::testing::AssertionResult right = layer_->right(view, 1);
        if (!right) return fail(std::string("wrong bytes: ") + right.message()), false;
      }
      status = cardea_release(&view, 1);
      if (status != CARDEA_OK) return take(status, "release");
    }
    status = cardea_fetch_destroy(fetch);
    return status == CARDEA_OK || take(status, "fetch_destroy");
  }

  /// Finishes and collects a version and publishes the next. The probe's version is far beyond.
  bool turn(std::uint64_t version) {
    cardea_status_t status = cardea_finish(layer_->handle, version, nullptr);
    if (status != CARDEA_OK) return take(status, "finish");
    status = cardea_collect(layer_->handle, version, nullptr, kPatience);
    if (status != CARDEA_OK) return take(status, "collect");
    status = cardea_publish(layer_->handle, version + 1, nullptr);
    return status == CARDEA_OK || take(status, "publish");
  }

  /// In a group of those who are left.
  int go_on() {
    if (report_.status.load() == CARDEA_ERR_EXPELLED) {
      cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
      const cardea_status_t status = cardea_context_query(context_, &info);
      if (status != CARDEA_ERR_EXPELLED)
        return fail(std::string("expelled, and a call returned ") + cardea_status_string(status));
      return 0;
    }
    if (one_.phase == Phase::kBootstrap) return 0;  // others may never have had a context
    std::vector<std::uint32_t> rest;
    for (std::uint32_t rank = 0; rank < one_.ranks; ++rank) {
      if (rank != one_.victim) rest.push_back(rank);
    }
    if (rest.size() > 1) {
      Shape shape = shape_of(one_);
      shape.layer_id = 1;
      Layer next_layer(*job_, job_->group(rest), shape);
      next_layer.publish(1);
      const cardea_fetch_t fetch = next_layer.fetch(1, next_layer.everything());
      const std::vector<cardea_view_t> views = drain(fetch);
      for (const cardea_view_t& view : views) {
        const ::testing::AssertionResult right = next_layer.right(view, 1);
        if (!right) return fail(std::string("without the victim: ") + right.message());
      }
      if (views.size() != rest.size() * kPerRank) return fail("without the victim: experts are missing");
      release(views);
      CARDEA_MUST(cardea_fetch_destroy(fetch));
      next_layer.finish(1);
      next_layer.collect(1);
      report_.went_on.store(true);
      // Whoever leaves first must not be what the others' calls fail for.
      ++board_.regrouped;
      pause_until([&] { return board_.regrouped.load() == rest.size(); }, "the others to go on");
    }
    return 0;
  }

  void leave() {
    const std::uint64_t before = monotonic_ns();
    const cardea_status_t status = cardea_context_destroy(context_);
    report_.close_ns.store(monotonic_ns() - before);
    if (status != CARDEA_OK) fail(std::string("context_destroy: ") + last_error().message);
  }

  int finish_report(std::int64_t descriptors_before) {
    report_.descriptors.store(open_descriptors() - descriptors_before);
    report_.done.store(true);
    return 0;
  }

  const FaultCase& one_;
  FaultBoard& board_;
  const std::uint32_t rank_;
  FaultBoard::Report& report_;
  cardea_context_t context_{};
  std::optional<Job> job_;  // destroys the context once more at the end, which is refused
  std::optional<Layer> layer_;
  cardea_fetch_t probe_{};
  std::uint64_t fetches_ = 0;
};

/// Forks when it is asked to, from a thread of its own, as frameworks' loaders do, whatever the others are doing.
void watch_for_fork(FaultBoard& board) {
  std::thread([&board] {
    while (!board.fork_wanted.load()) std::this_thread::sleep_for(std::chrono::microseconds(100));
    const pid_t child = fork();
    if (child == 0) {
      for (;;) pause();
    }
    board.child.store(child);
  }).detach();
}

[[noreturn]] void wait_for_the_end() {
  for (;;) pause();
}

}  // namespace

int run_survivor(const FaultCase& one, FaultBoard& board, std::uint32_t rank) {
  FaultBoard::Report& report = board.reports[rank];
  try {
    return Survivor(one, board, rank).run();
  } catch (const std::exception& error) {
    note(report.text, fmt::format("rank {}: {}", rank, error.what()));
    return 1;
  }
}

int run_victim(const FaultCase& one, FaultBoard& board) {
  FaultBoard::Report& report = board.reports[one.victim];
  const auto enter = [&](Phase phase) {
    board.victim_at.store(static_cast<std::uint32_t>(phase));
    board.phase_reached.store(true);
  };
  try {
    if (one.child) watch_for_fork(board);
    const cardea_config_t config = config_of(one, board, one.victim);
    cardea_context_t context{};
    if (one.phase == Phase::kBootstrap) enter(Phase::kBootstrap);
    cardea_status_t status = cardea_context_create(&config, &context);
    if (one.phase == Phase::kBootstrap) {
      board.victim_at.store(0);
      if (one.signal == SIGKILL) wait_for_the_end();
      pause_until([&] { return board.fault_at.load() != 0; }, "the fault");
      // Back from its stop: whether it had joined or not, it may leave.
      board.victim_status.store(status);
      if (status == CARDEA_OK) status = cardea_context_destroy(context);
      report.done.store(true);
      return 0;
    }
    must(status, "cardea_context_create");
    {
      Job job(context, one.victim);
      Layer layer(job, job.all, shape_of(one));
      layer.publish(1);
      const cardea_fetch_t all = layer.fetch(1, layer.everything());
      release(drain(all));
      CARDEA_MUST(cardea_fetch_destroy(all));
      ++board.formed;
      pause_until([&] { return board.formed.load() == one.ranks; }, "the job to form");
      cardea_fetch_t fetch{};
      const std::vector<std::uint32_t> everything = layer.everything();
      switch (one.phase) {
        case Phase::kIdle:
          enter(Phase::kIdle);
          if (one.signal == SIGKILL) wait_for_the_end();
          pause_until([&] { return board.fault_at.load() != 0; }, "the fault");
          break;
        case Phase::kClose: {
          enter(Phase::kClose);
          const std::uint64_t before = monotonic_ns();
          status = job.leave();
          report.close_ns.store(board.fault_at.load() == 0 ? monotonic_ns() - before : 0);
          board.victim_at.store(0);
          if (one.signal == SIGKILL) wait_for_the_end();
          pause_until([&] { return board.fault_at.load() != 0; }, "the fault");
          board.victim_status.store(status);
          report.done.store(status == CARDEA_OK);
          return status == CARDEA_OK ? 0 : 1;
        }
        case Phase::kFetch:
          for (std::uint32_t round = 0; status == CARDEA_OK; ++round) {
            if (round == one.warm_up) enter(Phase::kFetch);
            const cardea_fetch_desc_t want =
                layer.want(1, everything, round % 2 == 0 ? CARDEA_FETCH_SLOTS : CARDEA_FETCH_DEFAULT);
            status = cardea_fetch(layer.handle, &want, &fetch);
            while (status == CARDEA_OK) {
              const std::vector<cardea_view_t> views = next(fetch, 4, kPatience, &status);
              if (views.empty()) break;
              for (const cardea_view_t& view : views) {
                if (view.status != CARDEA_OK) status = view.status;
              }
              if (const cardea_status_t released = cardea_release(views.data(), static_cast<std::uint32_t>(views.size()));
                  status == CARDEA_OK)
                status = released;
            }
            if (status == CARDEA_OK) status = cardea_fetch_destroy(fetch);
          }
          break;
        default:
          for (std::uint64_t version = 1; status == CARDEA_OK; ++version) {
            const bool now = version > one.warm_up;
            if (now && one.phase == Phase::kFinish) enter(Phase::kFinish);
            status = cardea_finish(layer.handle, version, nullptr);
            if (status == CARDEA_OK) status = cardea_collect(layer.handle, version, nullptr, kPatience);
            if (now && one.phase == Phase::kPublish) enter(Phase::kPublish);
            if (status == CARDEA_OK) status = cardea_publish(layer.handle, version + 1, nullptr);
          }
      }
      // Only who was stopped comes here.
      board.victim_status.store(status);
      cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
      pause_until(
          [&] { return cardea_context_query(context, &info) == CARDEA_ERR_EXPELLED || one.survivors_are_expelled(); },
          "being told that it is expelled");
      board.victim_saw_expulsion.store(cardea_context_query(context, &info) == CARDEA_ERR_EXPELLED);
      const std::uint64_t before = monotonic_ns();
      must(job.leave(), "cardea_context_destroy");
      report.close_ns.store(monotonic_ns() - before);
    }
    report.done.store(true);
    return 0;
  } catch (const std::exception& error) {
    note(report.text, fmt::format("victim: {}", error.what()));
    return 1;
  }
}

}  // namespace cardea::test
