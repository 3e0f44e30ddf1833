// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/probe.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

#include "cardea/cardea.h"

namespace cardea::doctor {
namespace {

constexpr std::uint32_t kSmallExperts = 8, kLargeExperts = 3;  // of each rank
constexpr std::uint64_t kReportBytes = std::uint64_t{256} << 10;
constexpr std::uint32_t kMostTurns = 16;  // in larger jobs all probe at once

struct Failure {
  cardea_status_t status = CARDEA_OK;
  std::string what;
};

void must(cardea_status_t status, const char* doing) {
  if (status == CARDEA_OK) return;
  cardea_error_info_t error = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&error);
  throw Failure{status, fmt::format("{}: {}: {}", doing, cardea_status_string(status), error.message)};
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "?";
}

constexpr std::string_view kLogPrefix = "cardea-doctor-ucx-";

bool is_own_log(const std::string& path) {
  return std::filesystem::path(path).filename().string().starts_with(kLogPrefix);
}

/// The file that log_ucx has made; empty if it has not.
std::string log_path() {
  const char* const path = std::getenv("UCX_LOG_FILE");
  return path != nullptr && is_own_log(path) ? path : "";
}

/// What member() measures with: one layer, whose memory is its own.
class Experts {
 public:
  Experts(cardea_context_t context, cardea_group_t group, Rank self, std::uint32_t ranks, std::uint32_t layer_id,
          std::uint32_t per_rank, std::uint64_t bytes)
      : per_rank_(per_rank) {
    must(cardea_memory_alloc(context, per_rank * bytes, CARDEA_MEMORY_HOST, &memory_), "allocating shared memory");
    cardea_memory_info_t where = CARDEA_MEMORY_INFO_INIT;
    must(cardea_memory_query(memory_, &where), "asking for memory");
    own_ = static_cast<std::byte*>(where.address);
    cardea_segment_t segment = CARDEA_SEGMENT_INIT;
    segment.name = "probe";
    segment.bytes = bytes;
    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    slab.segments = &segment;
    slab.num_segments = 1;
    slab.num_slots = 1;
    must(cardea_slab_create(context, &slab, &slab_), "making slots");
    std::vector<std::uint32_t> local;
    for (std::uint32_t i = 0; i < per_rank; ++i) local.push_back(self * per_rank + i);
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = own_;
    placement.stride = bytes;
    cardea_layer_desc_t layer = CARDEA_LAYER_DESC_INIT;
    layer.layer_id = layer_id;
    layer.num_experts = ranks * per_rank;
    layer.segments = &segment;
    layer.num_segments = 1;
    layer.num_local = per_rank;
    layer.local_experts = local.data();
    layer.placements = &placement;
    layer.slab = slab_;
    must(cardea_layer_create(group, &layer, &handle), "forming a layer");
  }

  std::byte* own() const { return own_; }

  /// Seconds until the expert is ready; `use` sees it.
  template <typename Use>
  double fetch(Rank from, std::uint32_t which, std::uint64_t version, std::uint32_t flags, Nanoseconds patience, Use use) {
    const std::uint32_t expert = from * per_rank_ + which;
    cardea_fetch_desc_t want = CARDEA_FETCH_DESC_INIT;
    want.version = version;
    want.experts = &expert;
    want.num_experts = 1;
    want.flags = flags;
    const Clock::time_point began = Clock::now();
    cardea_fetch_t fetch{};
    must(cardea_fetch(handle, &want, &fetch), "fetching");
    cardea_view_t view = CARDEA_VIEW_INIT;
    std::uint32_t count = 0;
    const cardea_status_t status = cardea_next(fetch, &view, 1, &count, static_cast<std::uint64_t>(patience.count()));
    const double took = std::chrono::duration<double>(Clock::now() - began).count();
    if (status != CARDEA_OK || count == 0 || view.status != CARDEA_OK) {
      cardea_error_info_t error = CARDEA_ERROR_INFO_INIT;
      cardea_last_error(&error);
      const cardea_status_t why = status != CARDEA_OK ? status : view.status;
      cardea_fetch_destroy(fetch);
      throw Failure{why, fmt::format("{}: {}", cardea_status_string(why), error.message)};
    }
    use(view);
    must(cardea_release(&view, 1), "releasing");
    must(cardea_fetch_destroy(fetch), "ending a fetch");
    return took;
  }

  cardea_layer_t handle{};

 private:
  const std::uint32_t per_rank_;
  cardea_memory_t memory_{};
  cardea_slab_t slab_{};
  std::byte* own_ = nullptr;
};

std::string advice_for(cardea_status_t status) {
  switch (status) {
    case CARDEA_ERR_TIMEOUT:
      return "see that all ranks were started, that CARDEA_ROOT names the same place for all, and that its port is open "
             "between "
             "the hosts";
    case CARDEA_ERR_AUTHENTICATION:
      return "copy one host's secret file to the others (mode 0600), or point CARDEA_SECRET_FILE to a file that all share";
    case CARDEA_ERR_CONFIGURATION:
      return "correct the variable that the message names";
    case CARDEA_ERR_MISMATCH:
      return "give all ranks the same settings, and the same version of Cardea";
    case CARDEA_ERR_PEER_LOST:
      return "see what that rank says of its end";
    case CARDEA_ERR_NO_MEMORY:
      return "raise the limit that the message names";
    default:
      return "see what the message names";
  }
}

class Prober {
 public:
  Prober(const Findings& own, Clock::time_point end) : end_(end) {
    me_.host = host_name();
    me_.findings = own;
    if (const char* const id = std::getenv("CARDEA_NODE_ID"); id != nullptr) me_.node_id = id;
    // Until the job says so: whoever cannot join has a name, too.
    if (const char* const rank = std::getenv("CARDEA_RANK"); rank != nullptr) me_.rank = static_cast<Rank>(std::atoi(rank));
  }
  ~Prober() {
    if (context_.id != 0) cardea_context_destroy(context_);
    if (const std::string log = log_path(); !log.empty()) unlink(log.c_str());
  }

  Probe run() {
    Probe probe;
    try {
      join();
      probe.ranks = ranks_;
      probe.self = me_.rank;
      turns();
      gather(probe);
    } catch (const Failure& failure) {
      probe.ranks = ranks_;
      probe.self = me_.rank;
      probe.members = {me_};
      probe.findings.push_back({Severity::kError, "job.form", failure.what, advice_for(failure.status)});
    }
    return probe;
  }

 private:
  std::uint64_t left() const {
    return static_cast<std::uint64_t>(std::max<Nanoseconds>(end_ - Clock::now(), std::chrono::milliseconds(1)).count());
  }

  void join() {
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.cache_bytes = CARDEA_NO_CACHE;  // what is measured moves
    config.setup_timeout = left() / 2;
    must(cardea_context_create(&config, &context_), "joining the job");
    cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
    must(cardea_context_query(context_, &info), "asking for the job");
    ranks_ = info.world_size;
    me_.rank = info.rank;
    me_.node = info.node;
    for (Rank rank = 0; rank < ranks_; ++rank) {
      cardea_rank_info_t about = CARDEA_RANK_INFO_INIT;
      must(cardea_rank_query(context_, rank, &about), "asking for a rank");
      node_of_.push_back(about.node);
      about_.push_back(about);
    }
    must(cardea_group_create(context_, nullptr, 0, &all_), "making a group");
    small_.emplace(context_, all_, me_.rank, ranks_, 0, kSmallExperts, kSmallBytes);
    large_.emplace(context_, all_, me_.rank, ranks_, 1, kLargeExperts, kLargeBytes);
    report_.emplace(context_, all_, me_.rank, ranks_, 2, 1, kReportBytes);
    must(cardea_publish(large_->handle, 1, nullptr), "publishing");
    must(cardea_publish(small_->handle, version_, nullptr), "publishing");
    meet();
    me_.wall_ns = std::chrono::duration_cast<Nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  }

  /// Until every rank has come so far.
  void meet() {
    must(cardea_finish(small_->handle, version_, nullptr), "finishing");
    must(cardea_collect(small_->handle, version_, nullptr, left()), "waiting for the other ranks");
    must(cardea_publish(small_->handle, ++version_, nullptr), "publishing");
  }

  void turns() {
    const bool in_turn = ranks_ <= kMostTurns;
    for (Rank turn = 0; turn < (in_turn ? ranks_ : 1); ++turn) {
      if (!in_turn || turn == me_.rank) look_at_peers();
      meet();
    }
  }

  void look_at_peers() {
    const std::vector<Rank> peers = peers_of(me_.rank, node_of_);
    for (std::size_t i = 0; i < peers.size(); ++i) {
      Peer peer;
      peer.rank = peers[i];
      peer.node = node_of_[peers[i]];
      peer.host = about_[peers[i]].host;
      peer.way = about_[peers[i]].transport;
      // A peer that does not answer must leave time for the others.
      const Nanoseconds patience = Nanoseconds(left() / (2 * (peers.size() - i) + 2));
      try {
        look_at(peer, patience);
      } catch (const Failure& failure) {
        peer.error = failure.what;
      }
      me_.peers.push_back(std::move(peer));
    }
    const std::string devices = ucx_devices();
    for (Peer& peer : me_.peers) {
      if (peer.way == "ucx" && !devices.empty()) peer.way += " " + devices;
    }
  }

  void look_at(Peer& peer, Nanoseconds patience) {
    const auto path = [&](const cardea_view_t& view) { peer.path = cardea_path_string(view.path); };
    for (std::uint32_t i = 0; i < kSmallExperts; ++i) {
      const double took = small_->fetch(peer.rank, i, version_, CARDEA_FETCH_DEFAULT, patience, path);
      if (i != 0) peer.seconds = i == 1 ? took : std::min(peer.seconds, took);  // the first opens the connection
    }
    for (std::uint32_t i = 0; i < kLargeExperts; ++i) {
      const double took = large_->fetch(peer.rank, i, 1, CARDEA_FETCH_SLOTS, patience, [](const cardea_view_t&) {});
      peer.bytes_per_second = std::max(peer.bytes_per_second, static_cast<double>(kLargeBytes) / took);
    }
  }

  static std::string ucx_devices() {
    std::fflush(nullptr);  // UCX's log is a stream of this process
    std::ifstream in(log_path());
    return devices_of({std::istreambuf_iterator<char>(in), {}});
  }

  void gather(Probe& probe) {
    constexpr std::size_t kRoom = kReportBytes - sizeof(std::uint64_t);
    std::string text = to_json(me_);
    for (Member told = me_; text.size() > kRoom && !(told.findings.empty() && told.peers.empty()); text = to_json(told)) {
      if (told.findings.empty()) told.peers.pop_back();
      told.findings.clear();
    }
    if (text.size() > kRoom) throw Failure{CARDEA_ERR_LIMIT, "what this rank has to tell is too long"};
    const std::uint64_t size = text.size();
    std::memcpy(report_->own(), &size, sizeof size);
    std::memcpy(report_->own() + sizeof size, text.data(), text.size());
    must(cardea_publish(report_->handle, 1, nullptr), "publishing");
    probe.members = {me_};
    if (me_.rank == 0) {
      for (Rank rank = 1; rank < ranks_; ++rank) {
        std::string read;
        report_->fetch(rank, 0, 1, CARDEA_FETCH_DEFAULT, Nanoseconds(left() / 2), [&](const cardea_view_t& view) {
          const auto* const at = static_cast<const char*>(view.segments[0]);
          std::uint64_t bytes = 0;
          std::memcpy(&bytes, at, sizeof bytes);
          read.assign(at + sizeof bytes, std::min<std::uint64_t>(bytes, kReportBytes - sizeof bytes));
        });
        Result<Member> member = member_from_json(read);
        if (!member.ok()) throw Failure{CARDEA_ERR_PROTOCOL, fmt::format("rank {}: {}", rank, member.status().message())};
        probe.members.push_back(std::move(*member));
      }
      probe.findings = judge(probe.members);
    }
    meet();  // nobody leaves before rank 0 has read what it has to say
  }

  const Clock::time_point end_;
  cardea_context_t context_{};
  cardea_group_t all_{};
  std::uint32_t ranks_ = 0;
  std::vector<unsigned> node_of_;
  std::vector<cardea_rank_info_t> about_;
  std::optional<Experts> small_, large_, report_;
  std::uint64_t version_ = 1;  // of the small layer
  Member me_;
};

}  // namespace

void log_ucx(char** argv) {
  if (std::getenv("UCX_LOG_LEVEL") != nullptr || std::getenv("UCX_LOG_FILE") != nullptr) return;
  std::error_code error;
  std::string path = (std::filesystem::temp_directory_path(error) / kLogPrefix).string() + "XXXXXX";
  const int file = error ? -1 : mkstemp(path.data());
  if (file < 0) return;
  close(file);
  setenv("UCX_LOG_LEVEL", "info", 1);
  setenv("UCX_LOG_FILE", path.c_str(), 1);
  execv("/proc/self/exe", argv);
  unlink(path.c_str());
}

bool set_by_log_ucx(const std::string& name, const std::string& value) {
  if (log_path().empty()) return false;
  return (name == "UCX_LOG_FILE" && is_own_log(value)) || (name == "UCX_LOG_LEVEL" && value == "info");
}

Probe member(const Findings& own, Nanoseconds patience) {
  return Prober(own, Clock::now() + patience).run();
}

}  // namespace cardea::doctor
