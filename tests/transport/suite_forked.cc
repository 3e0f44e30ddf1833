// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/suite_forked.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <stdexcept>

#include "lib/base/crypto.h"
#include "tests/support/ranks.h"

namespace cardea::test {
namespace {

constexpr std::size_t kRounds = 16;
constexpr std::size_t kSlotBytes = 64 << 10;

/// The exchange's memory: a slot per round and rank, written once.
class ExchangeMemory {
 public:
  explicit ExchangeMemory(unsigned ranks) : ranks_(ranks) {
    memory_ = mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::runtime_error("mmap failed");
  }
  ~ExchangeMemory() { munmap(memory_, size()); }
  ExchangeMemory(const ExchangeMemory&) = delete;
  ExchangeMemory& operator=(const ExchangeMemory&) = delete;

  struct Slot {
    std::atomic<std::uint64_t> length_and_one;  // 0: not written; released after the bytes, acquired before they are read
    std::byte bytes[kSlotBytes - sizeof(std::uint64_t)];
  };
  Slot& slot(std::size_t round, unsigned rank) { return static_cast<Slot*>(memory_)[round * ranks_ + rank]; }

 private:
  std::size_t size() const { return sizeof(Slot) * kRounds * ranks_; }

  unsigned ranks_;
  void* memory_;
};

class SharedExchange : public bootstrap::Exchange {
 public:
  SharedExchange(ExchangeMemory& memory, Rank rank, unsigned ranks, std::string job, const bootstrap::Secret& secret)
      : memory_(memory), rank_(rank), ranks_(ranks), job_(std::move(job)), secret_(secret) {}

  Rank rank() const override { return rank_; }
  std::uint32_t world_size() const override { return ranks_; }
  const std::string& job_id() const override { return job_; }
  const bootstrap::Secret& secret() const override { return secret_; }

  Result<std::vector<Bytes>> allgather(ByteView mine, Clock::time_point deadline) override {
    if (round_ == kRounds || mine.size() > sizeof(ExchangeMemory::Slot::bytes)) {
      return Status(CARDEA_ERR_LIMIT, "the suite's exchange has 16 rounds of 64 KiB");
    }
    const std::size_t round = round_++;
    auto& own = memory_.slot(round, rank_);
    if (!mine.empty()) std::memcpy(own.bytes, mine.data(), mine.size());
    own.length_and_one.store(mine.size() + 1, std::memory_order_release);
    std::vector<Bytes> all;
    for (Rank r = 0; r < ranks_; ++r) {
      auto& slot = memory_.slot(round, r);
      std::uint64_t length = 0;
      while ((length = slot.length_and_one.load(std::memory_order_acquire)) == 0) {
        if (Clock::now() > deadline) return Status::error(CARDEA_ERR_TIMEOUT, "rank {} did not come", r);
        usleep(200);
      }
      all.emplace_back(slot.bytes, slot.bytes + length - 1);
    }
    return all;
  }

 private:
  ExchangeMemory& memory_;
  const Rank rank_;
  const unsigned ranks_;
  const std::string job_;
  const bootstrap::Secret secret_;
  std::size_t round_ = 0;
};

class ForkedHarness : public RankHarness {
 public:
  ForkedHarness(Rank rank, unsigned ranks, const Traits& traits, boost::asio::io_context& io, SharedBoard& board)
      : RankHarness(rank, ranks, traits), io_(io), board_(board) {}
  using RankHarness::set_transport;

  bool run_until(const std::function<bool()>& done, Nanoseconds deadline) override {
    const auto end = Clock::now() + deadline;
    while (!done()) {
      if (Clock::now() >= end) return false;
      // Not for long: what `done` asks may change outside of this process.
      io_.run_one_for(std::chrono::milliseconds(2));
    }
    return true;
  }
  bool stall_until(const std::function<bool()>& done) override {
    const auto end = Clock::now() + kPatience;
    while (!done()) {
      if (Clock::now() >= end) return false;
      usleep(200);
    }
    return true;
  }
  void die() override {
    raise(SIGKILL);
    std::abort();
  }
  void add(unsigned index, unsigned long value) override { board_.add(index, value); }
  unsigned long get(unsigned index) const override { return board_.get(index); }

 private:
  boost::asio::io_context& io_;
  SharedBoard& board_;
};

Status connect_all(transport::Transport& transport, bootstrap::Exchange& exchange) {
  const Result<std::vector<Bytes>> addresses = exchange.allgather(transport.address(), Clock::now() + kPatience);
  if (!addresses.ok()) return addresses.status();
  std::vector<std::pair<Rank, Bytes>> peers;
  for (Rank r = 0; r < exchange.world_size(); ++r) {
    if (r != exchange.rank()) peers.emplace_back(r, (*addresses)[r]);
  }
  return transport.connect(peers);
}

}  // namespace

void ForkedBackend::run(unsigned ranks, const Scenario& body, const std::vector<unsigned>& victims) {
  SharedBoard board;
  ExchangeMemory memory(ranks);
  bootstrap::Secret secret;
  crypto::random(secret);
  std::array<std::byte, 16> job;
  crypto::random(job);
  before_start(ranks);
  const auto rank_body = [&](unsigned rank) {
    boost::asio::io_context io(1);
    const auto work = boost::asio::make_work_guard(io);
    SharedExchange exchange(memory, rank, ranks, crypto::hex(job), secret);
    ForkedHarness harness(rank, ranks, traits(), io, board);
    {
      const std::unique_ptr<ForkedRank> made = make_rank(io, exchange, harness.seen());
      ASSERT_TRUE(made) << "no transport on rank " << rank;
      harness.set_transport(made->transport());
      const Status connected = connect_all(harness.transport(), exchange);
      ASSERT_TRUE(connected.ok()) << connected.message();
      body(harness);
      harness.close();
      // What is left must not call the listener any more.
      harness.run_for(std::chrono::milliseconds(20));
    }
    io.poll();
  };
  run_ranks(ranks, rank_body, {.deadline = std::chrono::minutes(2), .victims = victims, .while_running = {}});
}

}  // namespace cardea::test
