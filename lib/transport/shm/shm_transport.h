// SPDX-License-Identifier: Apache-2.0
// The transport of factory.h. How a chunk goes:
//
//   start ─► reading (mapped regions: memcpy; others: process_vm_readv) ──────────────► done
//               └─ the kernel refuses ─► asked (the owner's engine sends it, lender.h) ─┘
//   peer lost, disconnect ─► PEER_LOST          close ─► CANCELED
//
// Reading moves at most kBytesPerTurn per turn of the io_context, of one chunk; active chunks take turns. A completion is
// put into finished_ and told from a turn of its own, or before the news that its source was lost.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "lib/transport/shm/factory.h"
#include "lib/transport/shm/lender.h"
#include "lib/transport/shm/link.h"
#include "lib/transport/shm/pull.h"
#include "lib/transport/shm/region_table.h"

namespace cardea::shm {

class ShmTransport final : public transport::Transport, private LinkUser {
 public:
  static constexpr std::uint64_t kBytesPerTurn = 256 << 10;
  static constexpr std::chrono::milliseconds kFlushTime{300};

  ShmTransport(boost::asio::io_context& io, transport::Listener& listener, Rank self, std::vector<NodeLink> links,
               const ShmOptions& options);
  ~ShmTransport() override;

  std::string_view name() const override { return "shm"; }
  Bytes address() const override { return {}; }
  Status connect(std::span<const std::pair<Rank, Bytes>> peers) override;
  void send(Rank peer, Bytes message) override;
  Result<Bytes> offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                      std::span<const Rank> peers) override;
  void withdraw(std::uint32_t region) override;
  Status pass_descriptor(std::uint32_t region, std::uint64_t bytes, int descriptor, Rank peer) override;
  UniqueFd take_descriptor(transport::RegionKey region, std::uint64_t bytes) override;
  Status accept(transport::RegionKey region, std::uint64_t bytes, ByteView descriptor) override;
  Result<bool> bring_in(transport::RegionKey region, std::uint64_t bytes) override;
  void forget(transport::RegionKey region) override;
  const std::byte* mapped(transport::RegionKey region) const override;
  void start(transport::ChunkOrder order) override;
  void lend_again() override;
  void disconnect(Rank peer) override;
  void close(std::function<void()> done) override;

 private:
  using PullPtr = std::unique_ptr<Pull>;

  struct Peer {
    std::shared_ptr<Link> link;
    std::shared_ptr<Lender> lender;
    pid_t pid = 0;
    bool read_memory = true;  // process_vm_readv has not been refused
    bool lost = false;
    std::map<std::uint64_t, PullPtr> asked;  // by request
    std::deque<PullPtr> to_ask;              // beyond what the owner lends at a time
  };

  struct Offered {
    void* base = nullptr;
    std::uint64_t bytes = 0;
    bool mappable = false;
    std::set<Rank> peers;
  };

  struct Finished {
    Rank source = kNoRank;
    transport::ChunkToken token = 0;
    Status status;
  };

  Status on_frame(Rank from, FrameType type, ByteView body, UniqueFd descriptor) override;
  void on_broken(Rank from, const Status& why) override;
  std::optional<BulkFrame> next_bulk(Rank to) override;
  void bulk_sent(Rank to) override;
  void on_drained(Rank to) override;

  Status on_ask(Rank from, Peer& peer, ByteView body);
  Status on_data(Peer& peer, ByteView body);
  Status on_end(Peer& peer, ByteView body);

  Peer* living(Rank rank);
  void schedule_turn();
  void turn();
  void ask(Peer& peer, PullPtr pull);
  void refuse(Rank source, Peer& peer, PullPtr pull);
  std::vector<PullPtr> take_pulls(Rank source);
  void finish_soon(const Pull& pull, const Status& status);
  void tell_finished();
  void finish_close();
  template <typename F>
  void post(F action);

  boost::asio::io_context& io_;
  transport::Listener& listener_;
  const Rank self_;
  const ShmOptions options_;
  std::map<Rank, Peer> peers_;
  std::map<std::uint32_t, Offered> offered_;
  std::set<std::pair<std::uint32_t, Rank>> passed_;  // descriptors of device memory
  RegionTable regions_;
  std::deque<PullPtr> reading_;
  bool turn_scheduled_ = false;
  std::uint64_t last_request_ = 0;
  std::deque<Finished> finished_;
  bool started_ = false;
  bool closing_ = false;
  bool closed_ = false;
  std::vector<std::function<void()>> on_closed_;
  boost::asio::steady_timer flush_timer_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  // handlers hold it weakly
};

}  // namespace cardea::shm
