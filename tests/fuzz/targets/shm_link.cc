// SPDX-License-Identifier: Apache-2.0
// A rank's end of a node link, with the fuzzer at the other: bytes in any pieces, with any descriptors, while the rank asks
// for chunks and accepts regions.
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstring>
#include <map>

#include "lib/base/asio.h"
#include "lib/transport/shm/ancillary.h"
#include "lib/transport/shm/factory.h"
#include "lib/transport/shm/frames.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace shm;  // NOLINT(google-build-using-namespace)

constexpr Rank kPeer = 1;
constexpr std::size_t kLanding = 256;
constexpr std::uint64_t kRegionBytes = 4096;

enum Op : std::uint8_t { kBytes, kWithMemory, kWithPipe, kAskForChunk, kAccept, kStartMapped, kForget, kTurn, kOps };

class Listener final : public transport::Listener {
 public:
  void on_message(Rank from, ByteView) override {
    require(from == kPeer && !lost, "messages are of a peer that is not lost");
    ++messages;
  }
  void on_chunk_done(transport::ChunkToken token, const Status&) override {
    require(open.erase(token) == 1, "a chunk that was started completes once");
  }
  void on_peer_lost(Rank, const Status& why) override {
    require(!lost && open.empty(), "a peer is lost once, after its chunks");
    lost = true;
    require(!why.ok(), "a loss has a reason");
  }
  Result<transport::Lease> lend(Rank, const transport::ExpertAddress& expert, std::uint64_t offset,
                                std::uint64_t bytes) override {
    if (expert.expert == 0 || offset > lent_.size() || bytes > lent_.size() - offset)
      return Status(CARDEA_ERR_INVALID_ARGUMENT, "not here");
    ++leases;
    return transport::Lease{++last_lease_, {{lent_.data() + offset, bytes}}};
  }
  void give_back(std::uint64_t, std::uint64_t) override { --leases; }

  std::map<transport::ChunkToken, std::vector<std::byte>> open;  // and where they land
  std::size_t messages = 0;
  int leases = 0;
  bool lost = false;

 private:
  Bytes lent_ = Bytes(1024, std::byte{5});
  std::uint64_t last_lease_ = 0;
};

UniqueFd memory() {
  UniqueFd file(memfd_create("peer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  require(file && ftruncate(file.get(), kRegionBytes) == 0, "the test has memory");
  fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  return file;
}

class Conversation {
 public:
  Conversation() {
    int pair[2];
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, "the test has sockets");
    peer_.reset(pair[1]);
    std::vector<NodeLink> links(1);
    links[0].rank = kPeer;
    links[0].socket.reset(pair[0]);
    transport_ = make_shm_transport(io_, listener_, 0, std::move(links));
    const std::pair<Rank, Bytes> peers[] = {{kPeer, {}}};
    require(transport_->connect(peers).ok(), "the test connects");
  }

  bool run(Draw draw) {
    while (!draw.empty()) {
      step(draw);
      turn();
    }
    const bool kept = !listener_.lost;
    peer_.reset();
    turn();
    require(listener_.lost, "a peer that closed its link is lost");
    require(listener_.open.empty() && listener_.leases == 0, "a lost peer leaves no chunk and no lease");
    bool closed = false;
    transport_->close([&] { closed = true; });
    turn();
    require(closed, "the transport closes");
    return kept && listener_.messages > 0;
  }

 private:
  void turn() {
    io_.restart();
    io_.poll();
    std::byte read[4096];
    while (peer_ && recv(peer_.get(), read, sizeof read, MSG_DONTWAIT) > 0) {
    }
    io_.restart();
    io_.poll();
  }
  void send_some(ByteView bytes, int descriptor) {
    if (bytes.empty()) return;
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    static_cast<void>(shm::send(peer_.get(), {&piece, 1}, descriptor));
  }
  void start(Draw& draw, bool mapped) {
    transport::ChunkOrder order;
    order.token = ++token_;
    order.source = kPeer;
    order.bytes = draw.below(kLanding + 1);
    auto& landing = listener_.open[order.token];
    landing.resize(order.bytes);  // what lands beyond it, the sanitizer sees
    order.destination = {{landing.data(), landing.size()}};
    if (mapped) {
      order.source_pieces = {{{kPeer, static_cast<std::uint32_t>(draw.below(4))}, draw.below(kRegionBytes), order.bytes}};
      order.stamp = {{kPeer, static_cast<std::uint32_t>(draw.below(4))}, draw.below(kRegionBytes), 8};
    }
    transport_->start(std::move(order));
  }
  void step(Draw& draw) {
    switch (draw.byte() % kOps) {
      case kBytes:
        return send_some(draw.blob(), -1);
      case kWithMemory: {
        const UniqueFd file = memory();
        return send_some(draw.blob(), file.get());
      }
      case kWithPipe: {
        int ends[2];
        require(pipe2(ends, O_CLOEXEC) == 0, "the test has a pipe");
        const UniqueFd in(ends[0]), out(ends[1]);
        return send_some(draw.blob(), in.get());
      }
      case kAskForChunk:
        return start(draw, false);
      case kAccept: {
        const transport::RegionKey key{kPeer, static_cast<std::uint32_t>(draw.below(4))};
        const std::uint64_t bytes = draw.number(8);
        const Status accepted = transport_->accept(key, bytes, draw.blob());
        const std::byte* const at = transport_->mapped(key);
        if (accepted.ok() && at != nullptr) require(at[bytes - 1] == std::byte{0}, "all of a mapped region can be read");
        return;
      }
      case kStartMapped:
        return start(draw, true);
      case kForget:
        return transport_->forget({kPeer, static_cast<std::uint32_t>(draw.below(4))});
      default:
        return;
    }
  }

  boost::asio::io_context io_;
  Listener listener_;
  UniqueFd peer_;
  std::unique_ptr<transport::Transport> transport_;
  transport::ChunkToken token_ = 0;
};

bool run(ByteView input) {
  return Conversation().run(Draw(input));
}

Bytes framed(FrameType type, ByteView body) {
  const FrameHeader header = encode_header(type, body.size());
  Bytes frame(header.begin(), header.end());
  frame.insert(frame.end(), body.begin(), body.end());
  return frame;
}

std::vector<Seed> seeds() {
  const Bytes message = framed(FrameType::kMessage, as_bytes("hello"));
  const Bytes region = framed(FrameType::kRegion, encode(RegionFrame{2, kRegionBytes}));
  const Bytes ask = framed(FrameType::kAsk, encode(AskFrame{9, {{1, 2}, 3, 4}, 16, 64}));
  Bytes data = Bytes(8 + 100, std::byte{0});
  data[0] = std::byte{1};  // the first request
  const Bytes end = framed(FrameType::kEnd, encode(EndFrame{1, {}}));
  const Bytes stale = framed(FrameType::kEnd, encode(EndFrame{1, Status(CARDEA_ERR_STALE, "retired")}));
  const auto say = [&] { return Script().byte(kBytes).blob(message); };
  return {
      {"message", say().bytes()},
      {"halves",
       Script().byte(kBytes).blob(ByteView(message).first(5)).byte(kBytes).blob(ByteView(message).subspan(5)).bytes()},
      {"region", say()
                     .byte(kWithMemory)
                     .blob(region)
                     .byte(kAccept)
                     .byte(2)
                     .number(kRegionBytes, 8)
                     .blob(encode(RegionDescriptor{true, 0}))
                     .byte(kStartMapped)
                     .number(64, 8)
                     .byte(2)
                     .number(128, 8)
                     .byte(2)
                     .number(8, 8)
                     .bytes()},
      {"lend", say().byte(kBytes).blob(ask).bytes()},
      {"asked", say()
                    .byte(kAskForChunk)
                    .number(100, 8)
                    .byte(kBytes)
                    .blob(framed(FrameType::kData, data))
                    .byte(kBytes)
                    .blob(end)
                    .bytes()},
      {"refused", say().byte(kAskForChunk).number(100, 8).byte(kBytes).blob(stale).bytes()},
      {"withdraw",
       say().byte(kWithMemory).blob(region).byte(kBytes).blob(framed(FrameType::kWithdraw, encode_withdraw(2))).bytes()}};
}

}  // namespace

Target shm_link() {
  return {"shm_link", "all that a rank of the node may send on its link, descriptors included", run, seeds};
}

}  // namespace cardea::fuzz
