// SPDX-License-Identifier: Apache-2.0
// A bootstrap::Exchange for tests of what comes after bootstrap: ranks exchange through memory that they share because they
// were forked. Make one ExchangeBoard before the ranks start and a BoardExchange in each rank (process or thread).
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "lib/bootstrap/exchange.h"

namespace cardea::test {

/// Room for kRounds allgathers of up to 64 KiB per rank. Serves one job.
class ExchangeBoard {
 public:
  static constexpr unsigned kRounds = 16;
  static constexpr std::size_t kMaxBytes = 64 * 1024;

  explicit ExchangeBoard(unsigned world_size);
  ~ExchangeBoard();
  ExchangeBoard(const ExchangeBoard&) = delete;
  ExchangeBoard& operator=(const ExchangeBoard&) = delete;

  unsigned world_size() const { return world_size_; }
  const std::string& job_id() const { return job_id_; }
  const bootstrap::Secret& secret() const { return secret_; }

 private:
  friend class BoardExchange;
  struct Cell;
  Cell& cell(unsigned round, Rank rank) const;

  unsigned world_size_;
  std::string job_id_;
  bootstrap::Secret secret_;
  Cell* cells_;
};

class BoardExchange final : public bootstrap::Exchange {
 public:
  BoardExchange(const ExchangeBoard& board, Rank rank) : board_(board), rank_(rank), secret_(board.secret()) {}

  Rank rank() const override { return rank_; }
  std::uint32_t world_size() const override { return board_.world_size(); }
  const std::string& job_id() const override { return board_.job_id(); }
  const bootstrap::Secret& secret() const override { return secret_; }
  Result<std::vector<Bytes>> allgather(ByteView mine, Clock::time_point deadline) override;

  /// Gives this rank another secret than the others have.
  void use_secret(const bootstrap::Secret& secret) { secret_ = secret; }
  /// Lets the rank lie: what it gives in an allgather (rounds count from 0) passes through here.
  void on_give(std::function<Bytes(unsigned round, Bytes mine)> change) { change_ = std::move(change); }

 private:
  const ExchangeBoard& board_;
  const Rank rank_;
  bootstrap::Secret secret_;
  unsigned round_ = 0;
  Status failure_;
  std::function<Bytes(unsigned, Bytes)> change_;
};

}  // namespace cardea::test
