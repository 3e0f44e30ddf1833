// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/socket_exchange.h"

#include <unistd.h>

#include <thread>

#include "lib/bootstrap/frames.h"

namespace cardea::bootstrap {
namespace {

using std::chrono::milliseconds;

/// How long after its own deadline a rank waits for the meeting point's word on who is missing.
constexpr milliseconds kVerdictGrace{3000};
/// The member's side of a handshake is longer than the root's, which may have many to serve.
constexpr auto kMemberHandshake = 2 * kHandshakeDeadline;
constexpr std::size_t kMaxSmallFrame = kMaxFailure + 64;

}  // namespace

std::string this_place() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  std::string name = std::string(host).substr(0, 40);
  for (char& c : name) {
    if (c < 0x21 || c > 0x7e) c = '?';
  }
  return fmt::format("{} (process {})", name, getpid());
}

SocketExchange::SocketExchange(Settings settings, std::unique_ptr<MeetingPoint> own)
    : settings_(std::move(settings)), own_(std::move(own)) {}

Result<std::unique_ptr<SocketExchange>> SocketExchange::connect(Settings settings, std::unique_ptr<MeetingPoint> own,
                                                                Clock::time_point deadline) {
  std::unique_ptr<SocketExchange> exchange(new SocketExchange(std::move(settings), std::move(own)));
  if (Status status = exchange->find_meeting_point(deadline); !status.ok()) return status;
  if (Status status = exchange->await_formation(deadline); !status.ok()) return status;
  return exchange;
}

SocketExchange::~SocketExchange() {
  if (failure_.ok() && !identity_.id.empty()) {
    static_cast<void>(link_.write(frame(encode_leave()), Clock::now() + std::chrono::seconds(1)));
  }
  link_.close();
}

Status SocketExchange::fail(Status status) {
  failure_ = std::move(status);
  link_.close();
  return failure_;
}

Status SocketExchange::find_meeting_point(Clock::time_point deadline) {
  constexpr milliseconds kLongestPause{500};
  Status last = Status::error(CARDEA_ERR_TIMEOUT, "there was no time to try");
  for (milliseconds pause{10}; Clock::now() < deadline; pause = std::min(2 * pause, kLongestPause)) {
    for (const Endpoint& root : settings_.roots) {
      const Result<std::vector<SocketAddress>> addresses = resolve(root);
      if (!addresses.ok()) {
        last = addresses.status();
        continue;
      }
      for (const SocketAddress& address : *addresses) {
        const Attempt tried = attempt(address, deadline);
        if (tried.status.ok()) return {};
        if (!tried.again) return fail(tried.status.within(to_string(root)));
        last = tried.status.within(to_string(root));
      }
    }
    if (settings_.one_pass) break;
    std::this_thread::sleep_for(std::min<Clock::duration>(pause, deadline - Clock::now()));
  }
  return fail(Status::error(CARDEA_ERR_TIMEOUT, "rank {} did not find the job's meeting point{}: {}", settings_.rank,
                            settings_.root_rank == kNoRank ? "" : fmt::format(", which rank {} runs", settings_.root_rank),
                            last.message())
                  .with_peer(settings_.root_rank));
}

SocketExchange::Attempt SocketExchange::attempt(const SocketAddress& address, Clock::time_point deadline) {
  const auto patience = std::min(deadline, later(Clock::now(), kMemberHandshake));
  if (Status status = link_.connect(address, patience); !status.ok()) return {.again = true, .status = status};
  Attempt result = prove_to_each_other(deadline, patience);
  if (!result.status.ok()) link_.close();
  return result;
}

SocketExchange::Attempt SocketExchange::prove_to_each_other(Clock::time_point deadline, Clock::time_point patience) {
  const auto again = [](Status status) { return Attempt{.again = true, .status = std::move(status)}; };
  const auto refused = [&](ByteView body) {
    const Result<Refused> reason = decode_refusal(body);
    if (!reason.ok()) return again(reason.status());
    if (*reason == Refused::kOtherJob)
      return again(Status::error(CARDEA_ERR_MISMATCH, "the meeting point there is another job's"));
    return Attempt{
        .again = false,
        .status = Status::error(CARDEA_ERR_AUTHENTICATION, "rank {} does not hold the job's secret{}", settings_.rank,
                                settings_.secret_origin.empty() ? "" : "; " + settings_.secret_origin)};
  };

  Hello hello{.wire_version = settings_.wire_version,
              .rank = settings_.rank,
              .world_size = settings_.world_size,
              .patience_ms = patience_until(deadline),
              .nonce = {},
              .job = settings_.job,
              .place = settings_.place};
  crypto::random(hello.nonce);
  const Bytes hello_bytes = encode(hello);
  if (Status status = link_.write(frame(hello_bytes), patience); !status.ok()) return again(status);

  std::size_t allowance = kMaxUnauthenticatedBytes - kLengthBytes;
  const Result<Bytes> challenge_bytes = link_.read_frame(allowance, patience);
  if (!challenge_bytes.ok()) return again(challenge_bytes.status());
  if (is_refusal(*challenge_bytes)) return refused(*challenge_bytes);
  const Result<Challenge> challenge = decode_challenge(*challenge_bytes);
  if (!challenge.ok()) return again(challenge.status());
  allowance -= challenge_bytes->size() + kLengthBytes;

  const Bytes proof = encode_proof(prove(settings_.secret, Role::kMember, hello_bytes, *challenge_bytes));
  if (Status status = link_.write(frame(proof), patience); !status.ok()) return again(status);
  const Result<Bytes> answer = link_.read_frame(allowance, patience);
  if (!answer.ok()) return again(answer.status());
  if (is_refusal(*answer)) return refused(*answer);
  const Result<crypto::Digest> root_proof = decode_proof(*answer);
  if (!root_proof.ok()) return again(root_proof.status());
  if (!crypto::equal(*root_proof, prove(settings_.secret, Role::kRoot, hello_bytes, *challenge_bytes))) {
    return again(Status::error(CARDEA_ERR_AUTHENTICATION, "what listens there does not hold the job's secret"));
  }
  if (challenge->wire_version != settings_.wire_version) {
    return {.again = false,
            .status = Status::error(CARDEA_ERR_MISMATCH, "rank {} speaks wire version {}, the job's meeting point {}",
                                    settings_.rank, settings_.wire_version, challenge->wire_version)
                          .with_peer(settings_.rank)};
  }
  identity_ = derive_identity(settings_.secret, settings_.job, challenge->salt);
  return {};
}

Result<Bytes> SocketExchange::receive(FrameKind wanted, std::size_t cap, Clock::time_point deadline) {
  Result<Bytes> body = link_.read_frame(cap, later(deadline, kVerdictGrace));
  if (!body.ok()) {
    if (body.status().code() == CARDEA_ERR_TIMEOUT)
      return Status::error(CARDEA_ERR_TIMEOUT, "the job's meeting point did not answer in time")
          .with_peer(settings_.root_rank);
    return Status::error(CARDEA_ERR_PEER_LOST, "{} went away: {}",
                         settings_.root_rank == kNoRank
                             ? "the job's meeting point"
                             : fmt::format("rank {}, which runs the job's meeting point,", settings_.root_rank),
                         body.status().message())
        .with_peer(settings_.root_rank);
  }
  const Result<FrameKind> kind = kind_of(*body);
  if (!kind.ok()) return kind.status();
  if (*kind == FrameKind::kFailed) return decode_failed(*body);
  if (*kind != wanted) return Status::error(CARDEA_ERR_PROTOCOL, "the meeting point sent a frame out of turn");
  return body;
}

Status SocketExchange::await_formation(Clock::time_point deadline) {
  const Result<Bytes> body = receive(FrameKind::kFormed, kMaxSmallFrame, deadline);
  return body.ok() ? Status() : fail(body.status());
}

Result<std::vector<Bytes>> SocketExchange::allgather(ByteView mine, Clock::time_point deadline) {
  if (!failure_.ok()) return failure_;
  if (mine.size() > kMaxBytes) {
    return fail(
        Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes to exchange, at most {} allowed", mine.size(), kMaxBytes));
  }
  const Give give{.round = round_, .patience_ms = patience_until(deadline), .bytes = Bytes(mine.begin(), mine.end())};
  // A failed write is told by what the meeting point said before it closed, if anything.
  static_cast<void>(link_.write(frame(encode(give)), later(deadline, kVerdictGrace)));
  const std::size_t most = std::min(kMaxAllFrame, settings_.world_size * (kMaxBytes + kLengthBytes) + 64);
  const Result<Bytes> body = receive(FrameKind::kAll, most, deadline);
  if (!body.ok()) return fail(body.status());
  Result<All> all = decode_all(*body, settings_.world_size);
  if (!all.ok()) return fail(all.status());
  if (all->round != round_)
    return fail(Status::error(CARDEA_ERR_PROTOCOL, "round {} came while in round {}", all->round, round_));
  ++round_;
  return std::move(all->bytes);
}

}  // namespace cardea::bootstrap
