// SPDX-License-Identifier: Apache-2.0
// The rate of UCX's own active messages, as plainly as they can be used: the baseline of ucx_chunk_perf. Each function runs
// in a process of its own, which must not have used UCX before; `link` is one end of a socket pair between the two.
#pragma once

#include <cstddef>

namespace cardea::perf {

enum class RawProtocol { kDefault, kEager, kRendezvous };

/// Sends `count` messages of `bytes`, `window` of them under way at a time, polling without rest.
void raw_send(int link, std::size_t bytes, std::size_t count, std::size_t window, RawProtocol protocol);
/// Receives them into preallocated buffers where they come by rendezvous; eager data is counted and left where UCX put it.
/// Returns bytes per second, from the word to start until the last byte.
double raw_receive(int link, std::size_t bytes, std::size_t count, std::size_t window);

/// Whole blobs over the socket pair; they throw std::runtime_error when the other end has gone.
void give(int link, const void* data, std::size_t bytes);
void take(int link, void* data, std::size_t bytes);

}  // namespace cardea::perf
