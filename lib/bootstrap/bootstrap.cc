// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/bootstrap.h"

#include <thread>

#include "lib/base/crypto.h"
#include "lib/bootstrap/meeting_point.h"
#include "lib/bootstrap/socket_exchange.h"

namespace cardea::bootstrap {
namespace {

/// A job of one rank has nobody to talk to.
class SoloExchange : public Exchange {
 public:
  SoloExchange() {
    std::array<std::byte, 16> id{};
    crypto::random(id);
    crypto::random(secret_);
    job_id_ = crypto::hex(id);
  }
  Rank rank() const override { return 0; }
  std::uint32_t world_size() const override { return 1; }
  const std::string& job_id() const override { return job_id_; }
  const Secret& secret() const override { return secret_; }
  Result<std::vector<Bytes>> allgather(ByteView mine, Clock::time_point) override {
    if (!failure_.ok()) return failure_;
    if (mine.size() > kMaxBytes) {
      return failure_ = Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes to exchange, at most {} allowed", mine.size(),
                                      kMaxBytes);
    }
    return std::vector<Bytes>{Bytes(mine.begin(), mine.end())};
  }

 private:
  std::string job_id_;
  Secret secret_{};
  Status failure_;
};

Result<std::unique_ptr<Exchange>> connected(SocketExchange::Settings settings, std::unique_ptr<MeetingPoint> own,
                                            Clock::time_point deadline) {
  Result<std::unique_ptr<SocketExchange>> made = SocketExchange::connect(std::move(settings), std::move(own), deadline);
  if (!made.ok()) return made.status();
  return std::unique_ptr<Exchange>(std::move(*made));
}

/// Rank 0 of a job whose meeting point it runs itself. An address that is taken may come free: a predecessor may still be
/// closing. Or it is a second rank 0 that has it: then joining it as a member brings that to light.
Result<std::unique_ptr<Exchange>> run_meeting_point(SocketExchange::Settings settings, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kLongestPause{200};
  const MeetingPoint::Settings root{
      .job = settings.job, .secret = settings.secret, .deadline = deadline, .wire_version = settings.wire_version};
  for (std::chrono::milliseconds pause{10};; pause = std::min(2 * pause, kLongestPause)) {
    Result<std::unique_ptr<MeetingPoint>> own = MeetingPoint::open(settings.roots.front(), root);
    if (own.ok()) {
      settings.roots = {(*own)->endpoint()};
      return connected(std::move(settings), std::move(*own), deadline);
    }
    if (own.status().code() != CARDEA_ERR_BUSY) return own.status();
    SocketExchange::Settings visit = settings;
    visit.one_pass = true;
    visit.root_rank = kNoRank;
    Result<std::unique_ptr<Exchange>> visited = connected(std::move(visit), nullptr, deadline);
    if (visited.ok() || visited.status().code() == CARDEA_ERR_MISMATCH ||
        visited.status().code() == CARDEA_ERR_AUTHENTICATION) {
      return visited;
    }
    if (Clock::now() + pause >= deadline) {
      return Status::error(CARDEA_ERR_SYSTEM, "rank 0 {}, and no meeting point of this job is there ({})",
                           own.status().message(), visited.status().message());
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace

Result<std::unique_ptr<Exchange>> join(const Options& options, Clock::time_point deadline) {
  if (options.world_size < 1 || options.world_size > kMaxRanks) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "world_size {} is not in 1 to {}", options.world_size, kMaxRanks);
  }
  if (options.rank >= options.world_size) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} of {} ranks", options.rank, options.world_size);
  }
  if (options.world_size == 1 && options.runs_meeting_point)
    return std::unique_ptr<Exchange>(std::make_unique<SoloExchange>());
  if (options.roots.empty()) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "no address of a meeting point");

  SocketExchange::Settings settings{.rank = options.rank,
                                    .world_size = options.world_size,
                                    .roots = options.roots,
                                    .root_rank = options.runs_meeting_point ? 0 : kNoRank,
                                    .job = job_tag(options.job, options.instance),
                                    .secret = options.secret,
                                    .secret_origin = options.secret_origin,
                                    .wire_version = options.wire_version,
                                    .place = this_place()};
  if (options.runs_meeting_point && options.rank == 0) return run_meeting_point(std::move(settings), deadline);
  return connected(std::move(settings), nullptr, deadline);
}

}  // namespace cardea::bootstrap
