// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/meeting_point.h"

#include <netinet/in.h>
#include <sys/resource.h>

#include <atomic>
#include <list>
#include <set>
#include <thread>

#include "lib/base/log.h"
#include "lib/bootstrap/meeting_session.h"
#include "lib/bootstrap/roster.h"
#include "lib/bootstrap/sockets.h"

namespace cardea::bootstrap {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::milliseconds;

/// A stranger younger than this is not dropped in favour of a newer one.
constexpr milliseconds kStrangerGrace{250};
constexpr milliseconds kFarewell{2000};
constexpr unsigned kMostWarnings = 16;

std::shared_ptr<const Bytes> framed(ByteView body) {
  return std::make_shared<const Bytes>(frame(body));
}

/// One descriptor for each rank; the usual soft limit of 1024 is too low for large jobs.
Status make_room_for(std::uint32_t world_size) {
  rlimit limit{};
  const rlim_t wanted = rlim_t{world_size} + 256;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= wanted) return {};
  if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < wanted) {
    return Status::error(CARDEA_ERR_NO_MEMORY,
                         "the meeting point of {} ranks needs {} descriptors, the hard limit is {} (ulimit -Hn)", world_size,
                         wanted, limit.rlim_max);
  }
  log::print(log::Level::kInfo, "root", "bootstrap", "raising the descriptor limit from {} to {}", limit.rlim_cur, wanted);
  limit.rlim_cur = wanted;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? Status() : Status::from_errno(errno, "setrlimit");
}

}  // namespace

class MeetingPoint::Server : public Session::Owner {
 public:
  Server(UniqueFd listener, const Protocol& protocol, const Settings& settings)
      : settings_(settings), roster_(settings.wire_version), deadline_(settings.deadline) {
    identity_ = {.job = settings.job, .secret = settings.secret, .salt = {}, .wire_version = settings.wire_version};
    crypto::random(identity_.salt);
    acceptor_.assign(protocol, listener.release());
    accept();
    arm();
    thread_ = std::thread([this] {
      io_.run();
      finished_.store(true, std::memory_order_release);
    });
  }

  ~Server() override {
    asio::post(io_, [this] { farewell(Clock::now() + kFarewell); });
    thread_.join();
  }

  bool finished() const { return finished_.load(std::memory_order_acquire); }
  std::uint64_t strangers_dropped() const { return strangers_dropped_.load(std::memory_order_relaxed); }

 private:
  void on_authenticated(const std::shared_ptr<Session>& session) override {
    strangers_.remove(session);
    resume_accepting();
    members_.insert(session);
    const bool failed_before = !roster_.failure().ok();
    Status status = roster_.arrive(session->hello());
    if (status.ok() && members_.size() == 1) {
      if (const Status room = make_room_for(roster_.world_size()); !room.ok()) status = roster_.fail(room);
    }
    if (!status.ok() && (failed_before || roster_.failure().ok())) {
      // The news is for this one alone.
      session->settled = true;
      ++told_members_;
      session->send(framed(encode_failed(status)));
      return session->close();
    }
    deadline_ = std::min(deadline_, later(Clock::now(), milliseconds(session->hello().patience_ms)));
    if (roster_.formed() && status.ok()) {
      broadcast(framed(encode_formed()));
      deadline_ = Clock::time_point::max();
    }
    settle();
  }

  void on_frame(const std::shared_ptr<Session>& session, Bytes body) override {
    const Rank rank = session->hello().rank;
    if (session->settled || !roster_.failure().ok()) return;
    const Result<FrameKind> kind = kind_of(body);
    if (kind.ok() && *kind == FrameKind::kLeave) {
      session->settled = true;
      static_cast<void>(roster_.depart(rank, true));
      session->close();
    } else if (kind.ok() && *kind == FrameKind::kGive) {
      take(rank, body);
    } else {
      static_cast<void>(
          roster_.fail(Status::error(CARDEA_ERR_PROTOCOL, "rank {} sent a malformed frame", rank).with_peer(rank)));
    }
    settle();
  }

  void take(Rank rank, ByteView body) {
    Result<Give> give = decode_give(body);
    if (!give.ok()) {
      static_cast<void>(roster_.fail(give.status().within(fmt::format("rank {}", rank)).with_peer(rank)));
      return;
    }
    deadline_ = std::min(deadline_, later(Clock::now(), milliseconds(give->patience_ms)));
    if (!roster_.give(rank, std::move(*give)).ok()) return;
    if (const std::optional<All> all = roster_.take_round()) {
      broadcast(framed(encode(*all)));
      deadline_ = Clock::time_point::max();
    }
  }

  void on_refused(const Hello& claimed, Refused reason) override {
    if (++refused_ > kMostWarnings) return;
    log::print(reason == Refused::kWrongSecret ? log::Level::kWarn : log::Level::kInfo, "root", "bootstrap",
               "refused one that says it is rank {} on {}: it {}", claimed.rank, claimed.place,
               reason == Refused::kWrongSecret ? "does not hold the job's secret" : "belongs to another job");
  }

  void on_closed(const std::shared_ptr<Session>& session) override {
    if (members_.erase(session) > 0) {
      if (!session->settled) static_cast<void>(roster_.depart(session->hello().rank, false));
      session->settled = true;
      return settle();
    }
    strangers_.remove(session);
    strangers_dropped_.fetch_add(1, std::memory_order_relaxed);
    resume_accepting();
  }

  /// After every event: tells a failure once, ends when there is nothing left to do.
  void settle() {
    if (ended_) return;
    if (!roster_.failure().ok() && !told_) {
      told_ = true;
      deadline_ = settings_.deadline;  // until then, latecomers are told as well
      told_members_ = static_cast<unsigned>(members_.size());
      broadcast(framed(encode_failed(roster_.failure())));
      for (const auto& session : std::vector(members_.begin(), members_.end())) session->close();
    }
    if (roster_.over()) return end();
    arm();
  }

  void broadcast(const std::shared_ptr<const Bytes>& frame) {
    for (const auto& session : std::vector(members_.begin(), members_.end())) session->send(frame);
  }

  void arm() {
    timer_.expires_at(deadline_);
    timer_.async_wait([this](const error_code& error) {
      if (error || ended_ || Clock::now() < deadline_) return;
      if (told_ || roster_.world_size() == 0) return end();
      static_cast<void>(roster_.expire());
      settle();
    });
  }

  void accept() {
    if (!acceptor_.is_open()) return;
    if (strangers_.size() >= kMaxStrangers) {
      const auto oldest = strangers_.front();
      const auto due = oldest->born() + kStrangerGrace;
      if (Clock::now() < due) return pause_accepting(due);
      oldest->drop();
    }
    acceptor_.async_accept(io_, [this](const error_code& error, Protocol::socket socket) {
      if (!acceptor_.is_open()) return;
      if (!error) {
        strangers_.push_back(std::make_shared<Session>(io_, std::move(socket), identity_, *this));
        strangers_.back()->start();
      } else if (error != asio::error::connection_aborted) {
        return pause_accepting(Clock::now() + milliseconds(50));  // out of descriptors, most likely; the backlog waits
      }
      accept();
    });
  }

  void pause_accepting(Clock::time_point until) {
    paused_ = true;
    accept_timer_.expires_at(until);
    accept_timer_.async_wait([this](const error_code&) {
      if (std::exchange(paused_, false)) accept();
    });
  }

  void resume_accepting() {
    if (paused_) accept_timer_.cancel();
  }

  void farewell(Clock::time_point until) {
    if (ended_) return;
    const bool failed = !roster_.failure().ok();
    // When the ranks disagree, those that are only just starting shall be told why there is no job.
    const bool tells = failed && !roster_.formed() && roster_.failure().code() != CARDEA_ERR_TIMEOUT &&
                       told_members_ < roster_.world_size();
    error_code ignored;
    if (!tells) acceptor_.close(ignored);
    bool busy = tells;
    for (const auto& session : std::vector(members_.begin(), members_.end())) {
      session->settled = true;
      session->close();
      // After a failure a member may be sending: it must find its connection whole until it has read the reason.
      busy = busy || failed || !session->idle();
    }
    if (!busy || (members_.empty() && !tells) || Clock::now() >= until) return end();
    farewell_timer_.expires_after(milliseconds(5));
    farewell_timer_.async_wait([this, until](const error_code&) { farewell(until); });
  }

  void end() {
    ended_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    timer_.cancel();
    accept_timer_.cancel();
    farewell_timer_.cancel();
    for (const auto& session : std::vector(members_.begin(), members_.end())) session->drop();
    for (const auto& session : std::vector(strangers_.begin(), strangers_.end())) session->drop();
  }

  const Settings settings_;
  asio::io_context io_{1};
  asio::basic_socket_acceptor<Protocol> acceptor_{io_};
  asio::steady_timer timer_{io_}, accept_timer_{io_}, farewell_timer_{io_};
  Session::Identity identity_;
  Roster roster_;
  Clock::time_point deadline_;
  std::list<std::shared_ptr<Session>> strangers_;  // oldest first
  std::set<std::shared_ptr<Session>> members_;
  bool told_ = false, ended_ = false, paused_ = false;
  unsigned refused_ = 0, told_members_ = 0;
  std::atomic<bool> finished_{false};                // release: whoever sees it sees the sockets closed
  std::atomic<std::uint64_t> strangers_dropped_{0};  // relaxed: a count, nothing hangs on it
  std::thread thread_;
};

MeetingPoint::MeetingPoint(Endpoint endpoint, std::unique_ptr<Server> server)
    : endpoint_(std::move(endpoint)), server_(std::move(server)) {}

MeetingPoint::~MeetingPoint() = default;

bool MeetingPoint::finished() const {
  return server_->finished();
}

std::uint64_t MeetingPoint::strangers_dropped() const {
  return server_->strangers_dropped();
}

Result<std::unique_ptr<MeetingPoint>> MeetingPoint::open(const Endpoint& where, const Settings& settings) {
  error_code not_literal;
  asio::ip::make_address(where.host, not_literal);
  const bool any = where.unix_name.empty() && not_literal && where.host != "localhost";
  std::vector<SocketAddress> addresses;
  if (any) {
    addresses = {asio::ip::tcp::endpoint(asio::ip::tcp::v6(), where.port),
                 asio::ip::tcp::endpoint(asio::ip::tcp::v4(), where.port)};
  } else {
    Result<std::vector<SocketAddress>> resolved = resolve(where);
    if (!resolved.ok()) return resolved.status();
    addresses = std::move(*resolved);
  }
  Status failure;
  for (const SocketAddress& address : addresses) {
    Result<UniqueFd> listener = listen_on(address);
    if (!listener.ok()) {
      if (failure.code() != CARDEA_ERR_BUSY) failure = listener.status();
      continue;
    }
    Endpoint reachable = where;
    if (where.unix_name.empty()) {
      const Result<Endpoint> local = local_endpoint(listener->get());
      if (!local.ok()) return local.status();
      reachable = *local;
      if (any) reachable.host = "127.0.0.1";
    }
    auto server = std::make_unique<Server>(std::move(*listener), address.protocol(), settings);
    return std::unique_ptr<MeetingPoint>(new MeetingPoint(std::move(reachable), std::move(server)));
  }
  return failure.within(fmt::format("cannot listen on {}", to_string(where)));
}

}  // namespace cardea::bootstrap
