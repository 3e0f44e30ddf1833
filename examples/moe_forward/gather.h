// SPDX-License-Identifier: Apache-2.0
// Brings the ranks' reports together on rank 0, by Cardea itself: they are one more layer, of which expert r is rank r's
// report, at home on rank r. So the program needs no channel of its own, whoever started it.
#pragma once

#include <cardea/cardea.hpp>

#include <cstdint>
#include <vector>

#include "report.h"

namespace moe {

/// Collective over the group; `layer_id` is one that the group does not use yet. Returns all reports by rank on rank 0,
/// nothing on the others.
std::vector<RankReport> gather_reports(const cardea::api::Context& job, const cardea::api::Group& group,
                                       std::uint32_t layer_id, const RankReport& own);

}  // namespace moe
