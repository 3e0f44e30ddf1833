// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/callback_exchange.h"

#include <algorithm>

#include "lib/base/crypto.h"
#include "lib/base/wire.h"
#include "lib/bootstrap/handshake.h"

namespace cardea::bootstrap {
namespace {

constexpr std::uint32_t kIntroductionMagic = 0x49424443;  // "CDBI"
constexpr std::uint32_t kSizeMagic = 0x53424443;          // "CDBS"

class CallbackExchange : public Exchange {
 public:
  CallbackExchange(cardea_exchange_fn exchange, void* user, Rank rank, std::uint32_t world_size)
      : exchange_(exchange), user_(user), rank_(rank), world_size_(world_size) {}

  Status introduce(Clock::time_point deadline);

  Rank rank() const override { return rank_; }
  std::uint32_t world_size() const override { return world_size_; }
  const std::string& job_id() const override { return job_id_; }
  const Secret& secret() const override { return secret_; }
  Result<std::vector<Bytes>> allgather(ByteView mine, Clock::time_point deadline) override;

 private:
  Result<Bytes> call(const Bytes& mine, Clock::time_point deadline);
  Result<std::vector<std::size_t>> exchange_sizes(std::size_t mine, Clock::time_point deadline);
  Status fail(Status status) { return failure_ = std::move(status); }

  const cardea_exchange_fn exchange_;
  void* const user_;
  const Rank rank_;
  const std::uint32_t world_size_;
  std::string job_id_;
  Secret secret_{};
  std::uint32_t round_ = 0;
  Status failure_;
};

Result<Bytes> CallbackExchange::call(const Bytes& mine, Clock::time_point deadline) {
  if (Clock::now() >= deadline) {
    return fail(Status::error(CARDEA_ERR_TIMEOUT, "rank {}: the exchange callback took too long", rank_));
  }
  Bytes all(mine.size() * world_size_);
  if (const int returned = exchange_(user_, mine.data(), mine.size(), all.data()); returned != 0) {
    return fail(Status::error(CARDEA_ERR_TRANSPORT, "rank {}: the exchange callback returned {}", rank_, returned));
  }
  if (!std::equal(mine.begin(), mine.end(), all.begin() + static_cast<std::ptrdiff_t>(mine.size() * rank_))) {
    return fail(
        Status::error(CARDEA_ERR_PROTOCOL, "the exchange callback did not deliver rank {}'s own bytes in its place", rank_));
  }
  return all;
}

Status CallbackExchange::introduce(Clock::time_point deadline) {
  // Rank 0 draws both; the others' are zero.
  std::array<std::byte, 16> id{};
  if (rank_ == 0) {
    crypto::random(id);
    crypto::random(secret_);
  }
  const Bytes mine = WireWriter()
                         .number(kIntroductionMagic)
                         .number(kWireVersion)
                         .number(rank_)
                         .number(world_size_)
                         .blob(id)
                         .blob(secret_)
                         .take();
  const Result<Bytes> all = call(mine, deadline);
  if (!all.ok()) return all.status();
  for (Rank from = 0; from < world_size_; ++from) {
    WireReader in(ByteView(*all).subspan(mine.size() * from, mine.size()));
    in.number_in(kIntroductionMagic, kIntroductionMagic);
    const auto wire_version = in.number<std::uint32_t>();
    const auto rank = in.number<std::uint32_t>();
    const auto world_size = in.number<std::uint32_t>();
    const ByteView its_id = in.blob(id.size());
    const ByteView its_secret = in.blob(secret_.size());
    if (!in.finish("introduction").ok()) {
      return fail(Status::error(CARDEA_ERR_PROTOCOL, "the exchange callback delivered no introduction of rank {}", from)
                      .with_peer(from));
    }
    if (wire_version != kWireVersion || world_size != world_size_) {
      return fail(Status::error(CARDEA_ERR_MISMATCH, "rank {} has world size {} and wire version {}, rank {} has {} and {}",
                                from, world_size, wire_version, rank_, world_size_, kWireVersion)
                      .with_peer(from));
    }
    if (rank != from) {
      return fail(
          Status::error(CARDEA_ERR_MISMATCH, "the exchange callback delivered rank {}'s bytes as rank {}'s", rank, from)
              .with_peer(from));
    }
    if (from == 0) {
      job_id_ = crypto::hex(its_id);
      std::copy(its_secret.begin(), its_secret.end(), secret_.begin());
    }
  }
  return {};
}

Result<std::vector<std::size_t>> CallbackExchange::exchange_sizes(std::size_t mine, Clock::time_point deadline) {
  const Bytes record = WireWriter().number(kSizeMagic).number(round_).number(static_cast<std::uint64_t>(mine)).take();
  const Result<Bytes> all = call(record, deadline);
  if (!all.ok()) return all.status();
  std::vector<std::size_t> sizes;
  for (Rank from = 0; from < world_size_; ++from) {
    WireReader in(ByteView(*all).subspan(record.size() * from, record.size()));
    in.number_in(kSizeMagic, kSizeMagic);
    in.number_in(round_, round_);
    sizes.push_back(in.number_in<std::uint64_t>(0, kMaxBytes));
    if (!in.finish("size").ok()) {
      return fail(
          Status::error(CARDEA_ERR_PROTOCOL, "the exchange callback delivered a size of rank {} that makes no sense", from)
              .with_peer(from));
    }
  }
  return sizes;
}

Result<std::vector<Bytes>> CallbackExchange::allgather(ByteView mine, Clock::time_point deadline) {
  if (!failure_.ok()) return failure_;
  if (mine.size() > kMaxBytes) {
    return fail(
        Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes to exchange, at most {} allowed", mine.size(), kMaxBytes));
  }
  const Result<std::vector<std::size_t>> sizes = exchange_sizes(mine.size(), deadline);
  if (!sizes.ok()) return sizes.status();
  ++round_;

  const std::size_t largest = *std::max_element(sizes->begin(), sizes->end());
  const std::size_t most = std::clamp<std::size_t>(kMostCallBytes / world_size_, 64, kMostPieceBytes);
  std::vector<Bytes> result(world_size_);
  for (std::size_t done = 0; done < largest;) {
    const std::size_t piece = std::min(most, largest - done);
    Bytes padded(piece);
    if (done < mine.size()) {
      const ByteView part = mine.subspan(done, std::min(piece, mine.size() - done));
      std::copy(part.begin(), part.end(), padded.begin());
    }
    const Result<Bytes> all = call(padded, deadline);
    if (!all.ok()) return all.status();
    for (Rank from = 0; from < world_size_; ++from) {
      const std::size_t size = (*sizes)[from];
      const ByteView given = ByteView(*all).subspan(piece * from, piece).first(std::min(piece, size - std::min(size, done)));
      result[from].insert(result[from].end(), given.begin(), given.end());
    }
    done += piece;
  }
  return result;
}

}  // namespace

Result<std::unique_ptr<Exchange>> callback_exchange(cardea_exchange_fn exchange, void* user, Rank rank,
                                                    std::uint32_t world_size, Clock::time_point deadline) {
  if (exchange == nullptr) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "exchange is null");
  if (world_size < 1 || world_size > kMaxRanks) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "world_size {} is not in 1 to {}", world_size, kMaxRanks);
  }
  if (rank >= world_size) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} of {} ranks", rank, world_size);
  auto made = std::make_unique<CallbackExchange>(exchange, user, rank, world_size);
  if (Status status = made->introduce(deadline); !status.ok()) return status;
  return std::unique_ptr<Exchange>(std::move(made));
}

}  // namespace cardea::bootstrap
