// SPDX-License-Identifier: Apache-2.0
// The transport of factory.h. Engine thread only.
//
// UCX callbacks change state and queue events; events reach the listener, and the listener's answers reach UCX, at the end
// of a turn of the worker. So nothing calls the listener from inside a call, and no UCX callback calls back into UCX except
// to receive. A chunk completes when UCX is done with its destination, never before: losing a peer closes its endpoint by
// force, whereupon UCX completes what it had under way.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>

#include "lib/transport/ucx/factory.h"
#include "lib/transport/ucx/peer.h"
#include "lib/transport/ucx/worker.h"

namespace cardea::transport::ucx {

class UcxTransport final : public Transport {
 public:
  static Result<std::unique_ptr<Transport>> make(boost::asio::io_context& io, Listener& listener, const UcxOptions& options);
  UcxTransport(boost::asio::io_context& io, Listener& listener, UcxOptions options, const Nonce& nonce,
               std::shared_ptr<Worker> worker);
  ~UcxTransport() override;

  std::string_view name() const override { return "ucx"; }
  Bytes address() const override { return address_; }
  Status connect(std::span<const std::pair<Rank, Bytes>> peers) override;
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

  /// For rails.h: tells the peer that a rail is out, and hears the same of peers; what `heard` returns, if not OK, loses the
  /// peer. Unless set, a peer that says so is lost.
  void tell_rail_out(Rank peer, std::uint32_t rail);
  void on_rail_out(std::function<Status(Rank peer, std::uint32_t rail)> heard) { rail_out_ = std::move(heard); }

  /// Chunks that were sent by streams, for tests.
  std::uint64_t streamed() const { return streamed_; }

 private:
  // open ──close()──► flushing ──sent, or flush_timeout──► draining ──UCX done, or drain_timeout──► closed
  enum class Phase { kOpen, kFlushing, kDraining, kClosed };
  struct OfferedRegion {
    ucp_mem_h memory = nullptr;
    void* base = nullptr;
    std::uint64_t bytes = 0;
    Bytes descriptor;
  };
  struct AcceptedRegion {
    std::uint64_t bytes = 0;
    Region region;
  };
  struct Device {  // what UCX says of GPU memory
    DeviceMemory best = DeviceMemory::kNone;
    ucs_memory_type_t type = UCS_MEMORY_TYPE_CUDA;
    bool pretended = false;
  };
  struct StreamListener {
    UcxTransport* owner = nullptr;
    ucp_listener_h listener = nullptr;
    StreamOffer offer;
  };

  // ucx_transport.cc
  Status listen();
  bool turn();
  void queue(std::function<void()> event);
  Peer* find(Rank rank);
  /// The peer's endpoint, made now if need be; null if that fails, and the peer is then being lost.
  ucp_ep_h endpoint(Peer& peer);
  void lose(Peer& peer, Status why, bool tell_listener);
  void settle(Peer& peer);
  void close_endpoints(Peer& peer);
  void close_endpoint(Peer& peer);
  void advance_close();
  void begin_draining();
  void arm_timer(Nanoseconds after);
  void destroy();

  // send.cc
  void post(Peer& peer, Send send, bool rendezvous);
  void sent(Send& send, ucs_status_t status);
  void end_lease(Send& send, std::uint64_t bytes);
  void end_sends(Peer& peer, bool by_stream);
  bool sending() const;

  // receive.cc
  ucs_status_t receive(ByteView header, void* data, std::size_t length, bool rendezvous);
  void stranger(std::string_view what);
  void condemn(Peer& peer, Status why);
  Status take(Peer& peer, const MessageHeader& header, ByteView payload);
  Status take(Peer& peer, const ChunkRequest& header, ByteView payload);
  Status take(Peer& peer, const ChunkError& header, ByteView payload);
  Status take(Peer& peer, const StreamOffer& header, ByteView payload);
  Status take(Peer& peer, const RailOut& header, ByteView payload);
  Status take_data(Peer& peer, const ChunkData& header, void* data, std::size_t length, bool rendezvous);
  /// Answers what waits, as far as UCX may be given more.
  void answer_next(Peer& peer);
  void answer(Peer& peer, const ChunkRequest& request);
  void refuse(Peer& peer, const ChunkRequest& request, const Status& why);

  // stream.cc
  /// Tells the peer where chunks are awaited, once, if a stream is worth while.
  void offer_stream(Peer& peer);
  Result<StreamOffer> listen_on(const std::string& device);
  void called(const StreamListener& listener, ucp_conn_request_h caller);
  void admit(ucp_listener_h listener, ucp_conn_request_h caller);
  void connect_stream(Stream& stream, const StreamOffer& offer);
  void connected(Stream& stream, ucs_status_t status);
  Status open_stream(Stream& stream, ucp_ep_params_t& params);
  void stream_failed(Stream& stream, ucs_status_t status);
  void no_stream(Stream& stream, std::string_view why);
  void chunk_lost_with_stream(Peer& peer, ucs_status_t status);
  /// Runs `then` unless the peer is lost, or the transport closed, before that.
  void after_grace(Stream& stream, std::function<void()> then);
  void close_stream(Stream& stream);
  void stream_closed(Stream& stream);

  // pull.cc
  void ask(Pull& pull);
  bool can_read(Peer& peer, const ChunkOrder& order);
  void read(Pull& pull);
  void read_piece(Pull& pull, const RemotePiece& piece, std::uint64_t skip, void* into, std::uint64_t bytes);
  void read_done(Pull& pull, ucs_status_t status);
  void advance_read(Pull& pull);
  bool hardware_get(Peer& peer, ucp_ep_h endpoint);
  ucp_rkey_h rkey(Peer& peer, const RegionKey& region);
  void release_rkeys(Peer& peer);
  void finish(Pull& pull, const Status& status);
  void end(Pull& pull, std::function<void()> tell);

  // device.cc
  void ask_of_device_memory();
  /// UNSUPPORTED: no chunk can be pulled into it.
  Status prepare_device(const ChunkOrder& order);
  /// Tells UCX what memory a chunk's destination is.
  void describe_destination(const ChunkOrder& order, ucp_request_param_t& param) const;
  static Status error_of(const ChunkOrder& order, ucs_status_t status, std::string_view call);
  void land(Pull& pull, ByteView bytes);
  void forget_all_device_memory();

  boost::asio::io_context& io_;
  Listener& listener_;
  const UcxOptions options_;
  const std::string who_;
  std::shared_ptr<Worker> worker_;
  boost::asio::steady_timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  const Nonce nonce_;
  Bytes address_;
  std::map<Rank, Peer> peers_;
  std::unordered_map<ChunkToken, std::unique_ptr<Pull>> pulls_;
  std::list<Send> sends_;
  std::map<std::uint32_t, OfferedRegion> offered_;
  std::map<RegionKey, AcceptedRegion> accepted_;
  Device device_;
  std::map<void*, ucp_mem_h> device_regions_;  // that UCX knows as the device's, by where they begin
  std::deque<std::function<void()>> events_;
  std::function<Status(Rank, std::uint32_t)> rail_out_;
  std::map<std::string, StreamListener> listeners_;  // by network device
  std::deque<std::pair<ucp_listener_h, ucp_conn_request_h>> callers_;
  bool cannot_listen_ = false;
  bool answers_callers_ = true;
  std::uint64_t streamed_ = 0;
  std::uint64_t strangers_ = 0;
  Clock::time_point next_warning_{};

  Phase phase_ = Phase::kOpen;
  std::vector<std::function<void()>> when_closed_;
  bool overdue_ = false;
};

}  // namespace cardea::transport::ucx
