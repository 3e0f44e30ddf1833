// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/callback_exchange.h"

#include <condition_variable>
#include <mutex>

#include "tests/bootstrap/joining.h"

namespace cardea::bootstrap {
namespace {

/// A framework's store, among threads.
class Store {
 public:
  explicit Store(std::uint32_t ranks) : ranks_(ranks) {}

  struct Face {
    Store* store;
    Rank rank;
    std::function<void(unsigned call, std::byte* all, std::size_t bytes)> tamper;
    unsigned calls = 0;
    std::size_t largest = 0;
  };
  static int call(void* user, const void* mine, size_t bytes, void* all) {
    auto& face = *static_cast<Face*>(user);
    face.store->gather(face.rank, mine, bytes, all);
    face.largest = std::max(face.largest, bytes);
    if (face.tamper) face.tamper(face.calls, static_cast<std::byte*>(all), bytes);
    ++face.calls;
    return 0;
  }

 private:
  void gather(Rank rank, const void* mine, std::size_t bytes, void* all) {
    std::unique_lock lock(mutex_);
    const unsigned round = round_;
    board_.resize(ranks_ * bytes);
    std::memcpy(board_.data() + rank * bytes, mine, bytes);
    if (++arrived_ == ranks_) {
      done_ = board_;
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ != round; });
    std::memcpy(all, done_.data(), done_.size());
  }

  const std::uint32_t ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Bytes board_, done_;
  unsigned arrived_ = 0, round_ = 0;
};

TEST(CallbackExchange, SharesIdSecretAndBytesOfDifferentSizes) {
  Store store(3);
  std::string ids[3];
  Secret secrets[3];
  as_threads(3, [&](Rank rank) {
    Store::Face face{.store = &store, .rank = rank, .tamper = {}};
    auto exchange = callback_exchange(Store::call, &face, rank, 3, in_seconds(60));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    ids[rank] = (*exchange)->job_id();
    secrets[rank] = (*exchange)->secret();
    expect_everybodys_name(**exchange);
    const auto size = [](Rank from) { return from * (kMostPieceBytes + 7); };
    const auto all = (*exchange)->allgather(Bytes(size(rank), static_cast<std::byte>(rank + 1)), in_seconds(60));
    ASSERT_TRUE(all.ok()) << all.status().message();
    for (Rank from = 0; from < 3; ++from) EXPECT_EQ((*all)[from], Bytes(size(from), static_cast<std::byte>(from + 1)));
    EXPECT_LE(face.largest, kMostPieceBytes);
  });
  EXPECT_EQ(ids[0], ids[2]);
  EXPECT_EQ(secrets[0], secrets[1]);
  EXPECT_NE(secrets[0], Secret{});
  EXPECT_EQ(ids[0].size(), 32u);
}

TEST(CallbackExchange, ASizeThatMakesNoSenseIsProtocol) {
  Store store(2);
  as_threads(2, [&](Rank rank) {
    Store::Face face{.store = &store, .rank = rank, .tamper = {}};
    // On rank 0, the store garbles the size of rank 1 (the second call's second record, bytes 8 to 15).
    if (rank == 0) {
      face.tamper = [](unsigned call, std::byte* all, std::size_t bytes) {
        if (call == 1) all[bytes + 15] = std::byte{0x7f};
      };
    }
    auto exchange = callback_exchange(Store::call, &face, rank, 2, in_seconds(60));
    ASSERT_TRUE(exchange.ok());
    const auto all = (*exchange)->allgather({}, in_seconds(60));
    EXPECT_EQ(all.status().code(), rank == 0 ? CARDEA_ERR_PROTOCOL : CARDEA_OK);
    if (rank != 0) return;
    EXPECT_EQ(all.status().detail().peer, 1u);
    EXPECT_EQ((*exchange)->allgather({}, in_seconds(60)).status().code(), CARDEA_ERR_PROTOCOL) << "it stays failed";
    EXPECT_EQ(face.calls, 2u);
  });
}

TEST(CallbackExchange, AStoreThatMixesUpRanksIsFound) {
  Store store(2);
  as_threads(2, [&](Rank rank) {
    Store::Face face{.store = &store, .rank = rank, .tamper = [](unsigned, std::byte* all, std::size_t bytes) {
                       std::swap_ranges(all, all + bytes, all + bytes);
                     }};
    EXPECT_EQ(callback_exchange(Store::call, &face, rank, 2, in_seconds(60)).status().code(), CARDEA_ERR_PROTOCOL);
  });
}

TEST(CallbackExchange, AFailingCallbackIsTransport) {
  const auto fail = [](void*, const void*, size_t, void*) { return 7; };
  const Status status = callback_exchange(fail, nullptr, 0, 2, in_seconds(60)).status();
  EXPECT_EQ(status.code(), CARDEA_ERR_TRANSPORT);
  EXPECT_NE(status.message().find("returned 7"), std::string::npos);
  EXPECT_EQ(callback_exchange(fail, nullptr, 0, 2, Clock::now()).status().code(), CARDEA_ERR_TIMEOUT);
  EXPECT_EQ(callback_exchange(nullptr, nullptr, 0, 2, in_seconds(1)).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(callback_exchange(fail, nullptr, 2, 2, in_seconds(1)).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace cardea::bootstrap
