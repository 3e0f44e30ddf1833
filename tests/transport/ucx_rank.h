// SPDX-License-Identifier: Apache-2.0
// One rank of a test of the ucx transport: a transport, an io_context pumped by the test's thread, and a listener that
// writes down what it is told. Made inside a forked process; the world is made before.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "lib/base/asio.h"
#include "lib/transport/ucx/factory.h"
#include "tests/support/ranks.h"

namespace cardea::test {

/// Where ranks leave their addresses, in memory shared by all processes of a test.
class UcxWorld {
 public:
  explicit UcxWorld(unsigned ranks);
  ~UcxWorld();
  UcxWorld(const UcxWorld&) = delete;
  UcxWorld& operator=(const UcxWorld&) = delete;

  unsigned ranks() const { return ranks_; }
  /// Leaves this rank's address and waits for those of all others.
  std::vector<std::pair<Rank, Bytes>> exchange(Rank self, const Bytes& mine);
  SharedBoard board;  // barriers 200 and above are the world's

 private:
  struct Cell;
  unsigned ranks_;
  Cell* cells_;
};

transport::UcxOptions ucx_options(Rank self);

class UcxRank : public transport::Listener {
 public:
  /// With `rails`, by a transport that has a rail for each of these devices.
  UcxRank(UcxWorld& world, Rank self, const transport::UcxOptions& options, const std::vector<std::string>& rails = {},
          Nanoseconds silence = std::chrono::seconds(10));
  ~UcxRank() override;

  transport::Transport& transport() { return *transport_; }
  boost::asio::io_context& io() { return io_; }
  /// Runs handlers until done() holds; false after `limit`.
  bool pump(const std::function<bool()>& done, std::chrono::seconds limit = std::chrono::seconds(40));
  void pump_for(std::chrono::milliseconds time);
  /// Barrier that keeps this rank's transport running meanwhile.
  bool barrier(unsigned index);
  bool close();

  /// Starts pulling bytes [offset, offset+bytes) of expert 0 of `source`.
  void pull(transport::ChunkToken token, Rank source, std::uint64_t offset, std::vector<iovec> destination,
            Version version = 1, std::uint32_t rail = 0, iovec device = {nullptr, 0});

  std::vector<std::pair<Rank, Bytes>> messages;
  std::map<transport::ChunkToken, Status> chunks;
  std::map<transport::ChunkToken, Bytes> landed;  // of chunks onto a device, those that came to host memory
  std::map<Rank, Status> lost;
  std::vector<std::uint64_t> given_back;  // bytes sent, per lease
  /// What is lent: pieces per request. Answers INVALID_ARGUMENT when not set.
  std::function<Result<transport::Lease>(Rank, const transport::ExpertAddress&, std::uint64_t, std::uint64_t)> lender;

 private:
  void on_message(Rank from, ByteView message) override;
  void on_chunk_done(transport::ChunkToken token, const Status& status) override;
  void on_chunk_landed(transport::ChunkToken token, Bytes bytes) override;
  void on_peer_lost(Rank peer, const Status& why) override;
  Result<transport::Lease> lend(Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset,
                                std::uint64_t bytes) override;
  void give_back(std::uint64_t lease, std::uint64_t bytes_sent) override;

  UcxWorld& world_;
  boost::asio::io_context io_;
  std::unique_ptr<transport::Transport> transport_;
  std::set<transport::ChunkToken> started_;
  bool closed_ = false;
};

/// Bytes that differ from place to place.
Bytes pattern(std::size_t bytes, unsigned seed);

}  // namespace cardea::test
