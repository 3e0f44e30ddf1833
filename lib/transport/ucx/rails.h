// SPDX-License-Identifier: Apache-2.0
// Several NICs of a rank as one transport to the engine: a UCX transport for each, its *rails*. Chunks go by the rail that
// their order names, so that they come over all NICs side by side. Everything else between two ranks goes by their main
// rail, the first that both have (rail_pairs.h): messages, heartbeats, and with them the judgement on who is lost. Engine
// thread only, save address() and rails().
//
// The loss of the main rail is the peer's loss, as with a single NIC. The loss of another is not:
//
//   in use ──its interface goes down, an error, silence while chunks wait, or the peer says so──► out        (for good)
//
// is for one peer, and for both its directions: the other side is told by the main rail, chunks that were on the way are
// started again on a rail that is left, when nothing writes into their destination any more, and a warning names the NIC.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <unordered_map>

#include "lib/transport/ucx/link_watch.h"
#include "lib/transport/ucx/rail_pairs.h"
#include "lib/transport/ucx/ucx_transport.h"

namespace cardea::transport::ucx {

class Rails final : public Transport {
 public:
  static Result<std::unique_ptr<Transport>> make(boost::asio::io_context& io, Listener& listener, const UcxOptions& options,
                                                 const std::vector<std::string>& devices, Nanoseconds silence);
  Rails(boost::asio::io_context& io, Listener& listener, Rank self, Nanoseconds silence);
  ~Rails() override;

  std::string_view name() const override { return "ucx"; }
  Bytes address() const override { return encode_rails(self_, addresses_); }
  Status connect(std::span<const std::pair<Rank, Bytes>> peers) override;
  RailRun rails(Rank peer) const override;
  void send(Rank peer, Bytes message) override;
  Result<Bytes> offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                      std::span<const Rank> peers) override;
  void withdraw(std::uint32_t region) override;
  Status accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) override;
  void forget(RegionKey region) override;
  const std::byte* mapped(RegionKey) const override { return nullptr; }
  DeviceMemory device_memory() const override;
  DeviceMemory device_memory(Rank peer) override;
  void forget_device(void* base) override;
  void start(ChunkOrder order) override;
  void lend_again() override;
  void disconnect(Rank peer) override;
  void close(std::function<void()> done) override;

  /// For tests: chunks that this rank was sent by one of its rails, whether it is out for the peer, and itself.
  std::uint64_t arrived(std::uint32_t rail) const { return rails_[rail]->arrived; }
  bool is_out(Rank peer, std::uint32_t rail) const { return peers_.at(peer).out[rail]; }
  UcxTransport& rail(std::uint32_t rail) { return *rails_[rail]->transport; }

 private:
  struct Rail final : Listener {
    Rail(Rails& of, std::uint32_t as) : owner(of), number(as) {}
    void on_message(Rank from, ByteView message) override { owner.message_came(*this, from, message); }
    void on_chunk_done(ChunkToken token, const Status& status) override { owner.chunk_done(*this, token, status); }
    void on_chunk_landed(ChunkToken token, Bytes bytes) override { owner.chunk_landed(*this, token, std::move(bytes)); }
    void on_peer_lost(Rank peer, const Status& why) override { owner.peer_lost(*this, peer, why); }
    Result<Lease> lend(Rank asker, const ExpertAddress& expert, std::uint64_t offset, std::uint64_t bytes) override {
      return owner.listener_.lend(asker, expert, offset, bytes);
    }
    void give_back(std::uint64_t lease, std::uint64_t sent) override { owner.listener_.give_back(lease, sent); }

    Rails& owner;
    const std::uint32_t number;
    std::string name;  // for messages
    std::unique_ptr<UcxTransport> transport;
    std::uint64_t arrived = 0;
    Clock::time_point next_warning{};
  };
  struct Peer {
    Rank rank = kNoRank;
    std::vector<RailPair> pairs;  // the main one first
    std::size_t their_rails = 0;
    std::array<bool, kMaxUcxRails> out{};                 // by this rank's number, as what follows
    std::array<std::uint32_t, kMaxUcxRails> waiting{};    // chunks on the way
    std::array<Clock::time_point, kMaxUcxRails> moved{};  // when the last of them came, or the first was started
    std::optional<Status> lost;
    bool tell_listener = false;

    std::uint32_t main() const { return pairs.front().mine; }
  };
  struct Flight {
    Peer* peer = nullptr;
    std::uint32_t rail = 0;
    std::unique_ptr<ChunkOrder> order;  // unless it goes by the main rail, with which the peer is lost
  };

  Peer* find(Rank rank);
  UcxTransport& main_of(Peer& peer) { return *rails_[peer.main()]->transport; }
  std::uint32_t rail_for(const Peer& peer, std::uint32_t wanted) const;
  void message_came(const Rail& rail, Rank from, ByteView message);
  void chunk_done(Rail& rail, ChunkToken token, const Status& status);
  void chunk_landed(Rail& rail, ChunkToken token, Bytes bytes);
  void peer_lost(Rail& rail, Rank rank, const Status& why);
  Status told_out(const Rail& by, Rank rank, std::uint32_t theirs);
  /// The peer is lost for good: by all rails, once all of its chunks are done.
  void lose(Peer& peer, const Status& why, bool tell_listener);
  void settle(Peer& peer);
  enum class Cause : std::uint8_t { kKnown, kError };
  void take_out(Peer& peer, std::uint32_t rail, Cause cause, bool tell_peer, const std::string& why);
  void warn(const Peer& peer, std::uint32_t rail, std::string_view why);
  void link_down(std::uint32_t rail);
  RailRun left(const Peer& peer) const;
  void await_silence();
  void look_for_silence();

  boost::asio::io_context& io_;
  Listener& listener_;
  const Rank self_;
  const std::string who_;
  const Nanoseconds silence_;
  std::vector<std::unique_ptr<Rail>> rails_;
  std::vector<RailAddress> addresses_;
  std::map<Rank, Peer> peers_;
  std::unordered_map<ChunkToken, Flight> flights_;  // of peers with several rails
  std::uint32_t restartable_ = 0;                   // of them, those that keep their order
  std::optional<LinkWatch> links_;
  boost::asio::steady_timer look_;
  bool looking_ = false;
  bool closing_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cardea::transport::ucx
