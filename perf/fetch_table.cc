// SPDX-License-Identifier: Apache-2.0
#include "perf/fetch_table.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "perf/expert_pattern.h"
#include "perf/fetch_rank.h"
#include "perf/two_ranks.h"

namespace cardea::perf {
namespace {

/// A way for experts to come, and what is measured beside it.
struct Way {
  bool two_nodes = false, moves = true;
  std::uint32_t flags = CARDEA_FETCH_DEFAULT;
};

Way way_named(const std::string& name) {
  if (name == "mapped") return {.moves = false};
  if (name == "copy") return {.flags = CARDEA_FETCH_SLOTS};
  if (name == "network") return {.two_nodes = true};
  throw std::runtime_error("unknown way " + name);
}

/// Both ends of a TCP connection over loopback, made before the ranks are.
struct SocketPair {
  int ends[2] = {-1, -1};

  SocketPair() {
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const raw = reinterpret_cast<sockaddr*>(&address);
    ends[1] = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool made = listener >= 0 && ends[1] >= 0 && ::bind(listener, raw, length) == 0 && ::listen(listener, 1) == 0 &&
                      ::getsockname(listener, raw, &length) == 0 && ::connect(ends[1], raw, length) == 0;
    if (made) ends[0] = ::accept(listener, nullptr, nullptr);
    ::close(listener);
    if (ends[0] < 0) throw std::runtime_error("no TCP connection over loopback");
  }
  ~SocketPair() {
    for (const int end : ends) ::close(end);
  }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
};

std::span<std::byte> expert_at(void* memory, std::size_t bytes, std::uint32_t expert) {
  return {static_cast<std::byte*>(memory) + bytes * expert, bytes};
}

void serve(int link, int socket, const TableSettings& settings, const Way& way, std::size_t bytes) {
  FetchRank rank(link, 0, way.two_nodes);
  rank.make_layer(bytes, settings.experts, false);
  void* const weights = rank.weights();
  for (std::uint64_t version = 1; version <= settings.warmup + settings.iterations; ++version) {
    if (settings.check) {
      for (std::uint32_t e = 0; e < settings.experts; ++e) write_pattern({0, e, 0, version}, expert_at(weights, bytes, e));
    }
    if (settings.spoil) static_cast<std::byte*>(weights)[bytes / 2] ^= std::byte{1};
    rank.publish(version);
    rank.finish(version);
    rank.collect(version);
    if (!way.two_nodes) continue;
    char go = 1;
    give(socket, &go, 1);  // the version is over, and nothing but this goes on
    take(socket, &go, 1);
    give(socket, weights, bytes * settings.experts);
  }
  rank.drop_layer();
}

/// Times of the iterations, then those of the raw limit, then the wrong bytes.
std::vector<double> ask(int link, int socket, const TableSettings& settings, const Way& way, std::size_t bytes) {
  FetchRank rank(link, 1, way.two_nodes);
  rank.make_layer(bytes, settings.experts, way.moves);
  const std::size_t all = bytes * settings.experts;
  std::vector<std::byte> from(way.moves && !way.two_nodes ? all : 1, std::byte{1}), to(way.moves ? all : 1, std::byte{2});
  std::vector<double> times, limits;
  std::uint64_t wrong = 0;
  for (std::uint64_t version = 1; version <= settings.warmup + settings.iterations; ++version) {
    rank.await(version);
    const auto look = [&](const cardea_view_t& view) {
      if (!settings.check) return;
      const auto* const data = static_cast<const std::byte*>(view.segments[0]);
      if (!first_wrong_byte({0, view.expert, 0, version}, std::span(data, bytes))) return;
      std::vector<std::byte> right(bytes);
      write_pattern({0, view.expert, 0, version}, right);
      for (std::size_t i = 0; i < bytes; ++i) wrong += data[i] != right[i];
    };
    const double took = rank.fetch_held(version, settings.experts, look, way.flags);
    rank.finish(version);
    double limit = 0;
    if (way.two_nodes) {
      char go = 0;
      take(socket, &go, 1);
      const auto start = Clock::now();
      give(socket, &go, 1);
      take(socket, to.data(), all);
      limit = seconds_since(start);
    } else if (way.moves) {
      const auto start = Clock::now();
      std::memcpy(to.data(), from.data(), all);
      asm volatile("" : : "r"(to.data()) : "memory");
      limit = seconds_since(start);
    }
    if (version <= settings.warmup) continue;
    times.push_back(took);
    limits.push_back(limit);
  }
  rank.drop_layer();
  times.insert(times.end(), limits.begin(), limits.end());
  times.push_back(static_cast<double>(wrong));
  return times;
}

double ucx_rate(const TableSettings& settings, std::size_t bytes) {
  // Messages of the size that is best for UCX on most machines, but never larger than the expert.
  const std::size_t message = std::min<std::size_t>(bytes, 4 << 20);
  const std::size_t footprint = bytes * settings.experts;
  const std::size_t count = std::max<std::size_t>(footprint * settings.iterations / message, 1);
  constexpr std::size_t kWindow = 8;
  return run_two([&](int link) { raw_send(link, message, count, kWindow, footprint, RawProtocol::kDefault); },
                 [&](int link) { return std::vector<double>{raw_receive(link, message, count, kWindow, footprint)}; })[0];
}

std::string size_text(std::size_t bytes) {
  return fmt::to_string(bytes);
}

}  // namespace

double TableRow::time() const {
  return times.empty() ? 0 : std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
}

double TableRow::ratio() const {
  double best = 0;
  for (const RawLimit& limit : limits) best = std::max(best, limit.rate);
  return best == 0 ? 0 : algbw() / best;
}

TableRow measure_row(const TableSettings& settings, const std::string& name, std::size_t bytes) {
  const Way way = way_named(name);
  const SocketPair socket;
  const std::vector<double> values = run_two([&](int link) { serve(link, socket.ends[0], settings, way, bytes); },
                                             [&](int link) { return ask(link, socket.ends[1], settings, way, bytes); });
  if (values.size() != 2 * settings.iterations + 1) throw std::runtime_error("a rank reported something else");
  const auto middle = values.begin() + settings.iterations;
  TableRow row{name, bytes, settings.experts, {values.begin(), middle}, 0, way.moves, {}};
  row.wrong = static_cast<std::uint64_t>(values.back());
  if (!way.moves) return row;
  const double raw = std::accumulate(middle, values.end() - 1, 0.0) / settings.iterations;
  row.limits.push_back({way.two_nodes ? "socket" : "memcpy", static_cast<double>(bytes) * settings.experts / raw});
  if (way.two_nodes) row.limits.push_back({"UCX AM", ucx_rate(settings, bytes)});
  return row;
}

std::vector<std::size_t> sizes_of(const TableSettings& settings) {
  std::vector<std::size_t> sizes;
  for (std::size_t bytes = settings.least; bytes <= settings.most;) {
    sizes.push_back(bytes);
    bytes = settings.step != 0 ? bytes + settings.step
                               : std::max(bytes + 1, static_cast<std::size_t>(static_cast<double>(bytes) * settings.factor));
  }
  return sizes;
}

std::string table_head(const TableSettings& settings) {
  std::string text = fmt::format(
      "# minBytes {} maxBytes {} {} warmup iters {} iters {} experts {} check {}\n"
      "# time: from cardea_fetch to the last of the experts being ready; size: of an expert; raw limits between the same "
      "iterations\n#\n",
      settings.least, settings.most,
      settings.step != 0 ? fmt::format("step {} bytes", settings.step) : fmt::format("step {}(factor)", settings.factor),
      settings.warmup, settings.iterations, settings.experts, settings.check ? 1 : 0);
  text +=
      fmt::format("# {:<8} {:>12} {:>6} {:>10} {:>8} {:>8} {:>7} {:>10} {:>10}   {:>8} {:>8} {:>8} {:>6}\n", "path", "size",
                  "count", "time", "algbw", "busbw", "#wrong", "p50", "p99", "memcpy", "socket", "UCX AM", "ratio");
  text += fmt::format("# {:<8} {:>12} {:>6} {:>10} {:>8} {:>8} {:>7} {:>10} {:>10}   {:>8} {:>8} {:>8} {:>6}\n", "", "(B)",
                      "", "(us)", "(GB/s)", "(GB/s)", "(B)", "(us)", "(us)", "(GB/s)", "(GB/s)", "(GB/s)", "");
  return text;
}

std::string to_line(const TableRow& row) {
  const auto rate = [](double value) { return value == 0 ? std::string("-") : fmt::format("{:.2f}", value * 1e-9); };
  const auto limit = [&](const char* name) {
    for (const RawLimit& of : row.limits) {
      if (of.name == name) return rate(of.rate);
    }
    return std::string("-");
  };
  return fmt::format("  {:<8} {:>12} {:>6} {:>10.2f} {:>8} {:>8} {:>7} {:>10.2f} {:>10.2f}   {:>8} {:>8} {:>8} {:>6}\n",
                     row.way, size_text(row.bytes), row.experts, row.time() * 1e6, row.moves ? rate(row.algbw()) : "-",
                     row.moves ? rate(row.busbw()) : "-", row.wrong, percentile(row.times, 0.5) * 1e6,
                     percentile(row.times, 0.99) * 1e6, limit("memcpy"), limit("socket"), limit("UCX AM"),
                     row.moves ? fmt::format("{:.2f}", row.ratio()) : "-");
}

std::string table_foot(const std::vector<TableRow>& rows) {
  std::uint64_t wrong = 0;
  double sum = 0;
  unsigned moving = 0;
  for (const TableRow& row : rows) {
    wrong += row.wrong;
    if (!row.moves) continue;
    sum += row.busbw();
    ++moving;
  }
  return fmt::format("# Out of bounds values : {} {}\n# Avg bus bandwidth    : {:.4f}\n", wrong,
                     wrong == 0 ? "OK" : "FAILED", moving == 0 ? 0 : sum / moving * 1e-9);
}

std::string to_json(const TableSettings& settings, const std::vector<TableRow>& rows) {
  nlohmann::ordered_json out;
  out["tool"] = "fetch_perf";
  out["iterations"] = settings.iterations;
  out["warmup"] = settings.warmup;
  out["check"] = settings.check;
  out["rows"] = nlohmann::ordered_json::array();
  for (const TableRow& row : rows) {
    nlohmann::ordered_json one;
    one["path"] = row.way;
    one["bytes"] = row.bytes;
    one["experts"] = row.experts;
    one["time_us"] = row.time() * 1e6;
    one["p50_us"] = percentile(row.times, 0.5) * 1e6;
    one["p99_us"] = percentile(row.times, 0.99) * 1e6;
    one["wrong_bytes"] = row.wrong;
    if (row.moves) {
      one["algbw_gbps"] = row.algbw() * 1e-9;
      one["busbw_gbps"] = row.busbw() * 1e-9;
      one["ratio"] = row.ratio();
    }
    one["limits_gbps"] = nlohmann::ordered_json::object();
    for (const RawLimit& limit : row.limits) one["limits_gbps"][limit.name] = limit.rate * 1e-9;
    out["rows"].push_back(std::move(one));
  }
  return out.dump(2) + "\n";
}

}  // namespace cardea::perf
