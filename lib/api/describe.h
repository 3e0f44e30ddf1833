// SPDX-License-Identifier: Apache-2.0
// Reading the C API's descriptions of shapes and places, and checking them.
#pragma once

#include <vector>

#include "cardea/cardea.h"
#include "lib/core/segment_layout.h"
#include "lib/engine/runtime.h"

namespace cardea::api {

Result<core::SegmentLayout> read_segments(const cardea_segment_t* segments, std::uint32_t count);

/// Whether places may be a pointer per expert.
enum class Stacked { kOnly, kOrPointers };

/// One placement for each segment, over `rows` rows.
Result<std::vector<engine::Placement>> read_placements(const cardea_placement_t* placements,
                                                       const core::SegmentLayout& layout, std::uint32_t rows,
                                                       Stacked stacked);

}  // namespace cardea::api
