// SPDX-License-Identifier: Apache-2.0
// What arrives at a ucx transport, through UCX itself over loopback TCP: headers and payloads, short and by rendezvous, of
// strangers and of a member that has the right pass, while this rank asks that member for chunks. Each input is a new
// member; another, honest one says when all has arrived.
#include <cstdlib>
#include <deque>
#include <map>

#include "lib/base/asio.h"
#include "lib/transport/ucx/factory.h"
#include "lib/transport/ucx/protocols.h"
#include "lib/transport/ucx/wire.h"
#include "lib/transport/ucx/worker.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

namespace ucx = transport::ucx;

constexpr Rank kSelf = 0;                      // members of inputs have even ranks, honest ones odd ranks
constexpr unsigned kInputsPerTransport = 500;  // peers are never forgotten
constexpr std::size_t kMostChunk = 64 << 10;

enum Op : std::uint8_t { kAsStranger, kAsMember, kPull, kTurn, kOps };
constexpr std::uint8_t kRendezvous = 0x80;

transport::UcxOptions options(Rank self) {
  transport::UcxOptions made;
  made.self = self;
  made.job_id = "0123456789abcdef0123456789abcdef";
  made.secret.fill(std::byte{0x5a});
  made.stream_connections = false;  // an input's offer would make this rank connect to wherever it says
  return made;
}

class Listener final : public transport::Listener {
 public:
  void on_message(Rank from, ByteView) override {
    if (from % 2 == 1) {
      ++heard;
    } else {
      require(from == member && !lost, "messages are of the member, until it is lost");
      ++messages;
    }
  }
  void on_chunk_done(transport::ChunkToken token, const Status& status) override {
    require(open.erase(token) == 1, "a chunk that was started completes once");
    chunks += status.ok();
  }
  void on_peer_lost(Rank peer, const Status& why) override {
    require(peer == member && !lost && !why.ok(), "the member is lost once, for a reason");
    require(open.empty(), "its chunks complete before");
    lost = true;
  }
  Result<transport::Lease> lend(Rank asker, const transport::ExpertAddress&, std::uint64_t offset,
                                std::uint64_t bytes) override {
    require(asker == member, "who asks is the member");
    if (offset > lent_.size() || bytes > lent_.size() - offset) return Status(CARDEA_ERR_INVALID_ARGUMENT, "not here");
    ++leases;
    return transport::Lease{++last_lease_, {{lent_.data() + offset, bytes}}};
  }
  void give_back(std::uint64_t, std::uint64_t) override { --leases; }

  Rank member = kNoRank;
  bool lost = false;
  std::size_t messages = 0, heard = 0, chunks = 0;
  std::map<transport::ChunkToken, Bytes> open;
  int leases = 0;

 private:
  Bytes lent_ = Bytes(4096, std::byte{5});
  std::uint64_t last_lease_ = 0;
};

/// A transport, and a worker that speaks to it in the name of others.
class Line {
 public:
  Line() {
    setenv("UCX_TLS", "tcp,self", 0);
    auto made = transport::make_ucx_transport(io_, listener_, options(kSelf));
    require(made.ok(), "the test has a transport");
    transport_ = std::move(*made);
    here_ = ucx::decode_address(transport_->address(), kSelf).value();
    worker_ = sender();
    worker_address_ = worker_->address().value();
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB;
    handler.cb = [](void*, const void*, std::size_t, void*, std::size_t, const ucp_am_recv_param_t*) { return UCS_OK; };
    ucp_worker_set_am_recv_handler(worker_->handle(), &handler);
    open_endpoint();
  }
  ~Line() {
    // UCX 1.13 asserts when an answer to a connection is still to be sent and nobody listens there any more
    // (docs/known-gaps.md); so all of them are waited for.
    ucp_request_param_t param{};
    const ucs_status_ptr_t flushing = ucp_worker_flush_nbx(worker_->handle(), &param);
    if (UCS_PTR_IS_PTR(flushing)) {
      const auto deadline = Clock::now() + std::chrono::seconds(5);
      while (ucp_request_check_status(flushing) == UCS_INPROGRESS && Clock::now() < deadline) turn();
      ucp_request_free(flushing);
    }
    for (int i = 0; i < 200; ++i) turn();
    close_endpoint();
    bool closed = false;
    transport_->close([&] { closed = true; });
    until([&] { return closed; }, "the transport closes");
  }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  bool run(Draw draw) {
    const Rank member = 2 * ++inputs_;
    listener_.member = member;
    listener_.lost = false;
    listener_.messages = listener_.chunks = 0;
    first_token_ = next_token_;
    if (broken_) reopen();
    const ucx::Pass pass = admit(member);
    while (!draw.empty()) step(draw, member, pass);
    const std::size_t heard = listener_.heard;
    say_honestly();
    until(
        [&] {
          if (broken_) {
            reopen();
            say_honestly();
          }
          return listener_.heard > heard;
        },
        "an honest peer is heard, whatever others say");
    const bool kept = !listener_.lost;
    const bool good = kept && listener_.messages + listener_.chunks > 0;
    transport_->disconnect(member);
    until([&] { return listener_.open.empty() && listener_.leases == 0; }, "a peer that is let go leaves nothing open");
    return good;
  }
  bool worn() const { return inputs_ >= kInputsPerTransport; }

 private:
  /// One for the life of the process: UCX aborts when a worker ends while others are connecting to it.
  static std::shared_ptr<ucx::Worker> sender() {
    static auto* const io = new boost::asio::io_context();
    static auto* worker = new std::shared_ptr<ucx::Worker>(ucx::Worker::make(*io, options(1)).value());
    // UCX takes itself apart at the process's end, while a thread of its own still serves workers.
    [[maybe_unused]] static const int registered = std::atexit([] { (*worker)->stop(); });
    return *worker;
  }
  // UCX lets both directions between two workers share a connection, so that a peer that the transport lets go of takes the
  // sender's endpoint with it. Another worker would have its own.
  void open_endpoint() {
    broken_ = false;
    ucp_ep_params_t params{};
    params.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(here_.worker.data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.arg = this;
    params.err_handler.cb = [](void* line, ucp_ep_h, ucs_status_t) { static_cast<Line*>(line)->broken_ = true; };
    require(ucp_ep_create(worker_->handle(), &params, &endpoint_) == UCS_OK, "the test has an endpoint");
  }
  void close_endpoint() {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    const ucs_status_ptr_t closing = ucp_ep_close_nbx(endpoint_, &param);
    if (!UCS_PTR_IS_PTR(closing)) return;
    while (ucp_request_check_status(closing) == UCS_INPROGRESS) turn();
    ucp_request_free(closing);
  }
  void reopen() {
    close_endpoint();
    open_endpoint();
  }
  void say_honestly() {
    const Rank rank = 2 * ++honest_ + 1;
    say(ucx::encode_header(rank, admit(rank), ucx::MessageHeader{0}), {}, false);
  }
  ucx::Pass admit(Rank rank) {
    ucx::Address address{rank, {}, worker_address_};
    address.nonce.fill(static_cast<std::byte>(rank));
    const std::pair<Rank, Bytes> peers[] = {{rank, ucx::encode_address(address)}};
    require(transport_->connect(peers).ok(), "a member is admitted");
    const auto made = options(kSelf);
    return ucx::make_pass(made.secret, made.job_id, {rank, address.nonce}, {kSelf, here_.nonce});
  }
  void turn() {
    while (ucp_worker_progress(worker_->handle()) != 0) {
    }
    // One worker may need the other to get on, so neither is run until it has nothing to do.
    io_.restart();
    for (int i = 0; i < 8 && io_.poll_one() != 0; ++i) {
    }
    std::erase_if(under_way_, [](const Sent& sent) {
      if (ucp_request_check_status(sent.request) == UCS_INPROGRESS) return false;
      ucp_request_free(sent.request);
      return true;
    });
  }
  template <typename Done>
  void until(Done done, const char* promise) {
    const auto deadline = Clock::now() + std::chrono::seconds(20);
    while (!done()) {
      turn();
      require(Clock::now() < deadline, promise);
    }
  }
  void say(Bytes header, ByteView payload, bool rendezvous) {
    Sent sent{std::make_unique<Bytes>(std::move(header)), std::make_unique<Bytes>(payload.begin(), payload.end()), nullptr};
    // Where the receiver goes away, 1.16 ends the sender, which is this process, for a rendezvous of nothing.
    if (sent.payload->empty() && transport::ucx::ucx_minor_version() == 16) rendezvous = false;
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = rendezvous ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
    const ucs_status_ptr_t request = ucp_am_send_nbx(endpoint_, 0, sent.header->data(), sent.header->size(),
                                                     sent.payload->data(), sent.payload->size(), &param);
    if (UCS_PTR_IS_ERR(request)) broken_ = true;
    if (!UCS_PTR_IS_PTR(request)) return;
    sent.request = request;
    under_way_.push_back(std::move(sent));
  }
  void step(Draw& draw, Rank member, const ucx::Pass& pass) {
    const std::uint8_t op = draw.byte();
    const bool rendezvous = (op & kRendezvous) != 0;
    switch ((op & ~kRendezvous) % kOps) {
      case kAsStranger: {
        const ByteView header = draw.blob();
        return say(Bytes(header.begin(), header.end()), draw.blob(), rendezvous);
      }
      case kAsMember: {
        // An envelope with the right pass, and what the input puts behind it. Tokens count from this input's first.
        Bytes header = ucx::encode_header(member, pass, ucx::ChunkData{});
        header.resize(ucx::kEnvelopeBytes);
        header[0] = static_cast<std::byte>(draw.byte());
        const ByteView rest = draw.blob();
        header.insert(header.end(), rest.begin(), rest.end());
        if ((header[0] == std::byte{3} || header[0] == std::byte{4}) && rest.size() >= 8) {
          for (std::size_t i = 0; i < 8; ++i) {
            const std::uint64_t token = first_token_ + std::to_integer<std::uint64_t>(rest[0]);
            header[ucx::kEnvelopeBytes + i] = static_cast<std::byte>(token >> (8 * i));
          }
        }
        return say(std::move(header), draw.blob(), rendezvous);
      }
      case kPull: {
        transport::ChunkOrder order;
        order.token = next_token_++;
        order.source = member;
        order.bytes = draw.number(2) % kMostChunk;
        Bytes& landing = listener_.open[order.token];
        landing.resize(order.bytes);
        order.destination = {{landing.data(), landing.size() / 2},
                             {landing.data() + landing.size() / 2, (landing.size() + 1) / 2}};
        return transport_->start(std::move(order));
      }
      default:
        return turn();
    }
  }

  struct Sent {
    std::unique_ptr<Bytes> header, payload;
    ucs_status_ptr_t request;
  };
  boost::asio::io_context io_;
  Listener listener_;
  std::unique_ptr<transport::Transport> transport_;
  ucx::Address here_;
  std::shared_ptr<ucx::Worker> worker_;
  Bytes worker_address_;
  ucp_ep_h endpoint_ = nullptr;
  bool broken_ = false;
  unsigned honest_ = 0;
  std::vector<Sent> under_way_;
  unsigned inputs_ = 0;
  transport::ChunkToken next_token_ = 1, first_token_ = 1;
};

bool run(ByteView input) {
  static Line* line = nullptr;
  if (line == nullptr || line->worn()) {
    delete line;
    line = new Line();
  }
  [[maybe_unused]] static const int registered = std::atexit([] { delete line; });  // before the sender's
  return line->run(Draw(input));
}

Bytes behind_envelope(const ucx::Header& header) {
  const Bytes whole = ucx::encode_header(0, {}, header);
  return {whole.begin() + ucx::kEnvelopeBytes, whole.end()};
}

std::vector<Seed> seeds() {
  const auto member = [](Script& script, std::uint8_t opcode, const ucx::Header& header, std::size_t payload,
                         bool rendezvous) {
    script.byte(static_cast<std::uint8_t>(kAsMember | (rendezvous ? kRendezvous : 0))).byte(opcode);
    script.blob(behind_envelope(header)).blob(Bytes(payload, std::byte{1}));
  };
  Script message;
  member(message, 1, ucx::MessageHeader{1}, 5, false);
  member(message, 1, ucx::MessageHeader{0}, 6, false);
  Script asked;
  asked.byte(kPull).number(300, 2).byte(kPull).number(301, 2).byte(kPull).number(100, 2).byte(kTurn);
  member(asked, 3, ucx::ChunkData{0}, 300, false);
  member(asked, 3, ucx::ChunkData{1}, 301, true);
  member(asked, 4, ucx::ChunkError{2, CARDEA_ERR_STALE, "retired"}, 0, false);
  Script asks;
  member(asks, 1, ucx::MessageHeader{0}, 6, false);
  member(asks, 2, ucx::ChunkRequest{9, {{1, 2}, 3, 4}, 0, 1000, 1000}, 0, false);
  member(asks, 2, ucx::ChunkRequest{10, {{1, 2}, 3, 4}, 5000, 1000, 1000}, 0, false);
  member(asks, 5, ucx::StreamOffer{6, {std::byte{0x20}}, 80}, 0, false);
  asks.byte(kTurn).byte(kAsStranger).blob(ucx::encode_header(7, {}, ucx::MessageHeader{0})).blob({});
  return {{"message", message.bytes()}, {"asked", asked.bytes()}, {"asks", asks.bytes()}};
}

}  // namespace

Target ucx_receive() {
  return {"ucx_receive", "all that may arrive at a ucx transport, through UCX", run, seeds, 2048, true};
}

}  // namespace cardea::fuzz
