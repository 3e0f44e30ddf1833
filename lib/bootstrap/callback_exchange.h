// SPDX-License-Identifier: Apache-2.0
// An Exchange over a framework's own collective (cardea_exchange_fn). The framework is trusted with the job's secret, which
// rank 0 draws and hands round through it, but what it delivers is checked: a store that mixes up ranks or sizes is
// PROTOCOL.
//
// One allgather is one call for the sizes and, since the callback wants equal sizes, as many as it takes to move the largest
// contribution in pieces, padded with zeros. The callback cannot be interrupted: deadlines are looked at between calls.
#pragma once

#include <memory>

#include "cardea/cardea.h"
#include "lib/bootstrap/exchange.h"

namespace cardea::bootstrap {

/// Makes the exchange and hands round id and secret. INVALID_ARGUMENT (no function, rank or world size out of range),
/// TRANSPORT (the callback failed), MISMATCH (ranks disagree on world size or wire version, or two have one number),
/// PROTOCOL, TIMEOUT.
Result<std::unique_ptr<Exchange>> callback_exchange(cardea_exchange_fn exchange, void* user, Rank rank,
                                                    std::uint32_t world_size, Clock::time_point deadline);

/// Most bytes that one rank gives in one call, and that all ranks together do.
inline constexpr std::size_t kMostPieceBytes = 64 << 10;
inline constexpr std::size_t kMostCallBytes = 4 << 20;

}  // namespace cardea::bootstrap
