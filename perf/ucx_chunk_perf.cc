// SPDX-License-Identifier: Apache-2.0
// How fast the ucx transport moves experts between two processes, beside UCX's own active messages on the same path. Runs
// are interleaved, since machines drift; medians are printed. UCX_TLS=tcp,self is set unless the caller chose.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>

#include "lib/base/asio.h"
#include "lib/transport/ucx/factory.h"
#include "perf/two_ranks.h"
#include "perf/ucx_raw_am.h"

namespace cardea::perf {
namespace {

constexpr double kGiga = 1e9;

struct Settings {
  std::vector<std::size_t> sizes = {256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20};
  std::size_t expert = 16 << 20;
  std::size_t total = 512 << 20;
  std::size_t in_flight = 8;
  std::size_t window = 8;
  unsigned runs = 10;
  unsigned spin_us = 0;
  bool eager = false;
  bool streams = true;
};

// Rank 0 lends from one expert; rank 1 pulls it again and again, chunk by chunk.
class Engine final : public transport::Listener {
 public:
  Engine(const Settings& settings, Rank self, int link) : settings_(settings), expert_(settings.expert, std::byte{1}) {
    transport::UcxOptions options;
    options.self = self;
    options.job_id = "perf";
    options.get = transport::GetPolicy::kNever;
    options.stream = settings.eager ? transport::StreamProtocol::kEager : transport::StreamProtocol::kRendezvous;
    options.stream_connections = settings.streams;
    options.spin = std::chrono::microseconds(settings.spin_us);
    auto made = transport::make_ucx_transport(io_, *this, options);
    if (!made.ok()) throw std::runtime_error(made.status().message());
    transport_ = std::move(*made);
    const Bytes mine = transport_->address();
    std::size_t length = mine.size();
    give(link, &length, sizeof(length));
    give(link, mine.data(), length);
    take(link, &length, sizeof(length));
    Bytes theirs(length);
    take(link, theirs.data(), length);
    const std::pair<Rank, Bytes> peer{1 - self, theirs};
    if (auto status = transport_->connect({&peer, 1}); !status.ok()) throw std::runtime_error(status.message());
  }

  double pull(std::size_t chunk) {
    chunk_ = chunk;
    left_ = done_left_ = settings_.in_flight;  // warm-up, and the connection
    rounds(settings_.in_flight);
    left_ = done_left_ = std::max<std::size_t>(settings_.total / chunk, 1);
    const std::size_t bytes = left_ * chunk;
    const auto start = Clock::now();
    rounds(settings_.in_flight);
    const std::chrono::duration<double> took = Clock::now() - start;
    transport_->send(0, Bytes(1));
    close();
    return static_cast<double>(bytes) / took.count();
  }

  void serve() {
    while (!told_to_end_) io_.run_one();
    close();
  }

 private:
  void close() {
    bool closed = false;
    transport_->close([&] { closed = true; });
    while (!closed) io_.run_one();
  }
  void rounds(std::size_t in_flight) {
    for (std::size_t i = 0; i < in_flight && left_ > 0; ++i) start_one();
    while (done_left_ > 0) io_.run_one();
  }
  void start_one() {
    --left_;
    transport::ChunkOrder order;
    order.token = next_token_++;
    order.source = 0;
    order.offset = at_;
    order.bytes = chunk_;
    order.destination = {{expert_.data() + at_, chunk_}};
    at_ = at_ + 2 * chunk_ <= expert_.size() ? at_ + chunk_ : 0;
    transport_->start(std::move(order));
  }

  void on_message(Rank, ByteView) override { told_to_end_ = true; }
  void on_chunk_done(transport::ChunkToken, const Status& status) override {
    if (!status.ok()) throw std::runtime_error(status.message());
    --done_left_;
    if (left_ > 0) start_one();
  }
  void on_peer_lost(Rank, const Status&) override { told_to_end_ = true; }
  Result<transport::Lease> lend(Rank, const transport::ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) override {
    if (offset > expert_.size() || bytes > expert_.size() - offset)
      return Status(CARDEA_ERR_INVALID_ARGUMENT, "out of range");
    return transport::Lease{0, {{expert_.data() + offset, bytes}}};
  }
  void give_back(std::uint64_t, std::uint64_t) override {}

  const Settings& settings_;
  boost::asio::io_context io_;
  Bytes expert_;
  std::unique_ptr<transport::Transport> transport_;
  std::size_t chunk_ = 0;
  std::size_t at_ = 0;
  std::size_t left_ = 0;
  std::size_t done_left_ = 0;
  transport::ChunkToken next_token_ = 1;
  bool told_to_end_ = false;
};

double run_pair(const std::function<void(int)>& source, const std::function<double(int)>& sink) {
  return run_two(source, [&](int link) { return std::vector<double>{sink(link)}; })[0];
}

double raw_rate(const Settings& settings, std::size_t bytes, RawProtocol protocol) {
  const std::size_t count = std::max<std::size_t>(settings.total / bytes, 1);
  return run_pair([&](int link) { raw_send(link, bytes, count, settings.window, settings.expert, protocol); },
                  [&](int link) { return raw_receive(link, bytes, count, settings.window, settings.expert); });
}

double chunk_rate(const Settings& settings, std::size_t bytes) {
  return run_pair([&](int link) { Engine(settings, 0, link).serve(); },
                  [&](int link) { return Engine(settings, 1, link).pull(bytes); });
}

void measure(const Settings& settings) {
  struct Row {
    std::vector<double> standard, eager, rendezvous, chunks;
  };
  std::map<std::size_t, Row> rows;
  for (unsigned run = 0; run < settings.runs; ++run) {
    for (const std::size_t size : settings.sizes) {
      Row& row = rows[size];
      row.standard.push_back(raw_rate(settings, size, RawProtocol::kDefault));
      if (size <= settings.expert) row.chunks.push_back(chunk_rate(settings, size));
      row.eager.push_back(raw_rate(settings, size, RawProtocol::kEager));
      row.rendezvous.push_back(raw_rate(settings, size, RawProtocol::kRendezvous));
    }
  }
  double best = 0;
  for (const auto& [size, row] : rows)
    best = std::max({best, median(row.standard), median(row.eager), median(row.rendezvous)});
  std::printf("UCX %s, UCX_TLS=%s, %u interleaved runs of %zu MiB, medians in GB/s\n", transport::ucx_version().c_str(),
              std::getenv("UCX_TLS"), settings.runs, settings.total >> 20);
  std::printf("raw: window %zu, polling. chunks: experts of %zu KiB, %zu in flight, %s\n\n", settings.window,
              settings.expert >> 10, settings.in_flight, settings.eager ? "eager" : "rendezvous");
  std::printf("%10s %10s %10s %10s %10s %10s %10s\n", "size", "raw", "raw eager", "raw rndv", "chunks", "of raw", "of best");
  for (const auto& [size, row] : rows) {
    const double raw = std::max({median(row.standard), median(row.eager), median(row.rendezvous)});
    std::printf("%6zu KiB %10.2f %10.2f %10.2f ", size >> 10, median(row.standard) / kGiga, median(row.eager) / kGiga,
                median(row.rendezvous) / kGiga);
    if (row.chunks.empty()) {
      std::printf("%10s %10s %10s\n", "-", "-", "-");
      continue;
    }
    const double chunks = median(row.chunks);
    std::printf("%10.2f %9.0f%% %9.0f%%\n", chunks / kGiga, 100 * chunks / raw, 100 * chunks / best);
  }
  std::printf("\nbest active-message rate %.2f GB/s\n", best / kGiga);
}

}  // namespace
}  // namespace cardea::perf

int main(int argc, char** argv) {
  cardea::perf::Settings settings;
  CLI::App app("Rate of the ucx transport's chunks beside UCX's raw active messages");
  app.add_option("-s,--sizes", settings.sizes, "message and chunk sizes")->transform(CLI::AsSizeValue(false));
  app.add_option("-e,--expert", settings.expert, "bytes of an expert")->transform(CLI::AsSizeValue(false));
  app.add_option("-t,--total", settings.total, "bytes moved in a run")->transform(CLI::AsSizeValue(false));
  app.add_option("-k,--in-flight", settings.in_flight, "chunks in flight");
  app.add_option("-w,--window", settings.window, "raw messages in flight");
  app.add_option("-n,--runs", settings.runs, "interleaved runs");
  app.add_option("--spin", settings.spin_us, "transport polls for this many us before it sleeps");
  app.add_flag("--eager", settings.eager, "stream chunks by eager messages");
  app.add_flag("!--no-streams", settings.streams, "chunks travel with the messages, not by connections of their own");
  CLI11_PARSE(app, argc, argv);
  setenv("UCX_TLS", "tcp,self", 0);
  try {
    cardea::perf::measure(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ucx_chunk_perf: %s\n", error.what());
    return 1;
  }
  return 0;
}
