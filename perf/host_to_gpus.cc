// SPDX-License-Identifier: Apache-2.0
// Two GPUs of one node that want the same experts out of host memory: Cardea, which copies each expert up once and lets the
// other GPU pull it, beside each GPU copying all of it by hand, from pinned memory that both share, in one table. Each
// alone, and both at once.
//
// Three processes: two with a GPU each, and one that holds the weights. A transfer brings one half of the experts, in turns,
// so that nothing that is wanted is there already; its time goes from the first call until the GPU has all of it, and counts
// of the slower GPU where both take part. Slots are poisoned before and compared after two transfers of each kind; #wrong
// counts bytes. Nothing of CUDA is linked, so it runs wherever it was built.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "cardea/cardea.h"
#include "lib/cuda/device.h"

namespace cardea::perf {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSkipped = 77;
constexpr unsigned kGpus = 2, kHome = 2, kRanks = 3;
constexpr unsigned kMostIterations = 1000;

struct Settings {
  std::size_t bytes = 9437184;  // an expert of Qwen3-30B-A3B
  unsigned experts = 64, iterations = 20, warmup = 3;
};

/// What the processes share.
struct Board {
  static constexpr std::size_t kMost = 1 << 16;
  std::atomic<unsigned> arrived[2]{}, failed{0};
  std::array<std::array<unsigned char, kMost>, kRanks> told;
  double times[2][2][kGpus][kMostIterations]{};  // by way, alone or both
  unsigned long long wrong[2]{};

  /// All, or the two GPUs' (1).
  void meet(unsigned who) {
    const unsigned count = who == 0 ? kRanks : kGpus;
    const unsigned round = arrived[who].fetch_add(1) / count;
    while (arrived[who].load() < (round + 1) * count) {
      if (failed.load() != 0) throw std::runtime_error("another process has failed");
      usleep(who == 0 ? 200 : 0);
    }
  }
};

void must(cardea_status_t status, const char* call) {
  if (status >= 0) return;
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  throw std::runtime_error(std::string(call) + ": " + cardea_status_string(status) + ": " + info.message);
}
template <typename T>
T must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return std::move(*result);
}

std::uint64_t word_of(unsigned expert, std::size_t at) {
  return (std::uint64_t{expert} << 40 ^ at) * 0x9E3779B97F4A7C15;
}
void write_pattern(std::byte* to, unsigned expert, std::size_t bytes) {
  auto* const words = reinterpret_cast<std::uint64_t*>(to);
  for (std::size_t i = 0; i < bytes / 8; ++i) words[i] = word_of(expert, i);
}

/// One GPU's process.
class Gpu {
 public:
  explicit Gpu(unsigned rank) {
    std::shared_ptr<const cuda::Driver> driver = must(cuda::Driver::open());
    const int ordinal = driver->devices > 1 ? static_cast<int>(rank) : 0;
    device_ = must(cuda::Device::open(driver, ordinal));
    must(device_->driver().context_set(device_->context()), "cuCtxSetCurrent");
    must(device_->driver().stream_create(&stream_, 1), "cuStreamCreate");
  }
  void must(cuda::Code code, const char* call) const {
    if (const Status status = device_->check(code, call); !status.ok()) throw std::runtime_error(status.message());
  }
  template <typename T>
  static T must(Result<T> result) {
    return perf::must(std::move(result));
  }
  const cuda::Driver& driver() const { return device_->driver(); }
  int ordinal() const { return device_->ordinal(); }
  cuda::Stream stream() const { return stream_; }
  void synchronize() const { must(driver().stream_synchronize(stream_), "cuStreamSynchronize"); }
  void copy(const void* to, const void* from, std::size_t bytes) const {
    must(driver().copy(reinterpret_cast<cuda::Pointer>(to), reinterpret_cast<cuda::Pointer>(from), bytes, stream_),
         "cuMemcpyAsync");
  }
  void poison(const void* at, std::size_t bytes) const {
    must(driver().memory_set(reinterpret_cast<cuda::Pointer>(at), 0xa5, bytes, stream_), "cuMemsetD8Async");
    synchronize();
  }
  unsigned long long wrong(const void* at, unsigned expert, std::size_t bytes) const {
    std::vector<std::uint64_t> here(bytes / 8);
    copy(here.data(), at, bytes);
    synchronize();
    unsigned long long wrong = 0;
    for (std::size_t i = 0; i < here.size(); ++i) wrong += here[i] == word_of(expert, i) ? 0 : 8;
    return wrong;
  }

 private:
  std::shared_ptr<const cuda::Device> device_;
  cuda::Stream stream_ = nullptr;
};

/// Brings a half of the experts, and says where expert i of it is.
class Way {
 public:
  virtual ~Way() = default;
  virtual void bring(unsigned half) = 0;
  virtual const void* at(unsigned i) const = 0;
};

class ByHand final : public Way {
 public:
  ByHand(const Gpu& gpu, std::byte* weights, const Settings& settings) : gpu_(gpu), weights_(weights), settings_(settings) {
    const std::size_t half = settings.bytes * settings.experts;
    gpu.must(gpu.driver().host_register(weights, 2 * half, 1), "cuMemHostRegister");
    cuda::Pointer made = 0;
    gpu.must(gpu.driver().memory_alloc(&made, half), "cuMemAlloc");
    slots_ = reinterpret_cast<std::byte*>(made);
    gpu.poison(slots_, half);
  }
  ~ByHand() override {
    gpu_.driver().memory_free(reinterpret_cast<cuda::Pointer>(slots_));
    gpu_.driver().host_unregister(weights_);
  }
  void bring(unsigned half) override {
    for (unsigned i = 0; i < settings_.experts; ++i) {
      gpu_.copy(at(i), weights_ + (half * settings_.experts + i) * settings_.bytes, settings_.bytes);
    }
    gpu_.synchronize();
  }
  const void* at(unsigned i) const override { return slots_ + i * settings_.bytes; }

 private:
  const Gpu& gpu_;
  std::byte* weights_;
  const Settings& settings_;
  std::byte* slots_ = nullptr;
};

/// A rank of the job; `gpu` is null where the weights are.
class ByCardea final : public Way {
 public:
  ByCardea(Board& board, unsigned rank, const Gpu* gpu, const Settings& settings)
      : board_(board), rank_(rank), gpu_(gpu), settings_(settings), slots_(settings.experts) {
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_EXCHANGE;
    config.rank = rank;
    config.world_size = kRanks;
    config.exchange = exchange;
    config.exchange_user = this;
    if (gpu != nullptr) config.cuda_device = gpu->ordinal();
    must(cardea_context_create(&config, &context_), "cardea_context_create");
    cardea_group_t group{};
    must(cardea_group_create(context_, nullptr, 0, &group), "cardea_group_create");
    cardea_segment_t segment = CARDEA_SEGMENT_INIT;
    segment.name = "w";
    segment.bytes = settings.bytes;
    cardea_layer_desc_t layer = CARDEA_LAYER_DESC_INIT;
    layer.num_experts = 2 * settings.experts;
    layer.segments = &segment;
    layer.num_segments = 1;
    cardea_placement_t place = CARDEA_PLACEMENT_INIT;
    std::vector<std::uint32_t> local;
    if (gpu == nullptr) {
      cardea_memory_t memory{};
      must(cardea_memory_alloc(context_, settings.bytes * layer.num_experts, CARDEA_MEMORY_HOST, &memory),
           "cardea_memory_alloc");
      cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
      must(cardea_memory_query(memory, &info), "cardea_memory_query");
      for (unsigned e = 0; e < layer.num_experts; ++e) {
        write_pattern(static_cast<std::byte*>(info.address) + e * settings.bytes, e, settings.bytes);
        local.push_back(e);
      }
      place.base = info.address;
      place.stride = settings.bytes;
      layer.num_local = layer.num_experts;
      layer.local_experts = local.data();
      layer.placements = &place;
    } else {
      cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
      slab.segments = &segment;
      slab.num_segments = 1;
      slab.num_slots = settings.experts;
      slab.kind = CARDEA_MEMORY_CUDA;
      must(cardea_slab_create(context_, &slab, &layer.slab), "cardea_slab_create");
      cardea_slab_info_t info = CARDEA_SLAB_INFO_INIT;
      must(cardea_slab_query(layer.slab, &info), "cardea_slab_query");
      gpu->poison(info.base[0], info.stride[0] * info.num_slots);
    }
    must(cardea_layer_create(group, &layer, &layer_), "cardea_layer_create");
    must(cardea_publish(layer_, 1, nullptr), "cardea_publish");
  }
  ~ByCardea() override { cardea_context_destroy(context_); }

  void bring(unsigned half) override {
    std::vector<std::uint32_t> wanted;
    for (unsigned i = 0; i < settings_.experts; ++i) wanted.push_back(half * settings_.experts + i);
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = 1;
    desc.experts = wanted.data();
    desc.num_experts = settings_.experts;
    desc.flags = CARDEA_FETCH_SLOTS;
    desc.stream = gpu_->stream();
    cardea_fetch_t fetch{};
    must(cardea_fetch(layer_, &desc, &fetch), "cardea_fetch");
    std::vector<cardea_view_t> views(settings_.experts);
    for (unsigned left = settings_.experts; left > 0;) {
      for (cardea_view_t& view : views) view.size = sizeof view;
      std::uint32_t count = 0;
      must(cardea_next(fetch, views.data(), left, &count, CARDEA_FOREVER), "cardea_next");
      for (unsigned i = 0; i < count; ++i) {
        must(views[i].status, "view");
        slots_[views[i].expert - half * settings_.experts] = views[i].segments[0];
      }
      must(cardea_release(views.data(), count), "cardea_release");
      left -= count;
    }
    gpu_->synchronize();
    must(cardea_fetch_destroy(fetch), "cardea_fetch_destroy");
  }
  const void* at(unsigned i) const override { return slots_[i]; }

 private:
  static int exchange(void* user, const void* mine, std::size_t bytes, void* all) try {
    const auto& self = *static_cast<ByCardea*>(user);
    if (bytes > Board::kMost) return 1;
    std::memcpy(self.board_.told[self.rank_].data(), mine, bytes);
    self.board_.meet(0);
    for (unsigned rank = 0; rank < kRanks; ++rank)
      std::memcpy(static_cast<unsigned char*>(all) + rank * bytes, self.board_.told[rank].data(), bytes);
    self.board_.meet(0);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }

  Board& board_;
  const unsigned rank_;
  const Gpu* gpu_;
  const Settings& settings_;
  cardea_context_t context_{};
  cardea_layer_t layer_{};
  std::vector<const void*> slots_;
};

void measure(Way& way, unsigned which, unsigned rank, const Gpu& gpu, Board& board, const Settings& settings) {
  unsigned half = 0;
  for (const bool both : {false, true}) {
    for (unsigned i = 0; i < settings.warmup + settings.iterations; ++i) {
      half = 1 - half;
      board.meet(1);
      if (!both && rank != 0) continue;
      const auto start = Clock::now();
      way.bring(half);
      const double took = std::chrono::duration<double>(Clock::now() - start).count();
      if (i >= settings.warmup) board.times[which][both ? 1 : 0][rank][i - settings.warmup] = took;
      if (i > 1) continue;
      unsigned long long wrong = 0;
      for (unsigned e = 0; e < settings.experts; ++e)
        wrong += gpu.wrong(way.at(e), half * settings.experts + e, settings.bytes);
      __atomic_fetch_add(&board.wrong[which], wrong, __ATOMIC_RELAXED);
    }
    board.meet(1);
  }
}

void run_rank(unsigned rank, Board& board, std::byte* weights, const Settings& settings) {
  if (rank == kHome) {
    const ByCardea home(board, rank, nullptr, settings);
    board.meet(0);
    return;
  }
  const Gpu gpu(rank);
  {
    ByHand by_hand(gpu, weights, settings);
    measure(by_hand, 0, rank, gpu, board, settings);
  }
  ByCardea by_cardea(board, rank, &gpu, settings);
  measure(by_cardea, 1, rank, gpu, board, settings);
  board.meet(0);
}

double median(const double* times, unsigned count) {
  std::vector<double> sorted(times, times + count);
  std::sort(sorted.begin(), sorted.end());
  return sorted[count / 2];
}

int report(const Board& board, const Settings& settings) {
  const double gigabytes = static_cast<double>(settings.bytes) * settings.experts / 1e9;
  std::printf("%u experts of %zu bytes out of host memory into two GPUs of a node; medians\n\n", settings.experts,
              settings.bytes);
  std::printf("%-14s %12s %8s | %12s %8s %10s | %8s\n", "way", "one GPU", "rate", "both GPUs", "rate", "of by-hand",
              "#wrong");
  std::printf("%-14s %12s %8s | %12s %8s %10s | %8s\n", "", "us", "GB/s", "us", "GB/s each", "", "bytes");
  double by_hand = 0;
  unsigned long long wrong = 0;
  for (unsigned way = 0; way < 2; ++way) {
    const double alone = median(board.times[way][0][0], settings.iterations);
    const double both =
        std::max(median(board.times[way][1][0], settings.iterations), median(board.times[way][1][1], settings.iterations));
    if (way == 0) by_hand = both;
    std::printf("%-14s %12.1f %8.1f | %12.1f %8.1f %10.2f | %8llu\n", way == 0 ? "by-hand" : "cardea", alone * 1e6,
                gigabytes / alone, both * 1e6, gigabytes / both, by_hand / both, board.wrong[way]);
    wrong += board.wrong[way];
  }
  if (wrong != 0) std::printf("\nFAILED: %llu bytes are wrong\n", wrong);
  return wrong != 0 ? 1 : 0;
}

int run(const Settings& settings) {
  const auto share = [](std::size_t bytes) {
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::runtime_error("no memory");
    return at;
  };
  Board& board = *new (share(sizeof(Board))) Board;
  auto* const weights = static_cast<std::byte*>(share(2 * settings.bytes * settings.experts));
  for (unsigned e = 0; e < 2 * settings.experts; ++e) write_pattern(weights + e * settings.bytes, e, settings.bytes);
  std::array<pid_t, kRanks> ranks{};
  for (unsigned rank = 0; rank < kRanks; ++rank) {
    std::fflush(nullptr);
    ranks[rank] = fork();
    if (ranks[rank] < 0) throw std::runtime_error("fork failed");
    if (ranks[rank] != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int code = 0;
    try {
      run_rank(rank, board, weights, settings);
    } catch (const std::exception& error) {
      board.failed.store(1);
      std::fprintf(stderr, "rank %u: %s\n", rank, error.what());
      code = 1;
    }
    _exit(code);
  }
  bool failed = false;
  for (const pid_t rank : ranks) {
    int status = 0;
    waitpid(rank, &status, 0);
    if (status != 0) board.failed.store(1);
    failed |= status != 0;
  }
  return failed ? 1 : report(board, settings);
}

/// In a child: a process that has used CUDA cannot be forked.
bool gpus_are_there() {
  const pid_t child = fork();
  if (child == 0) {
    const Result<std::shared_ptr<const cuda::Driver>> driver = cuda::Driver::open();
    if (!driver.ok()) std::fprintf(stderr, "%s\n", driver.status().message().c_str());
    _exit(driver.ok() && (*driver)->devices > 0 ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace
}  // namespace cardea::perf

int main(int argc, char** argv) {
  cardea::perf::Settings settings;
  CLI::App app("The same experts out of host memory into two GPUs: Cardea beside each GPU copying all of it");
  app.add_option("--experts", settings.experts, "of a transfer")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--expert-bytes", settings.bytes, "size of each")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("-n,--iters", settings.iterations, "transfers of each kind")
      ->check(CLI::Range(1u, cardea::perf::kMostIterations))
      ->capture_default_str();
  app.add_option("-w,--warmup_iters", settings.warmup, "transfers before them")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (settings.bytes == 0 || settings.bytes % 16 != 0) {
    std::fprintf(stderr, "host_to_gpus: sizes are multiples of 16 bytes\n");
    return 2;
  }
  if (!cardea::perf::gpus_are_there()) {
    std::fprintf(stderr, "skipped: no GPU here\n");
    return cardea::perf::kSkipped;
  }
  try {
    return cardea::perf::run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "host_to_gpus: %s\n", error.what());
    return 1;
  }
}
