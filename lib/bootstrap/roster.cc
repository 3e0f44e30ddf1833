// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/roster.h"

namespace cardea::bootstrap {

std::string list_ranks(const std::vector<Rank>& ranks) {
  constexpr std::size_t kMostRanges = 32;
  std::string text;
  std::size_t ranges = 0;
  for (std::size_t i = 0; i < ranks.size();) {
    if (ranges++ == kMostRanges) return text + fmt::format(" and {} more", ranks.size() - i);
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    text += text.empty() ? "" : ", ";
    text += last == i ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[last]);
    i = last + 1;
  }
  return text;
}

std::string Roster::describe(Rank rank) const {
  const auto& place = members_[rank].place;
  return fmt::format("rank {} on {}", rank, place ? *place : "an unknown host");
}

Status Roster::fail(Status status) {
  if (failure_.ok()) failure_ = std::move(status);
  return failure_;
}

Status Roster::arrive(const Hello& hello) {
  if (!failure_.ok()) return failure_;
  if (world_size_ == 0) {
    world_size_ = hello.world_size;
    first_ = hello.rank;
    members_.resize(world_size_);
  }
  if (hello.wire_version != wire_version_) {
    return fail(Status::error(CARDEA_ERR_MISMATCH, "rank {} on {} speaks wire version {}, the job's meeting point {}",
                              hello.rank, hello.place, hello.wire_version, wire_version_)
                    .with_peer(hello.rank));
  }
  if (hello.world_size != world_size_) {
    return fail(Status::error(CARDEA_ERR_MISMATCH, "rank {} on {} was started with world size {}, {} with world size {}",
                              hello.rank, hello.place, hello.world_size, describe(first_), world_size_)
                    .with_peer(hello.rank));
  }
  Member& member = members_[hello.rank];
  if (member.place) {
    const Status taken =
        Status::error(CARDEA_ERR_MISMATCH, "two processes say that they are rank {}: one on {}, another on {}", hello.rank,
                      *member.place, hello.place)
            .with_peer(hello.rank);
    return formed() ? taken : fail(taken);
  }
  member.place = hello.place;
  ++arrived_;
  return {};
}

Status Roster::give(Rank rank, Give give) {
  if (!failure_.ok()) return failure_;
  Member& member = members_[rank];
  if (!formed() || member.departed || member.given || give.round != round_) {
    return fail(Status::error(CARDEA_ERR_PROTOCOL, "{} gave to round {} while the job is in round {}", describe(rank),
                              give.round, round_)
                    .with_peer(rank));
  }
  if (departed_ > 0) {
    for (Rank left = 0; left < world_size_; ++left) {
      if (!members_[left].departed) continue;
      return fail(Status::error(CARDEA_ERR_PEER_LOST, "{} has left the job", describe(left)).with_peer(left));
    }
  }
  round_bytes_ += give.bytes.size() + kLengthBytes;
  if (round_bytes_ + 64 > kMaxAllFrame) {
    return fail(Status::error(CARDEA_ERR_LIMIT, "the ranks' contributions exceed {} bytes", kMaxAllFrame));
  }
  member.given = std::move(give.bytes);
  ++given_;
  return {};
}

std::optional<All> Roster::take_round() {
  if (given_ == 0 || given_ < world_size_) return std::nullopt;
  All all{.round = round_, .bytes = {}};
  for (Member& member : members_) {
    all.bytes.push_back(std::move(*member.given));
    member.given.reset();
  }
  given_ = 0;
  round_bytes_ = 0;
  ++round_;
  return all;
}

Status Roster::depart(Rank rank, bool in_good_order) {
  if (!failure_.ok()) return failure_;
  Member& member = members_[rank];
  if (member.departed) return {};
  if (!in_good_order || !formed() || round_open()) {
    return fail(Status::error(CARDEA_ERR_PEER_LOST, "{} {}", describe(rank),
                              in_good_order ? "has left the job while others wait for it" : "is gone: its connection broke")
                    .with_peer(rank));
  }
  member.departed = true;
  ++departed_;
  return {};
}

std::vector<Rank> Roster::missing() const {
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < world_size_; ++rank) {
    if (formed() ? !members_[rank].given : !members_[rank].place) ranks.push_back(rank);
  }
  return ranks;
}

Status Roster::expire() {
  if (!failure_.ok()) return failure_;
  if (world_size_ == 0) return fail(Status::error(CARDEA_ERR_TIMEOUT, "no rank of the job came to its meeting point"));
  const std::vector<Rank> absent = missing();
  const Status status = Status::error(CARDEA_ERR_TIMEOUT, "{} of {} ranks {}: {} {}", absent.size(), world_size_,
                                      formed() ? "did not take part in an exchange in time" : "did not arrive in time",
                                      absent.size() == 1 ? "rank" : "ranks", list_ranks(absent));
  return fail(absent.empty() ? status : status.with_peer(absent.front()));
}

}  // namespace cardea::bootstrap
