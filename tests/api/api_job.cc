// SPDX-License-Identifier: Apache-2.0
#include "tests/api/api_job.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <stdexcept>
#include <thread>

namespace cardea::test {

cardea_error_info_t last_error() {
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  return info;
}

void must(cardea_status_t status, const char* call) {
  if (status == CARDEA_OK) return;
  throw std::runtime_error(std::string(call) + ": " + cardea_status_string(status) + ": " + last_error().message);
}

::testing::AssertionResult refused(cardea_status_t expected, std::initializer_list<const char*> words,
                                   cardea_status_t status) {
  const std::string message = status == CARDEA_OK ? "" : last_error().message;
  const auto failure = [&] {
    return ::testing::AssertionFailure() << "answered " << cardea_status_string(status) << " \"" << message << "\", not "
                                         << cardea_status_string(expected) << "; ";
  };
  if (status != expected) return failure();
  if (last_error().status != status) return failure() << "cardea_last_error has another status";
  for (const char* const word : words) {
    if (message.find(word) == std::string::npos) return failure() << "the message does not say \"" << word << "\"";
  }
  return ::testing::AssertionSuccess();
}

// ---------------------------------------------------------------- joining

namespace {
constexpr std::size_t kCellBytes = 32768;
constexpr unsigned kRounds = 16;
}  // namespace

struct SharedExchange::Cell {
  std::atomic<bool> given;
  std::byte data[kCellBytes];
};

SharedExchange::SharedExchange(unsigned world_size) : world_size_(world_size), seats_(world_size) {
  void* const memory =
      mmap(nullptr, sizeof(Cell) * kRounds * world_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  cells_ = static_cast<Cell*>(memory);  // all zero: nothing is given
}

SharedExchange::~SharedExchange() {
  munmap(cells_, sizeof(Cell) * kRounds * world_size_);
}

int SharedExchange::allgather(void* user, const void* mine, std::size_t bytes, void* all) {
  Seat& seat = *static_cast<Seat*>(user);
  SharedExchange& in = *seat.exchange;
  if (bytes > kCellBytes || seat.round == kRounds) return 1;
  Cell* const round = in.cells_ + static_cast<std::size_t>(seat.round++) * in.world_size_;
  std::memcpy(round[seat.rank].data, mine, bytes);
  round[seat.rank].given.store(true, std::memory_order_release);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (unsigned rank = 0; rank < in.world_size_; ++rank) {
    while (!round[rank].given.load(std::memory_order_acquire)) {
      if (std::chrono::steady_clock::now() > deadline) return 2;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    std::memcpy(static_cast<std::byte*>(all) + rank * bytes, round[rank].data, bytes);
  }
  return 0;
}

cardea_config_t SharedExchange::config(unsigned rank, const char* node) {
  seats_[rank] = {this, rank, seats_[rank].round};
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.bootstrap = CARDEA_BOOTSTRAP_EXCHANGE;
  config.rank = rank;
  config.world_size = world_size_;
  config.exchange = &SharedExchange::allgather;
  config.exchange_user = &seats_[rank];
  config.node_id = node;
  config.setup_timeout = kPatience;
  return config;
}

Job::Job(SharedExchange& exchange, unsigned own_rank, const char* node, std::uint64_t setup_timeout) : rank(own_rank) {
  cardea_config_t config = exchange.config(rank, node);
  config.setup_timeout = setup_timeout;
  CARDEA_MUST(cardea_context_create(&config, &context));
  CARDEA_MUST(cardea_group_create(context, nullptr, 0, &all));
}

Job::Job(const cardea_config_t& config) : rank(config.rank) {
  CARDEA_MUST(cardea_context_create(&config, &context));
  CARDEA_MUST(cardea_group_create(context, nullptr, 0, &all));
}

Job::Job(cardea_context_t joined, unsigned joined_as) : context(joined), rank(joined_as) {
  CARDEA_MUST(cardea_group_create(context, nullptr, 0, &all));
}

Job::~Job() {
  leave();
}

cardea_status_t Job::leave() {
  return cardea_context_destroy(context);
}

cardea_group_t Job::group(const std::vector<std::uint32_t>& ranks) const {
  cardea_group_t group{};
  CARDEA_MUST(cardea_group_create(context, ranks.data(), static_cast<std::uint32_t>(ranks.size()), &group));
  return group;
}

cardea_counters_t Job::counters() const {
  cardea_counters_t counters = CARDEA_COUNTERS_INIT;
  CARDEA_MUST(cardea_counters_query(context, &counters));
  return counters;
}

// ---------------------------------------------------------------- weights

namespace {

void fill(std::byte* to, std::uint64_t bytes, std::uint32_t layer_id, std::uint32_t expert, std::uint32_t segment,
          std::uint64_t version) {
  std::seed_seq seed{layer_id, expert, segment, static_cast<std::uint32_t>(version)};
  std::mt19937 random(seed);
  for (std::uint64_t i = 0; i < bytes; i += sizeof(std::uint32_t)) {
    const auto word = static_cast<std::uint32_t>(random());
    std::memcpy(to + i, &word, std::min<std::uint64_t>(sizeof word, bytes - i));
  }
}

}  // namespace

std::vector<cardea_segment_t> segments_of(const std::vector<std::uint64_t>& bytes) {
  static const char* const kNames[CARDEA_MAX_SEGMENTS] = {"w0", "w1", "w2",  "w3",  "w4",  "w5",  "w6",  "w7",
                                                          "w8", "w9", "w10", "w11", "w12", "w13", "w14", "w15"};
  std::vector<cardea_segment_t> segments;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    cardea_segment_t segment = CARDEA_SEGMENT_INIT;
    segment.name = kNames[i];
    segment.bytes = bytes[i];
    segments.push_back(segment);
  }
  return segments;
}

Slab::Slab(const Job& job, const std::vector<std::uint64_t>& segments, std::uint32_t slots) {
  const std::vector<cardea_segment_t> described = segments_of(segments);
  cardea_slab_desc_t desc = CARDEA_SLAB_DESC_INIT;
  desc.segments = described.data();
  desc.num_segments = static_cast<std::uint32_t>(described.size());
  desc.num_slots = slots;
  CARDEA_MUST(cardea_slab_create(job.context, &desc, &handle));
  poison();
}

Slab::Slab(const Job& job, const std::vector<std::uint64_t>& segments, std::uint32_t slots, std::uint32_t first) {
  const std::vector<cardea_segment_t> described = segments_of(segments);
  std::vector<cardea_placement_t> placements;
  for (const std::uint64_t bytes : segments) {
    const std::uint64_t stride = bytes + 64;  // what lies between the rows must stay untouched
    arrays.emplace_back((first + slots) * stride, std::byte{0xEE});
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = arrays.back().data();
    placement.stride = stride;
    placements.push_back(placement);
  }
  cardea_slab_desc_t desc = CARDEA_SLAB_DESC_INIT;
  desc.segments = described.data();
  desc.num_segments = static_cast<std::uint32_t>(described.size());
  desc.num_slots = slots;
  desc.first_slot = first;
  desc.placements = placements.data();
  CARDEA_MUST(cardea_slab_create(job.context, &desc, &handle));
}

cardea_slab_info_t Slab::info() const {
  cardea_slab_info_t info = CARDEA_SLAB_INFO_INIT;
  CARDEA_MUST(cardea_slab_query(handle, &info));
  return info;
}

void Slab::poison() const {
  const cardea_slab_info_t at = info();
  for (std::size_t segment = 0; segment < CARDEA_MAX_SEGMENTS && at.base[segment] != nullptr; ++segment) {
    auto* const rows = static_cast<std::byte*>(at.base[segment]);
    std::memset(rows + at.first_slot * at.stride[segment], 0xEE, at.num_slots * at.stride[segment]);
  }
}

Layer::Layer(const Job& job, cardea_group_t group, Shape shape) : shape_(std::move(shape)) {
  CARDEA_MUST(cardea_group_query(group, &group_));
  std::uint64_t total = 0;
  for (const std::uint64_t bytes : shape_.segments) total += bytes * shape_.per_rank;
  std::byte* at = nullptr;
  if (shape_.mapped) {
    CARDEA_MUST(cardea_memory_alloc(job.context, total, CARDEA_MEMORY_HOST, &memory));
    cardea_memory_info_t where = CARDEA_MEMORY_INFO_INIT;
    CARDEA_MUST(cardea_memory_query(memory, &where));
    at = static_cast<std::byte*>(where.address);
  } else {
    at = private_.emplace_back(total).data();
  }
  std::vector<cardea_placement_t> placements;
  for (const std::uint64_t bytes : shape_.segments) {
    base_.push_back(at);
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = at;
    placement.stride = bytes;
    placements.push_back(placement);
    at += bytes * shape_.per_rank;
  }
  if (shape_.slots != 0) slab = Slab(job, shape_.segments, shape_.slots);

  const std::vector<cardea_segment_t> segments = segments_of(shape_.segments);
  const std::vector<std::uint32_t> local = homed_at(index());
  cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
  desc.layer_id = shape_.layer_id;
  desc.num_experts = experts();
  desc.segments = segments.data();
  desc.num_segments = static_cast<std::uint32_t>(segments.size());
  desc.num_local = static_cast<std::uint32_t>(local.size());
  desc.local_experts = local.data();
  desc.placements = placements.data();
  desc.slab = slab.handle;
  CARDEA_MUST(cardea_layer_create(group, &desc, &handle));
}

std::vector<std::uint32_t> Layer::homed_at(std::uint32_t member) const {
  std::vector<std::uint32_t> experts;
  for (std::uint32_t i = 0; i < shape_.per_rank; ++i) experts.push_back(member * shape_.per_rank + i);
  return experts;
}

std::vector<std::uint32_t> Layer::everything() const {
  std::vector<std::uint32_t> all(experts());
  for (std::uint32_t e = 0; e < all.size(); ++e) all[e] = e;
  return all;
}

void Layer::write(std::uint64_t version) {
  const std::vector<std::uint32_t> local = homed_at(index());
  for (std::uint32_t segment = 0; segment < shape_.segments.size(); ++segment) {
    const std::uint64_t bytes = shape_.segments[segment];
    for (std::size_t i = 0; i < local.size(); ++i)
      fill(base_[segment] + i * bytes, bytes, shape_.layer_id, local[i], segment, version);
  }
}

void Layer::publish(std::uint64_t version) {
  write(version);
  CARDEA_MUST(cardea_publish(handle, version, nullptr));
}

void Layer::finish(std::uint64_t version) const {
  CARDEA_MUST(cardea_finish(handle, version, nullptr));
}

void Layer::collect(std::uint64_t version) const {
  CARDEA_MUST(cardea_collect(handle, version, nullptr, kPatience));
}

cardea_fetch_desc_t Layer::want(std::uint64_t version, const std::vector<std::uint32_t>& experts,
                                std::uint32_t flags) const {
  cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
  desc.version = version;
  desc.experts = experts.data();
  desc.num_experts = static_cast<std::uint32_t>(experts.size());
  desc.flags = flags;
  return desc;
}

cardea_fetch_t Layer::fetch(std::uint64_t version, const std::vector<std::uint32_t>& experts, std::uint32_t flags) const {
  const cardea_fetch_desc_t desc = want(version, experts, flags);
  cardea_fetch_t fetch{};
  CARDEA_MUST(cardea_fetch(handle, &desc, &fetch));
  return fetch;
}

::testing::AssertionResult Layer::right(const cardea_view_t& view, std::uint64_t version) const {
  const auto wrong = [&] { return ::testing::AssertionFailure() << "expert " << view.expert << ": "; };
  if (view.status != CARDEA_OK) return wrong() << cardea_status_string(view.status);
  if (view.id == 0) return wrong() << "a view without id";
  if (view.version != version) return wrong() << "version " << view.version << ", not " << version;
  if (view.num_segments != shape_.segments.size()) return wrong() << view.num_segments << " segments";
  std::uint32_t present = 0;
  for (std::uint32_t segment = 0; segment < view.num_segments; ++segment) {
    if (view.segments[segment] == nullptr) continue;
    ++present;
    std::vector<std::byte> expected(shape_.segments[segment]);
    fill(expected.data(), expected.size(), shape_.layer_id, view.expert, segment, version);
    const auto* const found = static_cast<const std::byte*>(view.segments[segment]);
    const auto [at, e] = std::mismatch(found, found + expected.size(), expected.begin());
    if (e != expected.end()) {
      return wrong() << "segment " << segment << " differs from byte " << at - found << " of " << expected.size()
                     << " on, by path " << cardea_path_string(view.path);
    }
  }
  if (present == 0) return wrong() << "no segment is there";
  return ::testing::AssertionSuccess();
}

// ---------------------------------------------------------------- views

std::vector<cardea_view_t> next(cardea_fetch_t fetch, std::uint32_t max, std::uint64_t timeout, cardea_status_t* status) {
  std::vector<cardea_view_t> views(max, cardea_view_t CARDEA_VIEW_INIT);
  std::uint32_t count = 0;
  const cardea_status_t got = cardea_next(fetch, views.data(), max, &count, timeout);
  if (status != nullptr) *status = got;
  views.resize(count);
  return views;
}

std::vector<cardea_view_t> drain(cardea_fetch_t fetch) {
  std::vector<cardea_view_t> all;
  for (;;) {
    cardea_status_t status = CARDEA_OK;
    const std::vector<cardea_view_t> views = next(fetch, 3, kPatience, &status);
    must(status, "cardea_next");
    if (views.empty()) return all;
    all.insert(all.end(), views.begin(), views.end());
  }
}

std::uint32_t read_all(const Layer& layer, cardea_fetch_t fetch, std::uint64_t version) {
  std::uint32_t count = 0;
  for (;;) {
    cardea_status_t status = CARDEA_OK;
    const std::vector<cardea_view_t> views = next(fetch, 2, kPatience, &status);
    must(status, "cardea_next");
    if (views.empty()) break;
    for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, version));
    count += static_cast<std::uint32_t>(views.size());
    release(views);
  }
  CARDEA_MUST(cardea_fetch_destroy(fetch));
  return count;
}

cardea_fetch_info_t info_of(cardea_fetch_t fetch) {
  cardea_fetch_info_t info = CARDEA_FETCH_INFO_INIT;
  CARDEA_MUST(cardea_fetch_query(fetch, &info));
  return info;
}

void release(const std::vector<cardea_view_t>& views) {
  CARDEA_MUST(cardea_release(views.data(), static_cast<std::uint32_t>(views.size())));
}

}  // namespace cardea::test
