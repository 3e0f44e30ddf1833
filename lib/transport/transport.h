// SPDX-License-Identifier: Apache-2.0
// The interface that every transport implements, and what the engine gives it. A transport moves two things between this
// rank and its peers: small control messages, in order, and chunks of experts, pulled by the rank that wants them.
//
// Threads: everything here runs on the engine thread, both calls into the transport and its calls of the listener, except
// where said otherwise. A transport never calls the listener from inside a call made to it: it posts.
//
// Faults: bytes from a peer are data. A peer that sends nonsense is reported by on_peer_lost (PROTOCOL) and disconnected;
// nothing in a message can make a transport write outside the destination of a chunk that this rank has started.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/base/unique_fd.h"

namespace cardea::transport {

/// Names a chunk in flight to whoever started it. Never reused within a transport.
using ChunkToken = std::uint64_t;

/// Memory of one rank as others know it: numbered by its owner, never reused.
struct RegionKey {
  Rank owner = kNoRank;
  std::uint32_t region = 0;
  friend auto operator<=>(const RegionKey&, const RegionKey&) = default;
};

/// Which expert a chunk is part of. Offsets of chunks count in its packed form (core/segment_layout.h).
struct ExpertAddress {
  LayerKey layer;
  ExpertIndex expert = 0;
  Version version = 0;
};

/// Part of a peer's region.
struct RemotePiece {
  RegionKey region;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// What a transport can do for a chunk whose destination is the memory of this rank's GPU.
enum class DeviceMemory : std::uint8_t {
  kNone,     // nothing: it refuses it
  kCopied,   // the transport's library copies it there, for which it calls the GPU's driver, on the engine thread
  kWritten,  // the NIC writes there
};

/// One chunk to be pulled. `destination` and `source_pieces` describe the same payload bytes in the same order, cut where
/// their own memory is not contiguous, so they may differ in number; each adds up to the payload.
struct ChunkOrder {
  ChunkToken token = 0;
  Rank source = kNoRank;
  ExpertAddress expert;
  std::uint64_t offset = 0;        // in the packed expert; padding between segments is not moved
  std::uint64_t bytes = 0;         // length of the range in the packed expert, padding included
  std::vector<iovec> destination;  // valid and unmoved until on_chunk_done
  /// Set: the destination is one piece of memory of the GPU, and lies in this, which a transport may register as a whole and
  /// keep registered until forget_device.
  iovec device{nullptr, 0};
  std::vector<RemotePiece> source_pieces;  // for transports that read the source's memory by themselves
  /// Where the source keeps the layer's version, 8 bytes. A transport that reads the source's memory by itself reads it
  /// after the payload and completes with STALE when it differs from expert.version. bytes == 0: not checked.
  RemotePiece stamp;
  std::uint32_t rail = 0;  // by which it should go, of a transport that has several; another serves where that one cannot

  bool onto_device() const { return device.iov_len != 0; }
};

/// What a source lends a peer that asked for a chunk: where the payload lies. It stays readable until the lease is
/// returned; the layer cannot be collected before.
struct Lease {
  std::uint64_t id = 0;
  std::vector<iovec> pieces;
};

/// Some of the rails of a rank (NICs by which chunks come side by side), by its own numbers.
struct RailRun {
  std::uint32_t first = 0, count = 1;
  friend bool operator==(const RailRun&, const RailRun&) = default;
};

/// The engine, seen from a transport.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void on_message(Rank from, ByteView message) = 0;
  /// Exactly once for every started chunk. After a failure the destination is not written any more. UNSUPPORTED of a chunk
  /// onto the device: it has to come another way.
  virtual void on_chunk_done(ChunkToken token, const Status& status) = 0;
  /// Instead of it, for a chunk onto the device: its bytes came in such a way that they are here, in host memory. Who takes
  /// no such chunks never hears of it.
  virtual void on_chunk_landed(ChunkToken token, Bytes bytes) { static_cast<void>(token), static_cast<void>(bytes); }
  /// At most once per peer; chunks in flight from it have been completed with PEER_LOST before.
  virtual void on_peer_lost(Rank peer, const Status& why) = 0;
  /// A peer asks for a chunk. STALE (retired version), INVALID_ARGUMENT (no such expert here, or range outside of it).
  /// IN_PROGRESS: it is being brought to where it can be sent from; to be asked again at Transport::lend_again.
  virtual Result<Lease> lend(Rank asker, const ExpertAddress& expert, std::uint64_t offset, std::uint64_t bytes) = 0;
  virtual void give_back(std::uint64_t lease, std::uint64_t bytes_sent) = 0;
  /// From now on chunks of the peer should name one of these rails.
  virtual void on_rails_changed(Rank peer, const RailRun& rails) { static_cast<void>(peer), static_cast<void>(rails); }
};

class Transport {
 public:
  virtual ~Transport() = default;

  virtual std::string_view name() const = 0;  // "shm", "ucx", "sim"

  /// How a peer reaches this rank; exchanged by the bootstrap. Any thread, before connect.
  virtual Bytes address() const = 0;
  /// Tells the addresses of the peers that this transport serves. Opens nothing that can be opened later.
  virtual Status connect(std::span<const std::pair<Rank, Bytes>> peers) = 0;

  /// Of this rank's rails, a run of those that lead to the peer, once connected. Listener::on_rails_changed tells of others.
  virtual RailRun rails(Rank peer) const {
    static_cast<void>(peer);
    return {};
  }

  /// What it can do with device memory, of any peer at best; asks its library, and assumes nothing. Any thread.
  virtual DeviceMemory device_memory() const { return DeviceMemory::kNone; }
  /// Likewise of chunks of this peer. May open what is opened at first use.
  virtual DeviceMemory device_memory(Rank peer) {
    static_cast<void>(peer);
    return DeviceMemory::kNone;
  }
  /// Memory of the device that begins there goes: no chunk into it is under way.
  virtual void forget_device(void* base) { static_cast<void>(base); }

  /// Queues a message; those to one peer arrive in order, also relative to regions offered before. Failure is reported by
  /// on_peer_lost. At most kMaxMessage bytes; a longer one is dropped, with an error in the log.
  virtual void send(Rank peer, Bytes message) = 0;
  static constexpr std::size_t kMaxMessage = 4 << 20;

  /// Makes memory of this rank readable for `peers`, and returns what `accept` needs on their side, to be sent by the
  /// caller as part of a message. `memfd` is -1 for memory that cannot be mapped. Idempotent per region and peer.
  virtual Result<Bytes> offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                              std::span<const Rank> peers) = 0;
  virtual void withdraw(std::uint32_t region) = 0;
  /// Passes the descriptor of a region of device memory to a peer of the node, ahead of the message that announces it; the
  /// peer takes it by take_descriptor. UNSUPPORTED by transports between nodes.
  virtual Status pass_descriptor(std::uint32_t region, std::uint64_t bytes, int descriptor, Rank peer) {
    static_cast<void>(region), static_cast<void>(bytes), static_cast<void>(descriptor);
    return Status(CARDEA_ERR_UNSUPPORTED, "no descriptors can be passed to another node").with_peer(peer);
  }
  /// None if nothing of this number and size was passed.
  virtual UniqueFd take_descriptor(RegionKey region, std::uint64_t bytes) {
    static_cast<void>(region), static_cast<void>(bytes);
    return {};
  }
  /// Takes note of a peer's region. `descriptor` is what its offer returned. PROTOCOL if it makes no sense.
  virtual Status accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) = 0;
  /// Of an accepted region that is mapped: brings the next part of at most `bytes` of it in, so that its first readers take
  /// no page faults; true when all of it is there, at once where nothing has to be brought in. NO_MEMORY, SYSTEM; then it is
  /// mapped all the same, and whoever reads it takes the faults, and what comes of them.
  virtual Result<bool> bring_in(RegionKey region, std::uint64_t bytes) {
    static_cast<void>(region), static_cast<void>(bytes);
    return true;
  }
  virtual void forget(RegionKey region) = 0;
  /// Where an accepted region is mapped in this process, read-only; null if it must be copied from.
  virtual const std::byte* mapped(RegionKey region) const = 0;

  /// Starts pulling a chunk. Completion, failure included, comes by on_chunk_done.
  virtual void start(ChunkOrder order) = 0;

  /// What was IN_PROGRESS to lend may be ready now.
  virtual void lend_again() {}

  /// Declares a peer lost from above: its chunks complete with PEER_LOST, its messages are ignored from now on.
  virtual void disconnect(Rank peer) = 0;

  /// Completes all chunks (CANCELED), lets queued messages leave for a short while, closes everything; `done` runs once,
  /// when nothing writes into this process's memory any more. No listener calls after it.
  virtual void close(std::function<void()> done) = 0;
};

}  // namespace cardea::transport
