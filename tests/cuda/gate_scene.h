// SPDX-License-Identifier: Apache-2.0
// A rank that asks for experts of another node's rank, which is stopped (SIGSTOP) meanwhile, so that whatever happens before
// it goes on happens with the gates shut.
#pragma once

#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

#include "lib/cuda/gate.h"
#include "tests/cuda/gpu_job.h"

namespace cardea::test {

template <typename Function>
Function symbol(const char* name) {
  return reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

inline char state_of(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto at = line.rfind(')');
  return at == std::string::npos ? '?' : line[at + 2];
}

/// Another rank's process, stopped as long as this lives.
class Stopped {
 public:
  explicit Stopped(unsigned long process) : process_(static_cast<pid_t>(process)) {
    kill(process_, SIGSTOP);
    for (int i = 0; i < 10000 && state_of(process_) != 'T'; ++i) usleep(1000);
    EXPECT_EQ(state_of(process_), 'T');
  }
  ~Stopped() { go_on(); }
  void go_on() {
    // Never 0: that is everybody in the process group, other tests' stopped ranks included.
    if (const pid_t process = std::exchange(process_, 0); process != 0) kill(process, SIGCONT);
  }
  void die() const { kill(process_, SIGKILL); }
  bool still() const { return state_of(process_) == 'T'; }

 private:
  pid_t process_;
};

struct Scene {
  Gpu& gpu;
  Job& job;
  GpuLayer& layer;
  SharedBoard& board;
  const std::vector<std::uint32_t> experts;  // of the source, as many as there are slots
  std::uint64_t seed = 0;                    // of their bytes
};

class GpuGate : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }

  static constexpr unsigned kSource = 10, kEnd = 11;  // of the board

  /// A reader and a source on two nodes; the source publishes, says who it is, and waits for the end.
  void reader_and_source(const std::function<void(Scene&)>& read, GpuShape shape = {}, const char* variable = nullptr,
                         const char* value = nullptr, bool source_dies = false) {
    SharedExchange exchange(2);
    SharedBoard board;
    shape.per_rank = shape.slots + 1;
    shape.seed = fresh_seed();
    if (shape.segments.size() == 3) shape.segments = sizes_;
    RankOptions options;
    if (source_dies) options.victims = {1};
    const std::vector<RankEnd> ends = run_ranks(
        2,
        [&](unsigned rank) {
          if (variable != nullptr) setenv(variable, value, 1);
          Gpu gpu(rank);
          cardea_config_t config = exchange.config(rank, rank == 0 ? "first" : "second");
          config.liveness_limit = 20 * kSecond;  // a stopped rank is not to be lost for it
          Job job(config);
          GpuLayer layer(gpu, job, shape);
          layer.publish(1);
          if (rank == 1) {
            board.set(kSource, static_cast<unsigned long>(getpid()));
            EXPECT_TRUE(board.barrier(0, 2));
            EXPECT_TRUE(board.wait_for(kEnd, 1));
            return;
          }
          // One that is not asked for again shows that the source has published.
          std::vector<std::uint32_t> experts = layer.foreign();
          EXPECT_EQ(layer.read(1, {experts.back()}, CARDEA_PATH_NETWORK), 1u);
          experts.pop_back();
          layer.poison_slab();
          EXPECT_TRUE(board.barrier(0, 2));
          Scene scene{gpu, job, layer, board, experts, shape.seed};
          read(scene);
          board.set(kEnd, 1);
        },
        options);
    if (source_dies) {
      EXPECT_EQ(ends[1].signal, SIGKILL) << "the source did not die as it should";
    }
  }

  static void await_free_slots(const Scene& scene) {
    cardea_slab_info_t slab = CARDEA_SLAB_INFO_INIT;
    for (int i = 0; i < 30000; ++i) {
      CARDEA_MUST(cardea_slab_query(scene.layer.slab, &slab));
      if (slab.free_slots == slab.num_slots) break;
      usleep(1000);
    }
    EXPECT_EQ(slab.free_slots, slab.num_slots);
  }
  /// Asks for the source's experts on the stream and takes their views, none of which has come.
  static cardea_fetch_t take_all(const Scene& scene, const Stopped& source, std::vector<cardea_view_t>& views) {
    const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts, scene.gpu.stream());
    views = drain(fetch);
    EXPECT_TRUE(source.still()) << "the views were taken before anything could come";
    EXPECT_EQ(views.size(), scene.experts.size());
    for (const cardea_view_t& view : views) {
      EXPECT_EQ(view.status, CARDEA_OK);
      EXPECT_EQ(view.path, CARDEA_PATH_NETWORK);
    }
    return fetch;
  }
  /// That what lies in a slot cannot be taken for weights.
  static ::testing::AssertionResult poisoned(Gpu& gpu, const cardea_view_t& view, const std::vector<std::uint64_t>& sizes) {
    for (std::size_t s = 0; s < sizes.size(); ++s) {
      const auto bytes = gpu.download(view.segments[s], std::min(sizes[s], cuda::GateSet::kSealed));
      if (std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0xFF}; }))
        return ::testing::AssertionFailure() << "segment " << s << " of expert " << view.expert;
    }
    return ::testing::AssertionSuccess();
  }
  /// Of an expert's segments, unless the test gives others: so large that half of it is copied before its gate opens.
  std::vector<std::uint64_t> sizes_{3 << 20, 6 << 20, 96};
};

}  // namespace cardea::test
