// SPDX-License-Identifier: Apache-2.0
// The transport between nodes, on UCX 1.13 or newer. Chunks are asked for and streamed back as active messages; where the
// network really has one-sided GET (RDMA), they are read without the source's help. docs/wire-format.md, "UCX transport",
// has the bytes.
//
// The result is used by the engine thread alone, save address(); it may be made by another thread before the engine runs.
// It sleeps on the worker's descriptor when idle. A user's own UCX_* settings win over everything that Cardea sets.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/transport/transport.h"

namespace boost::asio {
class io_context;
}

namespace cardea::transport {

/// Whether chunks are read from the source's memory by ucp_get.
enum class GetPolicy {
  kAuto,    // where the endpoint's lanes are known to do it in hardware
  kNever,   // always ask and stream
  kAlways,  // whenever the source has offered the memory, even if UCX emulates it
};

/// How the payload of a chunk travels as an active message.
enum class StreamProtocol {
  kByPace,      // eager where chunks leave slowly with the messages, else rendezvous (pace.h)
  kRendezvous,  // straight into the destination, without a copy through UCX's buffers
  kEager,       // sent at once, copied from UCX's buffers
};

struct UcxOptions {
  Rank self = kNoRank;
  std::string job_id;
  std::array<std::byte, 32> secret{};
  /// Off only where the peers cannot die unnoticed, as in a test: dead peers are not noticed then.
  bool peer_errors = true;
  GetPolicy get = GetPolicy::kAuto;
  StreamProtocol stream = StreamProtocol::kByPace;
  /// Chunks of ranks that are reached over TCP come by connections of their own (stream.cc). Off: with the messages. Without
  /// peer_errors it is off: UCX lays the same lanes into the messages' connection then.
  bool stream_connections = true;
  /// Chunks may be for memory of a GPU although no NIC writes there: that takes UCX's newer protocols (protocols.h).
  bool device_memory = false;
  /// Whether UCX's older protocols are used, as the ranks have agreed (agree_on_ucx_protocols). None: as this rank wishes,
  /// where all are alike.
  std::optional<bool> old_protocols;
  /// How long to keep polling after the last progress before sleeping.
  Nanoseconds spin{0};
  /// How long close() waits for queued messages, and then for UCX to let go of memory before the worker is destroyed.
  Nanoseconds flush_timeout = std::chrono::milliseconds(300);
  Nanoseconds drain_timeout = std::chrono::seconds(1);
  /// The one network device that it uses, by UCX's name, such as "eth1" or "mlx5_0:1"; empty: UCX chooses, perhaps several.
  /// As all settings of UCX, only if UCX_NET_DEVICES is not in the environment.
  std::string device;
  /// UCX settings such as {"TCP_NODELAY", "y"}, each used only if UCX_<name> is not in the environment.
  std::vector<std::pair<std::string, std::string>> defaults;
};

/// Errors: TRANSPORT (UCX refuses; the message has call and reason), CONFIGURATION (a default whose value UCX refuses; of a
/// name that it does not know it only warns),
/// INVALID_ARGUMENT (no rank given). `io` and `listener` must outlive the transport.
Result<std::unique_ptr<Transport>> make_ucx_transport(boost::asio::io_context& io, Listener& listener,
                                                      const UcxOptions& options);

inline constexpr std::size_t kMaxUcxRails = 4;
/// The most that the address of make_ucx_rails takes.
inline constexpr std::size_t kMaxUcxAddress = (std::size_t{64} << 10) * kMaxUcxRails + 4096;

/// One such transport for each of `devices` (1 to kMaxUcxRails; one that is empty: UCX chooses), and together one to the
/// engine (rails.h): chunks go by all of them, messages to a peer by the first that both have. `options.device` is not used.
/// A rail on which nothing of a peer comes for `silence`, though chunks wait there, is taken out. Peers must be made by this
/// function too. Errors as above.
Result<std::unique_ptr<Transport>> make_ucx_rails(boost::asio::io_context& io, Listener& listener, const UcxOptions& options,
                                                  const std::vector<std::string>& devices,
                                                  Nanoseconds silence = std::chrono::seconds(10));

/// Which of UCX's protocols a rank can and would use with these options, for agree_on_ucx_protocols; may take milliseconds.
Bytes ucx_protocol_wish(const UcxOptions& options);
/// From what all ranks said, by rank: UcxOptions::old_protocols, the same at all. CONFIGURATION if UCX_PROTO_ENABLE differs
/// between two of them, whom it names; PROTOCOL.
Result<bool> agree_on_ucx_protocols(std::span<const Bytes> wishes);

/// The NICs that a rank has as rails, by its address; PROTOCOL, MISMATCH.
Result<std::vector<std::string>> ucx_rail_devices(ByteView address, Rank rank);

/// UCX found at run time, such as "1.13.1".
std::string ucx_version();

/// Whether this UCX, as it is set up by the environment, can have GPU memory as a chunk's destination; makes a context of
/// its own to ask.
bool ucx_has_device_memory();
/// For tests, whose device memory is host memory: what UCX transports made from now on take for UCX's answer, of all their
/// peers, and what they take for it later when another is given; `known`: UCX knows that memory as the device's.
/// Process-wide; none: transports made then ask UCX.
void pretend_device_memory(std::optional<DeviceMemory> answer, bool known = true);

}  // namespace cardea::transport
