// SPDX-License-Identifier: Apache-2.0
// The expert table in device memory: read by work on the stream, it says what lies in the slots at that point of the stream.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <dlfcn.h>

#include "tests/cuda/gpu_job.h"

namespace cardea::test {
namespace {

constexpr std::uint64_t kEmpty = UINT64_MAX;

/// A layer's table on the device, and copies of it that a stream makes where it is.
class TableReader {
 public:
  /// For so many snapshots: their memory is made now, since the driver gives none while a gate is closed.
  TableReader(Gpu& gpu, cardea_layer_t layer, std::size_t most = 256) : gpu_(gpu) {
    CARDEA_MUST(cardea_layer_device_table(layer, &table_));
    slots_ = sizeof(std::int32_t) * table_.num_experts;
    versions_ = sizeof(std::uint64_t) * table_.num_experts;
    pointers_ = sizeof(void*) * table_.num_experts * table_.num_segments;
    each_ = (pointers_ + versions_ + slots_ + 255) / 256 * 256;
    next_ = gpu_.alloc(each_ * most);
    end_ = next_ + each_ * most;
  }

  const cardea_device_table_t& table() const { return table_; }

  /// What a snapshot holds, once its stream has been waited for.
  struct Shown {
    std::vector<std::int32_t> slots;
    std::vector<std::uint64_t> versions;
    std::vector<const void*> segments;  // expert by expert
  };
  /// Queues a copy on the stream (the GPU's own unless told).
  std::byte* snapshot(cuda::Stream stream = nullptr) {
    if (next_ == end_) throw std::runtime_error("too many snapshots");
    std::byte* const kept = std::exchange(next_, next_ + each_);
    const auto copy = [&](std::byte* to, const void* from, std::uint64_t bytes) {
      gpu_.must(gpu_.driver().copy(reinterpret_cast<cuda::Pointer>(to), reinterpret_cast<cuda::Pointer>(from), bytes,
                                   stream == nullptr ? gpu_.stream() : stream),
                "cuMemcpyAsync");
    };
    copy(kept, table_.segments, pointers_);
    copy(kept + pointers_, table_.versions, versions_);
    copy(kept + pointers_ + versions_, table_.slots, slots_);
    return kept;
  }
  Shown shown(const std::byte* kept) {
    const std::vector<std::byte> bytes = gpu_.download(kept, pointers_ + versions_ + slots_);
    Shown shown{std::vector<std::int32_t>(table_.num_experts), std::vector<std::uint64_t>(table_.num_experts),
                std::vector<const void*>(std::size_t{table_.num_experts} * table_.num_segments)};
    std::memcpy(shown.segments.data(), bytes.data(), pointers_);
    std::memcpy(shown.versions.data(), bytes.data() + pointers_, versions_);
    std::memcpy(shown.slots.data(), bytes.data() + pointers_ + versions_, slots_);
    return shown;
  }
  Shown now() { return shown(snapshot()); }

  /// That the entry tells of the view.
  ::testing::AssertionResult tells(const Shown& shown, const cardea_view_t& view) const {
    if (shown.slots[view.expert] != view.slot || shown.versions[view.expert] != view.version) {
      return ::testing::AssertionFailure()
             << "expert " << view.expert << ": slot " << shown.slots[view.expert] << " of " << view.slot << ", version "
             << shown.versions[view.expert] << " of " << view.version;
    }
    for (std::uint32_t s = 0; s < table_.num_segments; ++s) {
      const void* const found = shown.segments[view.expert * table_.num_segments + s];
      if (found != view.segments[s]) {
        return ::testing::AssertionFailure()
               << "expert " << view.expert << " segment " << s << ": " << found << " instead of " << view.segments[s];
      }
    }
    return ::testing::AssertionSuccess();
  }
  ::testing::AssertionResult empty(const Shown& shown, std::uint32_t expert) const {
    bool is = shown.slots[expert] == CARDEA_NO_SLOT && shown.versions[expert] == kEmpty;
    for (std::uint32_t s = 0; s < table_.num_segments; ++s)
      is &= shown.segments[expert * table_.num_segments + s] == nullptr;
    if (is) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "expert " << expert << " has slot " << shown.slots[expert] << ", version "
                                         << shown.versions[expert];
  }

 private:
  Gpu& gpu_;
  cardea_device_table_t table_ = CARDEA_DEVICE_TABLE_INIT;
  std::uint64_t slots_ = 0, versions_ = 0, pointers_ = 0, each_ = 0;
  std::byte* next_ = nullptr;
  std::byte* end_ = nullptr;
};

class GpuTable : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
  void both(const std::function<void(Gpu&, Job&, unsigned rank)>& body) {
    run_ranks(2, [&](unsigned rank) {
      Gpu gpu(rank);
      Job job(exchange, rank, "here");
      body(gpu, job, rank);
      EXPECT_TRUE(board.barrier(99, 2));
    });
  }
  SharedExchange exchange{2};
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
};

std::vector<cardea_view_t> must_next(cardea_fetch_t fetch, std::uint32_t max) {
  cardea_status_t status = CARDEA_OK;
  std::vector<cardea_view_t> views = next(fetch, max, kPatience, &status);
  must(status, "cardea_next");
  return views;
}

cuda::Stream another_stream(Gpu& gpu) {
  cuda::Stream stream = nullptr;
  gpu.must(gpu.driver().stream_create(&stream, cuda::kStreamNonBlocking), "cuStreamCreate");
  return stream;
}

TEST_F(GpuTable, WorkOfTheStreamFindsTheViewsBetweenNextAndRelease) {
  both([&](Gpu& gpu, Job& job, unsigned rank) {
    GpuLayer layer(gpu, job, {.per_rank = 6, .slots = 3, .seed = seed});
    layer.publish(4);
    TableReader reader(gpu, layer.handle);
    const cardea_device_table_t first = reader.table();
    EXPECT_EQ(first.num_experts, layer.experts());
    EXPECT_EQ(first.num_segments, 3u);
    struct Moment {
      std::vector<cardea_view_t> open;
      std::byte* kept;
    };
    std::vector<Moment> moments;
    std::vector<cardea_fetch_t> fetches;
    for (unsigned round = 0; round < 4; ++round) {
      const cardea_fetch_t fetch = layer.fetch(4, layer.foreign(), gpu.stream());
      fetches.push_back(fetch);
      std::vector<cardea_view_t> open;
      for (;;) {
        const std::vector<cardea_view_t> views = must_next(fetch, 1 + round % 3);
        if (views.empty()) break;
        open.insert(open.end(), views.begin(), views.end());
        moments.push_back({open, reader.snapshot()});
        // Some are kept for a while.
        const auto gone = static_cast<std::ptrdiff_t>(open.size() > 2 || round % 2 == 0 ? open.size() : 1);
        release({open.begin(), open.begin() + gone});
        open.erase(open.begin(), open.begin() + gone);
        moments.push_back({open, reader.snapshot()});
      }
      release(open);
    }
    moments.push_back({{}, reader.snapshot()});
    for (const cardea_fetch_t fetch : fetches) {
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
      CARDEA_MUST(cardea_fetch_destroy(fetch));
    }
    gpu.synchronize();
    ASSERT_GT(moments.size(), 20u);
    cardea_expert_table_t host = CARDEA_EXPERT_TABLE_INIT;
    CARDEA_MUST(cardea_layer_table(layer.handle, &host));
    for (const Moment& moment : moments) {
      const TableReader::Shown shown = reader.shown(moment.kept);
      for (std::uint32_t expert = 0; expert < layer.experts(); ++expert) {
        if (expert / 6 == rank) {
          EXPECT_EQ(shown.versions[expert], 4u);
          for (std::uint32_t s = 0; s < 3; ++s)
            ASSERT_EQ(shown.segments[expert * 3 + s], host.entries[expert].segments[s]) << "expert " << expert;
          continue;
        }
        const auto open = std::find_if(moment.open.begin(), moment.open.end(),
                                       [&](const cardea_view_t& view) { return view.expert == expert; });
        if (open != moment.open.end()) {
          ASSERT_TRUE(reader.tells(shown, *open));
        } else {
          ASSERT_TRUE(reader.empty(shown, expert));
        }
      }
    }
    cardea_device_table_t later = CARDEA_DEVICE_TABLE_INIT;
    CARDEA_MUST(cardea_layer_device_table(layer.handle, &later));
    EXPECT_EQ(later.slots, first.slots);
    EXPECT_EQ(later.versions, first.versions);
    EXPECT_EQ(later.segments, first.segments);
    CARDEA_MUST(cardea_layer_destroy(layer.handle));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_HANDLE, ({"layer"}), cardea_layer_device_table(layer.handle, &later));
  });
}

TEST_F(GpuTable, TheHomeExpertsVersionsChangeInTheOrderOfTheStream) {
  both([&](Gpu& gpu, Job& job, unsigned rank) {
    GpuLayer layer(gpu, job, {.per_rank = 2, .slots = 1, .seed = seed});
    TableReader reader(gpu, layer.handle);
    const std::uint32_t mine = rank * 2;
    std::vector<std::byte*> before, after;
    for (std::uint64_t version = 1; version <= 5; ++version) {
      gpu.close_gate();
      before.push_back(reader.snapshot());
      CARDEA_MUST(cardea_publish(layer.handle, version, gpu.stream()));
      after.push_back(reader.snapshot());
      gpu.open_gate();
      cardea_finish_desc_t finish = CARDEA_FINISH_DESC_INIT;
      finish.stream = gpu.stream();
      CARDEA_MUST(cardea_finish(layer.handle, version, &finish));
      CARDEA_MUST(cardea_collect(layer.handle, version, nullptr, kPatience));
    }
    for (std::uint64_t version = 1; version <= 5; ++version) {
      for (const std::uint32_t expert : {mine, mine + 1}) {
        EXPECT_EQ(reader.shown(before[version - 1]).versions[expert], version == 1 ? kEmpty : version - 1);
        EXPECT_EQ(reader.shown(after[version - 1]).versions[expert], version);
      }
    }
    CARDEA_MUST(cardea_publish(layer.handle, 6, nullptr));
    EXPECT_EQ(reader.now().versions[mine + 1], 6u) << "without a stream, before publish returns";
  });
}

TEST_F(GpuTable, WithoutAStreamItIsWrittenBeforeTheCallsReturn) {
  both([&](Gpu& gpu, Job& job, unsigned) {
    GpuLayer layer(gpu, job, {.slots = 2, .seed = seed});
    layer.publish(1);
    // Made while views are open: it tells of them.
    const cardea_fetch_t fetch = layer.fetch(1, layer.foreign());
    std::vector<cardea_view_t> views = must_next(fetch, 2);
    ASSERT_FALSE(views.empty());
    TableReader reader(gpu, layer.handle);
    for (std::uint32_t seen = 0; !views.empty();) {
      TableReader::Shown shown = reader.now();
      for (const cardea_view_t& view : views) EXPECT_TRUE(reader.tells(shown, view));
      release(views);
      shown = reader.now();
      for (const std::uint32_t expert : layer.foreign()) EXPECT_TRUE(reader.empty(shown, expert));
      seen += static_cast<std::uint32_t>(views.size());
      views = must_next(fetch, 2);
      if (views.empty()) {
        EXPECT_EQ(seen, layer.foreign().size());
      }
    }
    CARDEA_MUST(cardea_fetch_destroy(fetch));
  });
}

TEST_F(GpuTable, TwoStreamsThatOpenTheSameExpertBothFindItUntilTheyReleaseIt) {
  both([&](Gpu& gpu, Job& job, unsigned) {
    GpuLayer layer(gpu, job, {.per_rank = 3, .slots = 3, .seed = seed});
    layer.publish(1);
    TableReader reader(gpu, layer.handle);
    const cuda::Stream other = another_stream(gpu);
    struct Moment {
      std::vector<cardea_view_t> open;
      std::byte* kept;
    };
    std::vector<Moment> moments;
    for (unsigned round = 0; round < 12; ++round) {
      // One stream stands still while the other goes on with the same experts, and enters and empties them as well.
      gpu.close_gate();
      const cardea_fetch_t slow = layer.fetch(1, layer.foreign(), gpu.stream());
      const cardea_fetch_t quick = layer.fetch(1, layer.foreign(), other);
      const std::vector<cardea_view_t> slow_views = drain(slow);
      moments.push_back({slow_views, reader.snapshot(gpu.stream())});
      const std::vector<cardea_view_t> quick_views = drain(quick);
      ASSERT_EQ(slow_views.size(), 3u);
      ASSERT_EQ(quick_views.size(), 3u);
      moments.push_back({quick_views, reader.snapshot(other)});
      if (round % 2 == 0) {
        release(slow_views);
        moments.push_back({quick_views, reader.snapshot(other)});
        release(quick_views);
      } else {
        release(quick_views);
        moments.push_back({slow_views, reader.snapshot(gpu.stream())});
        release(slow_views);
      }
      const cardea_fetch_t again = layer.fetch(1, layer.foreign(), other);
      const std::vector<cardea_view_t> again_views = drain(again);
      moments.push_back({again_views, reader.snapshot(other)});
      release(again_views);
      gpu.open_gate();
      for (const cardea_fetch_t fetch : {slow, quick, again}) {
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
        CARDEA_MUST(cardea_fetch_destroy(fetch));
      }
    }
    gpu.must(gpu.driver().stream_synchronize(other), "cuStreamSynchronize");
    gpu.synchronize();
    for (const Moment& moment : moments) {
      const TableReader::Shown shown = reader.shown(moment.kept);
      for (const cardea_view_t& view : moment.open) ASSERT_TRUE(reader.tells(shown, view)) << &moment - moments.data();
    }
    const TableReader::Shown shown = reader.now();
    for (const std::uint32_t expert : layer.foreign()) EXPECT_TRUE(reader.empty(shown, expert));
    CARDEA_MUST(cardea_layer_destroy(layer.handle));  // its memory goes behind what the streams do
    gpu.must(gpu.driver().stream_destroy(other), "cuStreamDestroy");
  });
}

TEST_F(GpuTable, TwoFetchesOnTwoStreamsDoNotOverwriteEachOthersNews) {
  both([&](Gpu& gpu, Job& job, unsigned rank) {
    GpuLayer layer(gpu, job, {.segments = {4096, 96}, .per_rank = 16, .slots = 8, .seed = seed});
    layer.publish(1);
    TableReader reader(gpu, layer.handle);
    const cuda::Stream other = another_stream(gpu);
    // Neighbours belong to different streams.
    std::vector<std::uint32_t> even, odd;
    for (const std::uint32_t expert : layer.foreign()) (expert % 2 == 0 ? even : odd).push_back(expert);
    for (unsigned round = 0; round < 10; ++round) {
      const cardea_fetch_t fetches[] = {layer.fetch(1, even, gpu.stream()), layer.fetch(1, odd, other)};
      const cuda::Stream streams[] = {gpu.stream(), other};
      for (unsigned turn = 0; turn < 4; ++turn) {
        std::vector<cardea_view_t> open[2];
        std::byte* kept[2] = {};
        for (unsigned f = 0; f < 2; ++f) {
          while (open[f].size() < 2) {
            const std::vector<cardea_view_t> views = must_next(fetches[f], 2 - static_cast<std::uint32_t>(open[f].size()));
            ASSERT_FALSE(views.empty());
            open[f].insert(open[f].end(), views.begin(), views.end());
          }
          kept[f] = reader.snapshot(streams[f]);
        }
        for (const cuda::Stream stream : streams) gpu.must(gpu.driver().stream_synchronize(stream), "cuStreamSynchronize");
        const TableReader::Shown all = reader.now();
        for (unsigned f = 0; f < 2; ++f) {
          for (const cardea_view_t& view : open[f]) {
            ASSERT_TRUE(reader.tells(reader.shown(kept[f]), view));
            ASSERT_TRUE(reader.tells(all, view));
          }
        }
        for (const auto& views : open) release(views);
      }
      for (const cardea_fetch_t fetch : fetches) {
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
      }
    }
    EXPECT_EQ(reader.now().versions[rank * 16], 1u);
  });
}

TEST_F(GpuTable, ManyMoreRowsThanStagingMemoryAreWritten) {
  both([&](Gpu& gpu, Job& job, unsigned) {
    const GpuShape shape{.segments = std::vector<std::uint64_t>(16, 16), .per_rank = 600, .slots = 500, .seed = seed};
    GpuLayer layer(gpu, job, shape);
    CARDEA_MUST(cardea_publish(layer.handle, 1, nullptr));
    TableReader reader(gpu, layer.handle, 64);
    cardea_expert_table_t host = CARDEA_EXPERT_TABLE_INIT;
    CARDEA_MUST(cardea_layer_table(layer.handle, &host));
    for (unsigned round = 0; round < 20; ++round) {
      const cardea_fetch_t fetch = layer.fetch(1, layer.foreign(), gpu.stream());
      for (;;) {
        const std::vector<cardea_view_t> views = must_next(fetch, 450);
        if (views.empty()) break;
        const std::byte* const kept = round % 10 == 0 ? reader.snapshot() : nullptr;
        release(views);
        if (kept == nullptr) continue;
        const TableReader::Shown shown = reader.shown(kept);
        for (const cardea_view_t& view : views) ASSERT_TRUE(reader.tells(shown, view));
      }
      CARDEA_MUST(cardea_fetch_destroy(fetch));
    }
    const TableReader::Shown shown = reader.now();
    for (std::uint32_t expert = 0; expert < layer.experts(); ++expert) {
      if (host.entries[expert].version == kEmpty) {
        ASSERT_TRUE(reader.empty(shown, expert));
      } else {
        ASSERT_EQ(shown.segments[expert * 16 + 15], host.entries[expert].segments[15]);
      }
    }
  });
}

TEST_F(GpuTable, HostMemoryThatTheGpuCannotReadHasNoPointersInIt) {
  both([&](Gpu& gpu, Job& job, unsigned rank) {
    GpuLayer layer(gpu, job, {.weights = Weights::kHost, .slots = 4, .seed = seed});
    layer.publish(1);
    TableReader reader(gpu, layer.handle);
    const TableReader::Shown shown = reader.now();
    EXPECT_EQ(shown.versions[rank * 4], 1u);
    EXPECT_EQ(shown.segments[rank * 4 * 3], nullptr);
  });
}

TEST_F(GpuTable, NextOnAStreamThatIsBeingCapturedGivesItsViewsAndSaysThatTheTableIsNotWritten) {
  both([&](Gpu& gpu, Job& job, unsigned) {
    GpuLayer layer(gpu, job, {.slots = 4, .seed = seed});
    layer.publish(1);
    TableReader reader(gpu, layer.handle);
    const cardea_fetch_t fetch = layer.fetch(1, layer.foreign(), gpu.stream());
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK);
    using Begin = int (*)(cuda::Stream, int);
    using End = int (*)(cuda::Stream, void**);
    void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    gpu.must(reinterpret_cast<Begin>(dlsym(library, "cuStreamBeginCapture_v2"))(gpu.stream(), 2), "cuStreamBeginCapture");
    cardea_status_t status = CARDEA_OK;
    const std::vector<cardea_view_t> views = next(fetch, 4, kPatience, &status);
    EXPECT_TRUE(refused(CARDEA_ERR_UNSUPPORTED, {"captured", "table"}, status));
    EXPECT_EQ(views.size(), 4u);
    void* graph = nullptr;
    gpu.must(reinterpret_cast<End>(dlsym(library, "cuStreamEndCapture"))(gpu.stream(), &graph), "cuStreamEndCapture");
    TableReader::Shown shown = reader.now();
    for (const std::uint32_t expert : layer.foreign()) EXPECT_TRUE(reader.empty(shown, expert));
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    const cardea_fetch_t again = layer.fetch(1, layer.foreign(), gpu.stream());
    const std::vector<cardea_view_t> good = drain(again);
    shown = reader.now();
    for (const cardea_view_t& view : good) EXPECT_TRUE(reader.tells(shown, view));
    release(good);
    CARDEA_MUST(cardea_fetch_destroy(again));
  });
}

TEST_F(GpuTable, ATableThatCannotBeMadeIsRefusedAndTheLayerGoesOnWithoutIt) {
  if (!fake_gpus()) GTEST_SKIP() << "only the fake driver fails when told";
  // The GPU's own gate is the first pinned memory; the rest is the table's.
  for (const char* const fail : {"cuMemHostAlloc:2:2", "cuMemAlloc_v2:1:2", "cuMemcpyBatchAsync_v2:1:719"}) {
    SharedExchange lonely(1);
    run_ranks(1, [&](unsigned rank) {
      setenv("FAKE_CUDA_FAIL", fail, 1);
      Gpu gpu(rank);
      Job job(lonely, rank);
      GpuLayer layer(gpu, job, {.segments = {4096}, .per_rank = 2, .slots = 2, .seed = seed});
      cardea_device_table_t table = CARDEA_DEVICE_TABLE_INIT;
      for (int i = 0; i < 2; ++i) {
        const std::string call = std::string(fail).substr(0, 10);
        const auto expected = std::string(fail).ends_with(":2") ? CARDEA_ERR_NO_MEMORY : CARDEA_ERR_DEVICE;
        EXPECT_REFUSED(expected, ({call.c_str()}), cardea_layer_device_table(layer.handle, &table)) << fail;
      }
      EXPECT_EQ(table.slots, nullptr);
      layer.publish(1);
      const cardea_fetch_t fetch = layer.fetch(1, {0, 1});
      release(drain(fetch));
      CARDEA_MUST(cardea_fetch_destroy(fetch));
      CARDEA_MUST(cardea_layer_destroy(layer.handle));
    });
  }
}

TEST_F(GpuTable, RowsThatCannotBeWrittenAreToldByTheCallThatChangedThem) {
  if (!fake_gpus()) GTEST_SKIP() << "only the fake driver fails when told";
  SharedExchange lonely(1);
  run_ranks(1, [&](unsigned rank) {
    setenv("FAKE_CUDA_FAIL", "cuMemcpyAsync:1:719", 1);  // a run of versions alone is no batch
    Gpu gpu(rank);
    Job job(lonely, rank);
    GpuLayer layer(gpu, job, {.segments = {4096}, .per_rank = 4, .slots = 2, .seed = seed});
    cardea_device_table_t table = CARDEA_DEVICE_TABLE_INIT;
    CARDEA_MUST(cardea_layer_device_table(layer.handle, &table));
    EXPECT_REFUSED(CARDEA_ERR_DEVICE, ({"cuMemcpyAsync", "device 0"}), cardea_publish(layer.handle, 1, nullptr));
    cardea_expert_info_t info = CARDEA_EXPERT_INFO_INIT;
    CARDEA_MUST(cardea_expert_query(layer.handle, 0, &info));
    EXPECT_EQ(info.published, 1u) << "it is published nevertheless";
    CARDEA_MUST(cardea_layer_destroy(layer.handle));
  });
}

TEST(DeviceTable, IsUnsupportedWithoutAGpu) {
  if (gpus_here() != 0 && !fake_gpus()) GTEST_SKIP() << "there is a GPU here";
  SharedExchange exchange(1);
  run_ranks(1, [&](unsigned rank) {
    setenv("FAKE_CUDA_DEVICES", "0", 1);
    Job job(exchange, rank);
    Layer layer(job, {});
    cardea_device_table_t table = CARDEA_DEVICE_TABLE_INIT;
    EXPECT_REFUSED(CARDEA_ERR_UNSUPPORTED, ({""}), cardea_layer_device_table(layer.handle, &table));
    table.size = 4;
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"table", "size"}), cardea_layer_device_table(layer.handle, &table));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"table"}), cardea_layer_device_table(layer.handle, nullptr));
    const unsigned char bytes[64] = {};
    EXPECT_EQ(cardea_memory_wait_unmapped(job.context, bytes, sizeof bytes, CARDEA_FOREVER), CARDEA_OK);
  });
}

}  // namespace
}  // namespace cardea::test
