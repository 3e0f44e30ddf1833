// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/ucx_rank.h"

#include <sys/mman.h>

#include <cstring>
#include <stdexcept>

namespace cardea::test {

using transport::ChunkOrder;
using transport::ChunkToken;

struct UcxWorld::Cell {
  std::size_t length;
  std::byte address[8192];
};

UcxWorld::UcxWorld(unsigned ranks) : ranks_(ranks) {
  void* memory = mmap(nullptr, ranks * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  cells_ = static_cast<Cell*>(memory);
}

UcxWorld::~UcxWorld() {
  munmap(cells_, ranks_ * sizeof(Cell));
}

std::vector<std::pair<Rank, Bytes>> UcxWorld::exchange(Rank self, const Bytes& mine) {
  if (mine.size() > sizeof(Cell::address)) throw std::runtime_error("address too long for the test");
  cells_[self].length = mine.size();
  std::memcpy(cells_[self].address, mine.data(), mine.size());
  if (!board.barrier(200, ranks_)) throw std::runtime_error("a rank did not come up");
  std::vector<std::pair<Rank, Bytes>> peers;
  for (Rank rank = 0; rank < ranks_; ++rank) {
    if (rank == self) continue;
    peers.emplace_back(rank, Bytes(cells_[rank].address, cells_[rank].address + cells_[rank].length));
  }
  return peers;
}

transport::UcxOptions ucx_options(Rank self) {
  transport::UcxOptions options;
  options.self = self;
  options.job_id = "0123456789abcdef0123456789abcdef";
  options.secret.fill(std::byte{0x5a});
  return options;
}

UcxRank::UcxRank(UcxWorld& world, Rank self, const transport::UcxOptions& options, const std::vector<std::string>& rails,
                 Nanoseconds silence)
    : world_(world) {
  setenv("UCX_TLS", "tcp,self", 0);
  auto made = rails.empty() ? transport::make_ucx_transport(io_, *this, options)
                            : transport::make_ucx_rails(io_, *this, options, rails, silence);
  if (!made.ok()) throw std::runtime_error(made.status().message());
  transport_ = std::move(*made);
  const Status status = transport_->connect(world.exchange(self, transport_->address()));
  if (!status.ok()) throw std::runtime_error(status.message());
}

UcxRank::~UcxRank() {
  EXPECT_TRUE(close()) << "the transport did not close";
}

bool UcxRank::pump(const std::function<bool()>& done, std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  while (!done()) {
    if (Clock::now() > deadline) return false;
    io_.restart();
    io_.run_one_for(std::chrono::milliseconds(100));
  }
  return true;
}

void UcxRank::pump_for(std::chrono::milliseconds time) {
  io_.restart();
  io_.run_for(time);
}

bool UcxRank::barrier(unsigned index) {
  world_.board.add(512 + index, 1);
  const auto deadline = Clock::now() + std::chrono::seconds(40);
  while (world_.board.get(512 + index) < world_.ranks()) {
    if (Clock::now() > deadline) return false;
    pump_for(std::chrono::milliseconds(1));
  }
  return true;
}

bool UcxRank::close() {
  if (closed_) return true;
  bool done = false;
  transport_->close([&] {
    EXPECT_FALSE(done) << "closed twice";
    done = true;
  });
  closed_ = pump([&] { return done; });
  return closed_;
}

void UcxRank::pull(ChunkToken token, Rank source, std::uint64_t offset, std::vector<iovec> destination, Version version,
                   std::uint32_t rail, iovec device) {
  ChunkOrder order;
  order.device = device;
  order.token = token;
  order.source = source;
  order.expert.version = version;
  order.offset = offset;
  for (const iovec& piece : destination) order.bytes += piece.iov_len;
  order.destination = std::move(destination);
  order.rail = rail;
  started_.insert(token);
  transport_->start(std::move(order));
}

void UcxRank::on_message(Rank from, ByteView message) {
  messages.emplace_back(from, Bytes(message.begin(), message.end()));
}

void UcxRank::on_chunk_done(ChunkToken token, const Status& status) {
  EXPECT_FALSE(chunks.contains(token)) << "chunk " << token << " completed twice";
  chunks[token] = status;
}

void UcxRank::on_chunk_landed(ChunkToken token, Bytes bytes) {
  EXPECT_FALSE(chunks.contains(token)) << "chunk " << token << " completed twice";
  chunks[token] = Status();
  landed[token] = std::move(bytes);
}

void UcxRank::on_peer_lost(Rank peer, const Status& why) {
  EXPECT_FALSE(lost.contains(peer)) << "rank " << peer << " was lost twice";
  lost[peer] = why;
}

Result<transport::Lease> UcxRank::lend(Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset,
                                       std::uint64_t bytes) {
  if (!lender) return Status(CARDEA_ERR_INVALID_ARGUMENT, "nothing is lent here");
  return lender(asker, expert, offset, bytes);
}

void UcxRank::give_back(std::uint64_t, std::uint64_t bytes_sent) {
  given_back.push_back(bytes_sent);
}

Bytes pattern(std::size_t bytes, unsigned seed) {
  Bytes out(bytes);
  std::uint64_t state = 0x9e3779b97f4a7c15ull * (seed + 1);
  for (std::byte& byte : out) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    byte = static_cast<std::byte>(state >> 56);
  }
  return out;
}

}  // namespace cardea::test
