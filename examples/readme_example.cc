// SPDX-License-Identifier: Apache-2.0
// The example of the README, which shows the lines between the marks.
// [readme]
#include <cardea/cardea.hpp>
#include <cstdio>
#include <numeric>
#include <vector>
namespace cx = cardea::api;

int main() {
  cx::Context job;  // rank and world size from cardea-run, torchrun, mpirun or srun
  cx::Group group = job.group();
  const std::uint32_t rank = job.info().rank, ranks = job.info().world_size;
  std::vector<cx::Segment> shape = {{.name = "w", .bytes = 4 << 20, .weight_type = CARDEA_DTYPE_FLOAT32}};
  cx::Memory memory = job.allocate(4 << 20);  // other ranks of this node can map it
  for (float& w : memory.as<float>()) w = static_cast<float>(rank);
  cx::Slab slab = job.create_slab({.segments = shape, .slots = 2});  // where experts of other nodes land
  cx::Layer layer = group.create_layer({.num_experts = ranks,
                                        .segments = shape,
                                        .local_experts = {rank},
                                        .placements = {{.base = memory.as().data(), .stride = 4 << 20}},
                                        .slab = &slab});
  layer.publish(1);  // version 1 of this rank's expert may be read
  std::vector<std::uint32_t> wanted(ranks);
  std::iota(wanted.begin(), wanted.end(), 0u);
  cx::Fetch fetch = layer.fetch(1, wanted);
  for (cx::View& expert : fetch.views())  // as they arrive; the view is released when the loop goes on
    std::printf("rank %u: expert %u by %s, w[0] = %g\n", rank, expert.expert(), cardea_path_string(expert.path()),
                static_cast<double>(expert.segment<float>(0)[0]));
  fetch.close();
  layer.finish(1);   // this rank reads version 1 no more
  layer.collect(1);  // nobody does: the weights may be updated, and published as version 2
}
// [/readme]
