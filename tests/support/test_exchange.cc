// SPDX-License-Identifier: Apache-2.0
#include "tests/support/test_exchange.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

#include "lib/base/crypto.h"

namespace cardea::test {

struct ExchangeBoard::Cell {
  std::atomic<bool> given{false};
  std::size_t bytes = 0;
  std::byte data[kMaxBytes];
};

ExchangeBoard::ExchangeBoard(unsigned world_size) : world_size_(world_size) {
  std::array<std::byte, 16> id{};
  crypto::random(id);
  job_id_ = crypto::hex(id);
  crypto::random(secret_);
  // Fresh anonymous memory is zero, which is an empty cell; pages are made only when used.
  void* memory =
      mmap(nullptr, sizeof(Cell) * kRounds * world_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  cells_ = static_cast<Cell*>(memory);
}

ExchangeBoard::~ExchangeBoard() {
  munmap(cells_, sizeof(Cell) * kRounds * world_size_);
}

ExchangeBoard::Cell& ExchangeBoard::cell(unsigned round, Rank rank) const {
  return cells_[round * world_size_ + rank];
}

Result<std::vector<Bytes>> BoardExchange::allgather(ByteView mine, Clock::time_point deadline) {
  if (!failure_.ok()) return failure_;
  const auto fail = [&](Status status) { return failure_ = std::move(status); };
  if (round_ >= ExchangeBoard::kRounds) return fail(Status(CARDEA_ERR_LIMIT, "the test's board has no more rounds"));
  const unsigned round = round_++;
  Bytes given(mine.begin(), mine.end());
  if (change_) given = change_(round, std::move(given));
  if (given.size() > ExchangeBoard::kMaxBytes) return fail(Status(CARDEA_ERR_LIMIT, "too much for the test's board"));

  ExchangeBoard::Cell& own = board_.cell(round, rank_);
  own.bytes = given.size();
  if (!given.empty()) std::memcpy(own.data, given.data(), given.size());
  own.given.store(true, std::memory_order_release);

  std::vector<Bytes> all;
  for (Rank rank = 0; rank < board_.world_size(); ++rank) {
    const ExchangeBoard::Cell& cell = board_.cell(round, rank);
    while (!cell.given.load(std::memory_order_acquire)) {
      if (Clock::now() > deadline)
        return fail(Status::error(CARDEA_ERR_TIMEOUT, "rank {} is missing", rank).with_peer(rank));
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    all.emplace_back(cell.data, cell.data + cell.bytes);
  }
  return all;
}

}  // namespace cardea::test
