// SPDX-License-Identifier: Apache-2.0
// The forward pass of a small Mixture-of-Experts model over several ranks whose tokens stay where they are: each rank
// fetches the experts that its tokens chose, computes on one while others arrive, and compares its result with that of a
// single process. Every step ends with an update of all weights, under the protocol of versions. Start it by
//   cardea-run -n 4 --nodes 2 moe_forward
// or under mpirun, torchrun or srun. Exits with 0 on PASS, 1 on FAIL, 2 on an error.
#include <cblas.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cardea/cardea.hpp>
#include <exception>
#include <optional>
#include <utility>

#include "experts.h"
#include "forward.h"
#include "gather.h"
#include "model.h"
#include "progress.h"
#include "report.h"
#include "routing.h"
#include "text.h"

namespace moe {
namespace {

namespace cx = cardea::api;

struct Options {
  Shape shape;
  std::uint32_t tokens = 8192;
  std::uint32_t steps = 3;
  std::uint32_t slots = 0;
  std::string text;
  bool prefetch = false;
  bool no_check = false;
};

void add_options(CLI::App& app, Options& o) {
  const auto count = [](unsigned most) { return CLI::Range(1u, most); };
  app.add_option("--hidden", o.shape.hidden, "Model dimension H")->check(count(65536))->capture_default_str();
  app.add_option("--inner", o.shape.inner, "Inner dimension I of an expert's SwiGLU")
      ->check(count(262144))
      ->capture_default_str();
  app.add_option("--experts", o.shape.experts, "Experts per layer, over all ranks")
      ->check(count(65536))
      ->capture_default_str();
  app.add_option("--top-k", o.shape.top_k, "Experts per token")->check(count(1024))->capture_default_str();
  app.add_option("--layers", o.shape.layers, "MoE layers")->check(count(1024))->capture_default_str();
  app.add_option("--tokens", o.tokens, "Tokens per rank and step")->check(count(1u << 24))->capture_default_str();
  app.add_option("--steps", o.steps, "Steps, each with weights of its own")->check(count(1000000))->capture_default_str();
  app.add_option("--slots", o.slots,
                 "Slots of the slab: experts fetched ahead or computed on (default 3, with --prefetch 8)")
      ->check(count(65536));
  app.add_option("--seed", o.shape.seed, "Determines all weights")->capture_default_str();
  app.add_option("--text", o.text, "File whose bytes are the tokens (default: a licence text of this machine)");
  app.add_flag("--prefetch", o.prefetch, "While a layer computes, fetch ahead what the next one is guessed to want");
  app.add_flag("--no-check", o.no_check, "Do not compare with a single-process run");
}

/// Adds the time from its making to its end to a sum.
class Timed {
 public:
  explicit Timed(std::uint64_t& sum) : sum_(sum), began_(Clock::now()) {}
  ~Timed() { sum_ += static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - began_).count()); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  std::uint64_t& sum_;
  Clock::time_point began_;
};

/// All layers of a single-process run on the same tokens, at one version.
std::vector<float> reference_run(const Shape& shape, const std::vector<std::vector<float>>& gates, std::uint64_t version,
                                 std::vector<float> x) {
  LocalExperts experts(shape);
  ForwardTimes unused;
  for (std::uint32_t l = 0; l < shape.layers; ++l) forward_layer(shape, gates[l], l, version, experts, x, unused);
  return x;
}

int run(const Options& options) {
  const Shape& shape = options.shape;
  openblas_set_num_threads(1);  // the ranks share the machine's cores
  const Text text = load_text(options.text);

  const cx::Context job;
  const cardea_context_info_t me = job.info();
  const cx::Group group = job.group();
  std::vector<std::uint32_t> node_of(me.world_size);
  for (std::uint32_t r = 0; r < me.world_size; ++r) node_of[r] = job.rank(r).node;

  const std::vector<float> embedded = embed(shape, tokens_of_rank(text.bytes, me.rank, options.tokens));
  std::vector<std::vector<float>> gates;
  for (std::uint32_t l = 0; l < shape.layers; ++l) gates.push_back(make_gate(shape, l));

  CardeaExperts experts(job, group, shape, options.slots);
  std::optional<Routing> guess;  // of the layer that comes next
  RankReport report;
  ForwardTimes forward;
  {
    Progress progress(std::uint64_t{options.steps} * (shape.layers + (options.no_check ? 0 : 1)), me.rank == 0);
    const Timed total(report.total);
    for (std::uint64_t version = 1; version <= options.steps; ++version) {
      std::vector<float> x = embedded;
      for (std::uint32_t l = 0; l < shape.layers; ++l) {
        const std::optional<Routing> guessed = std::exchange(guess, std::nullopt);
        if (options.prefetch && l + 1 < shape.layers) {
          // What a layer adds to its input is small beside it, so the next layer's input is nearly this one's.
          const Timed timed(report.guess);
          guess = route(shape, rms_norm(shape, x), gates[l + 1]);
          experts.expect(l + 1, version, *guess);
        }
        const Routing routing = forward_layer(shape, gates[l], l, version, experts, x, forward);
        if (guessed) {
          report.choices_guessed += routing.expert.size();
          report.choices_right += choices_shared(*guessed, routing);
        }
        experts.finish(l, version);
        report.bytes_all_to_all += all_to_all_bytes(shape, routing, experts.home(), node_of, me.node);
        progress.advance(fmt::format("step {}/{}, layer {}/{}", version, options.steps, l + 1, shape.layers));
      }
      {
        const Timed timed(report.collect);
        for (std::uint32_t l = 0; l < shape.layers; ++l) experts.collect(l, version);
      }
      if (!options.no_check) {
        const Timed timed(report.reference);
        report.error = std::max(report.error, max_norm_error(x, reference_run(shape, gates, version, embedded)));
        progress.advance(fmt::format("step {}/{}, compared", version, options.steps));
      }
      if (version == options.steps) break;
      const Timed timed(report.update);
      for (std::uint32_t l = 0; l < shape.layers; ++l) experts.update(l, version + 1);
    }
  }

  const cardea_counters_t counters = job.counters();
  report.experts_home = counters.experts_home;
  report.experts_node_mapped = counters.experts_node_mapped;
  report.experts_node_copied = counters.experts_node_copied;
  report.experts_cache = counters.experts_cache;
  report.experts_network = counters.experts_network;
  report.bytes_network_received = counters.bytes_network_received;
  report.bytes_prefetch_wasted = counters.prefetch_bytes_wasted;
  report.prefetched = experts.prefetched().guessed;
  report.prefetched_chosen = experts.prefetched().chosen;
  report.fetch_span = static_cast<std::uint64_t>(experts.times().span.count());
  report.fetch_blocked = static_cast<std::uint64_t>(experts.times().blocked.count());
  report.gate = static_cast<std::uint64_t>(forward.gate.count());
  report.experts = static_cast<std::uint64_t>(forward.experts.count());
  report.combine = static_cast<std::uint64_t>(forward.combine.count());

  const std::vector<RankReport> reports = gather_reports(job, group, shape.layers, report);
  if (me.rank != 0) return report.error <= kErrorLimit ? 0 : 1;
  const RunDescription description{.shape = shape,
                                   .ranks = me.world_size,
                                   .nodes = me.node_count,
                                   .tokens = options.tokens,
                                   .steps = options.steps,
                                   .slots = options.slots,
                                   .checked = !options.no_check,
                                   .prefetch = options.prefetch,
                                   .text = text.path};
  fmt::print("{}", format_table(description, reports));
  return passed(reports) ? 0 : 1;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::Options options;
  CLI::App app("Forward pass of a Mixture-of-Experts model whose tokens stay in place");
  moe::add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  if (options.slots == 0) options.slots = options.prefetch ? 8 : 3;
  if (options.shape.top_k > options.shape.experts) {
    fmt::print(stderr, "moe_forward: --top-k {} exceeds --experts {}\n", options.shape.top_k, options.shape.experts);
    return 2;
  }
  try {
    return moe::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "moe_forward: {}\n", error.what());
  }
  return 2;
}
