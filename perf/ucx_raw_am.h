// SPDX-License-Identifier: Apache-2.0
// The rate of UCX's own active messages, as plainly as they can be used: the baseline of ucx_chunk_perf. Each function runs
// in a process of its own, which must not have used UCX before; `link` is one end of a socket pair between the two.
#pragma once

#include <cstddef>

namespace cardea::perf {

enum class RawProtocol { kDefault, kEager, kRendezvous };
/// With peer errors on, as whoever must survive its peers has them; off, UCX promises nothing when a connection breaks.
enum class RawErrors { kNone, kPeer };

/// Sends `count` messages of `bytes`, `window` of them under way at a time, polling without rest. They are cut one after the
/// other from `footprint` bytes of memory, as experts would be: one small buffer sent again and again would come from a
/// cache and measure that.
void raw_send(int link, std::size_t bytes, std::size_t count, std::size_t window, std::size_t footprint,
              RawProtocol protocol, RawErrors errors = RawErrors::kNone);
/// Receives them into `footprint` bytes, one after the other, whichever way UCX brings them. Returns bytes per second, from
/// the word to start until the last byte.
double raw_receive(int link, std::size_t bytes, std::size_t count, std::size_t window, std::size_t footprint,
                   RawErrors errors = RawErrors::kNone);

/// Whole blobs over the socket pair; they throw std::runtime_error when the other end has gone.
void give(int link, const void* data, std::size_t bytes);
void take(int link, void* data, std::size_t bytes);

}  // namespace cardea::perf
