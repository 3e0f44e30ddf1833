// SPDX-License-Identifier: Apache-2.0
// The transport of simulations. Between nodes a chunk is asked for: the request reaches the source after the one-way
// latency, the source lends, the payload crosses both NICs. Within a node it is read: the payload crosses the copy lane at
// once, whatever state the source's process is in, and the stamp is read when it has arrived.
//
// Bytes are copied in one go when the payload leaves the source, before the lease is given back; within the node when it has
// arrived. Regions that their owner offered with a memfd are mapped() by its node: the owner's own pointer, valid for as
// long as the owner's memory is. Without NetworkOptions::move_bytes only the lengths of pieces count.
//
// A transport that is destroyed without close() is a rank that died (SimNetwork::kill). One transport per rank of a network.
#pragma once

#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "lib/transport/sim/sim_network.h"
#include "lib/transport/transport.h"

namespace cardea::sim {

/// `network` and `listener` must outlive the transport.
std::unique_ptr<transport::Transport> make_sim_transport(SimNetwork& network, transport::Listener& listener, Rank rank);

class SimTransport final : public transport::Transport {
 public:
  SimTransport(SimNetwork& network, transport::Listener& listener, Rank rank);
  ~SimTransport() override;

  std::string_view name() const override { return "sim"; }
  Bytes address() const override;
  Status connect(std::span<const std::pair<Rank, Bytes>> peers) override;
  void send(Rank peer, Bytes message) override;
  Result<Bytes> offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                      std::span<const Rank> peers) override;
  void withdraw(std::uint32_t region) override { offered_.erase(region); }
  Status accept(transport::RegionKey region, std::uint64_t bytes, ByteView descriptor) override;
  void forget(transport::RegionKey region) override;
  const std::byte* mapped(transport::RegionKey region) const override;
  void start(transport::ChunkOrder order) override;
  void disconnect(Rank peer) override;
  void close(std::function<void()> done) override;

  // For SimNetwork.

  /// This rank knows now that `peer` is gone; an event of this rank.
  void peer_gone(Rank peer, std::string_view how);
  /// Payloads for `asker` end; their leases are given back as events of this rank.
  void stop_serving(Rank asker);
  /// This rank died: its payloads end, and nothing is called any more.
  void abandon();

 private:
  using ChunkToken = transport::ChunkToken;
  enum class State { kOpen, kClosing, kClosed };

  struct Offered {
    std::byte* base;
    std::uint64_t bytes;
    bool mappable;
    std::unordered_set<Rank> peers;
  };
  struct Accepted {
    std::uint64_t bytes;
    bool mappable;
  };
  struct Served {
    Rank asker;
    ChunkToken token;
    transport::Lease lease;
    std::uint64_t bytes;
    TransferId transfer;
  };

  Status check(const transport::ChunkOrder& order) const;
  Status check_pieces(const transport::ChunkOrder& order, std::uint64_t payload) const;
  void ask(const transport::ChunkOrder& order);
  void read(const transport::ChunkOrder& order, std::uint64_t payload);
  void finish_read(ChunkToken token);
  Status copy_from_regions(const transport::ChunkOrder& order);
  const std::byte* look_up(const transport::RemotePiece& piece) const;

  void serve(Rank asker, ChunkToken token, const transport::ExpertAddress& expert, std::uint64_t offset,
             std::uint64_t bytes);
  void payload_left(std::uint64_t service);
  void receive(ChunkToken token, const std::vector<iovec>& pieces);

  bool gone(Rank peer) const { return gone_.contains(peer); }
  void complete(ChunkToken token, const Status& status);
  void complete_later(ChunkToken token, Status status);
  std::vector<ChunkToken> tokens_from(Rank source) const;
  void end_services(const std::function<bool(const Served&)>& which);
  void await_messages(Clock::time_point deadline);
  void leave();

  SimNetwork& network_;
  transport::Listener& listener_;
  const Rank rank_;
  State state_ = State::kOpen;
  std::unordered_set<Rank> connected_;
  std::unordered_set<Rank> gone_;
  std::unordered_map<std::uint32_t, Offered> offered_;
  std::map<transport::RegionKey, Accepted> accepted_;
  std::unordered_map<ChunkToken, transport::ChunkOrder> in_flight_;
  std::map<ChunkToken, TransferId> reads_;
  std::map<std::uint64_t, Served> served_;
  std::uint64_t last_service_ = 0;
  std::vector<std::function<void()>> done_;
};

}  // namespace cardea::sim
