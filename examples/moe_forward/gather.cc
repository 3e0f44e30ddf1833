// SPDX-License-Identifier: Apache-2.0
#include "gather.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>

namespace moe {
namespace cx = cardea::api;

static_assert(std::is_trivially_copyable_v<RankReport>);

std::vector<RankReport> gather_reports(const cx::Context& job, const cx::Group& group, std::uint32_t layer_id,
                                       const RankReport& own) {
  const cardea_context_info_t me = job.info();
  const std::vector<cx::Segment> segments = {{.name = "report", .bytes = sizeof(RankReport)}};
  const cx::Memory memory = job.allocate(sizeof(RankReport));
  std::memcpy(memory.as<>().data(), &own, sizeof(own));
  const cx::Slab slab = job.create_slab({.segments = segments, .slots = std::min(me.world_size, 16u)});
  cx::Layer layer = group.create_layer({.layer_id = layer_id,
                                        .num_experts = me.world_size,
                                        .segments = segments,
                                        .local_experts = {me.rank},
                                        .local_is_home = {},
                                        .placements = {{.base = memory.as<>().data(), .stride = sizeof(RankReport)}},
                                        .slab = &slab});
  layer.publish(1);
  std::vector<RankReport> reports;
  if (me.rank == 0) {
    reports.resize(me.world_size);
    std::vector<std::uint32_t> all(me.world_size);
    std::iota(all.begin(), all.end(), 0u);
    cx::Fetch fetch = layer.fetch(1, all);
    for (const cx::View& view : fetch.views()) {
      std::memcpy(&reports[view.expert()], view.segment<std::byte>(0).data(), sizeof(RankReport));
    }
  }
  layer.finish(1);
  layer.collect(1);  // rank 0 has read this rank's report
  return reports;
}

}  // namespace moe
