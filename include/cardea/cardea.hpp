// SPDX-License-Identifier: Apache-2.0
//
// The C++20 face of cardea.h: header only, over the C interface alone. What a call does, and every status with its cause, is
// documented there; here is what C++ adds.
//
//  * Handles own. Context, Group, Memory, Slab, Layer, Fetch and View are move-only; a destructor frees or releases what it
//    holds and ignores the outcome, close() does the same and throws. Objects of a context that is gone are harmless to
//    destroy, so the order of destruction does not matter for safety; it does for BUSY: destroy views, then fetches, then
//    layers, then slabs, memory and groups. Locals declared in the order context, group, memory, slab, layer do so.
//  * Failures are exceptions of type Error, which carry the cardea_error_info_t. What is normal in polling (IN_PROGRESS,
//    TIMEOUT) is a value in the try_ functions, and an exception in the others.
//  * Threads: as in C, any thread may call anything; a single C++ object is not to be used by two threads at once when one
//  of
//    them moves, closes or destroys it.
//  * Waiting takes std::chrono durations; `forever` waits for as long as it takes. Negative ones poll.
//  * What waits inside a ready callback throws UNSUPPORTED, and an exception must not leave a callback.
//
//   namespace cx = cardea::api;
//   cx::Context job;                                    // rank and size from cardea-run, torchrun, Open MPI or Slurm
//   ...
//   for (cx::View& expert : fetch.views()) compute(expert.segment<float>(0), expert.segment<float>(1));
#ifndef CARDEA_CARDEA_HPP
#define CARDEA_CARDEA_HPP

#include <cardea/cardea.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace cardea::api {
inline namespace v0 {

/// Waits for as long as it takes.
// NOLINTNEXTLINE(readability-identifier-naming)
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

// ---------------------------------------------------------------- errors

/// A call that failed. what() reads "cardea_fetch: CARDEA_ERR_STALE: version 3 of layer 0 was finished".
class Error : public std::runtime_error {
 public:
  Error(const std::string& call, const cardea_error_info_t& info)
      : std::runtime_error(call + ": " + cardea_status_string(info.status) + (info.message[0] != '\0' ? ": " : "") +
                           info.message),
        info_(info) {}

  cardea_status_t status() const noexcept { return info_.status; }
  /// Peer, layer, expert, path and bytes, where they are known.
  const cardea_error_info_t& info() const noexcept { return info_; }

 private:
  cardea_error_info_t info_;
};

namespace detail {

[[noreturn]] inline void fail(const char* call, cardea_status_t status) {
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  // IN_PROGRESS is no failure in C, so that the last error is then of another call.
  if (status == CARDEA_IN_PROGRESS || cardea_last_error(&info) != CARDEA_OK || info.status != status) {
    info = CARDEA_ERROR_INFO_INIT;
    info.status = status;
  }
  throw Error(call, info);
}

inline void check(const char* call, cardea_status_t status) {
  if (status != CARDEA_OK) fail(call, status);
}

inline std::uint64_t nanoseconds(std::chrono::nanoseconds timeout) noexcept {
  if (timeout == forever) return CARDEA_FOREVER;
  return timeout.count() > 0 ? static_cast<std::uint64_t>(timeout.count()) : 0;
}

/// What a function writes that cuts its text to the room it is given.
template <typename Write>
std::string text_of(const char* call, Write write) {
  std::string text;
  for (std::size_t needed = 0;;) {
    check(call, write(text.data(), text.size(), &needed));
    if (needed <= text.size()) return text.substr(0, needed - 1);
    text.assign(needed + needed / 8, '\0');  // it may grow meanwhile
  }
}

/// Owns one C handle; Destroy is the C function that frees it.
template <typename C, cardea_status_t (*Destroy)(C)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(C handle) noexcept : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, C{})) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      if (handle_.id != 0) Destroy(handle_);
      handle_ = std::exchange(other.handle_, C{});
    }
    return *this;
  }
  ~Handle() {
    if (handle_.id != 0) Destroy(handle_);
  }

  /// For calls of the C interface; stays owned here.
  C get() const noexcept { return handle_; }
  /// Hands ownership to the caller.
  C release() noexcept { return std::exchange(handle_, C{}); }
  explicit operator bool() const noexcept { return handle_.id != 0; }

  /// Frees it now. Throws, and keeps the handle, when the C function refuses (BUSY). May be called twice.
  void close() {
    if (handle_.id == 0) return;
    check("close", Destroy(handle_));
    handle_ = C{};
  }

 private:
  C handle_{};
};

}  // namespace detail

// ---------------------------------------------------------------- shapes

/// One part of every expert, such as w13 or w2: cardea_segment_t with a string of its own.
struct Segment {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t alignment = 0;
  cardea_dtype_t weight_type = CARDEA_DTYPE_BYTES;
  cardea_dtype_t gradient_type = CARDEA_DTYPE_NONE;
};

/// Where a segment of the local experts lies: at base + i * stride, or, when pointers are given, at pointers[i].
struct Placement {
  void* base = nullptr;
  std::uint64_t stride = 0;
  std::vector<void*> pointers;
};

namespace detail {

inline std::vector<cardea_segment_t> to_c(const std::vector<Segment>& segments) {
  std::vector<cardea_segment_t> out;
  for (const Segment& s : segments) {
    out.push_back({sizeof(cardea_segment_t), s.name.c_str(), s.bytes, s.alignment, s.weight_type, s.gradient_type});
  }
  return out;
}

inline std::vector<cardea_placement_t> to_c(const std::vector<Placement>& placements) {
  std::vector<cardea_placement_t> out;
  for (const Placement& p : placements) {
    out.push_back({sizeof(cardea_placement_t), p.base, p.stride, p.pointers.empty() ? nullptr : p.pointers.data()});
  }
  return out;
}

}  // namespace detail

// ---------------------------------------------------------------- views and fetches

/// One expert of a fetch: readable until this object is destroyed or released, or failed with the status that says why.
class View {
 public:
  View() = default;
  View(View&& other) noexcept : view_(std::exchange(other.view_, empty())), bytes_(std::move(other.bytes_)) {}
  View& operator=(View&& other) noexcept {
    if (this != &other) {
      if (view_.id != 0) cardea_release(&view_, 1);
      view_ = std::exchange(other.view_, empty());
      bytes_ = std::move(other.bytes_);
    }
    return *this;
  }
  ~View() {
    if (view_.id != 0) cardea_release(&view_, 1);
  }

  /// False for an expert that failed, and for a view that was released or moved from.
  bool ok() const noexcept { return view_.id != 0; }
  /// CARDEA_OK, or why there is no expert here.
  cardea_status_t status() const noexcept { return view_.status; }
  /// Throws the failure of a failed view as an Error that names expert and source.
  void check() const {
    if (view_.status == CARDEA_OK) return;
    cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
    info.status = view_.status;
    info.expert = view_.expert;
    info.peer = view_.source;
    info.path = view_.path;
    const std::string what = "expert " + std::to_string(view_.expert) + " from rank " + std::to_string(view_.source);
    what.copy(info.message, sizeof(info.message) - 1);
    throw Error("view", info);
  }

  std::uint32_t expert() const noexcept { return view_.expert; }
  std::uint64_t version() const noexcept { return view_.version; }
  /// Row of the slab, CARDEA_NO_SLOT if it lies elsewhere.
  std::int32_t slot() const noexcept { return view_.slot; }
  cardea_path_t path() const noexcept { return view_.path; }
  std::uint32_t source() const noexcept { return view_.source; }
  std::chrono::nanoseconds ready_after() const noexcept { return std::chrono::nanoseconds(view_.ready_ns); }
  /// False if the rank that it came from was lost or has left by the time of delivery.
  bool source_alive() const noexcept { return view_.source_alive != 0; }

  /// Segment i as an array of T, as long as the segment; empty if it was not asked for or the view failed.
  template <typename T>
  std::span<const T> segment(std::uint32_t i) const noexcept {
    if (i >= view_.num_segments || view_.segments[i] == nullptr || !bytes_ || i >= bytes_->size()) return {};
    return {static_cast<const T*>(view_.segments[i]), static_cast<std::size_t>((*bytes_)[i] / sizeof(T))};
  }

  /// Ends the reading; the spans are invalid from here on. Does nothing to a failed or released view.
  void release() {
    if (view_.id == 0) return;
    const cardea_status_t status = cardea_release(&view_, 1);
    view_.id = 0;
    detail::check("cardea_release", status);
  }

  const cardea_view_t& get() const noexcept { return view_; }

 private:
  friend class Fetch;
  static cardea_view_t empty() noexcept { return CARDEA_VIEW_INIT; }

  cardea_view_t view_ = CARDEA_VIEW_INIT;
  std::shared_ptr<const std::vector<std::uint64_t>> bytes_;  // of each segment
};

/// What a poll of a fetch found.
enum class Progress {
  kReady,    // a view
  kPending,  // nothing yet, and more will come
  kDone      // every expert has been delivered
};

/// Experts on their way. Destroying it cancels what is outstanding; views that were delivered stay valid.
class Fetch : public detail::Handle<cardea_fetch_t, cardea_fetch_destroy> {
 public:
  Fetch() = default;

  /// The next expert, in the order in which they became ready; nothing when all were delivered. A failed expert is a view
  /// that is not ok(). Throws TIMEOUT and WOULD_DEADLOCK.
  std::optional<View> next(std::chrono::nanoseconds timeout = forever) {
    View view;
    const Poll poll = poll_one(view, detail::nanoseconds(timeout));
    detail::check("cardea_next", poll.status);
    if (poll.count == 0) return std::nullopt;
    return view;
  }

  /// As next, but nothing ready within `timeout` is kPending. `view` is replaced (and thereby released) only on kReady.
  Progress try_next(View& view, std::chrono::nanoseconds timeout = {}) {
    View found;
    const Poll poll = poll_one(found, detail::nanoseconds(timeout));
    if (poll.status == CARDEA_IN_PROGRESS || poll.status == CARDEA_ERR_TIMEOUT) return Progress::kPending;
    detail::check("cardea_next", poll.status);
    if (poll.count == 0) return Progress::kDone;
    view = std::move(found);
    return Progress::kReady;
  }

  /// Up to `max` views at once, waiting for the first of them; none when all experts were delivered.
  std::vector<View> next_batch(std::uint32_t max, std::chrono::nanoseconds timeout = forever) {
    std::vector<cardea_view_t> raw(max, View::empty());
    std::vector<View> views(max);
    std::uint32_t count = 0;
    detail::check("cardea_next", cardea_next(get(), raw.data(), max, &count, detail::nanoseconds(timeout)));
    views.resize(count);
    for (std::uint32_t i = 0; i < count; ++i) adopt(views[i], raw[i]);
    return views;
  }

  /// True once every expert is ready or has failed; false if not so within `timeout`. Throws the first failure.
  bool try_wait(std::chrono::nanoseconds timeout = {}) {
    const cardea_status_t status = cardea_wait(get(), detail::nanoseconds(timeout));
    if (status == CARDEA_IN_PROGRESS || status == CARDEA_ERR_TIMEOUT) return false;
    detail::check("cardea_wait", status);
    return true;
  }
  /// As try_wait, but throws TIMEOUT.
  void wait(std::chrono::nanoseconds timeout = forever) {
    detail::check("cardea_wait", cardea_wait(get(), detail::nanoseconds(timeout)));
  }

  void cancel() { detail::check("cardea_cancel", cardea_cancel(get())); }

  cardea_fetch_info_t info() const {
    cardea_fetch_info_t info = CARDEA_FETCH_INFO_INIT;
    detail::check("cardea_fetch_query", cardea_fetch_query(get(), &info));
    return info;
  }

  class Views;
  /// The views still to come, one at a time: `for (View& v : fetch.views())`. Waits up to `timeout` for each. A view is
  /// released when the loop goes on, unless it was moved away. The fetch must outlive the loop (hence no temporaries). A
  /// failed expert is thrown; a new loop goes on after it.
  Views views(std::chrono::nanoseconds timeout = forever) &;

 private:
  friend class Layer;
  struct Poll {
    cardea_status_t status;
    std::uint32_t count;
  };

  Fetch(cardea_fetch_t handle, std::shared_ptr<const std::vector<std::uint64_t>> bytes)
      : Handle(handle), bytes_(std::move(bytes)) {}

  void adopt(View& view, const cardea_view_t& raw) const {
    view.view_ = raw;
    view.bytes_ = bytes_;
  }
  Poll poll_one(View& view, std::uint64_t timeout) const {
    cardea_view_t raw = View::empty();
    std::uint32_t count = 0;
    const cardea_status_t status = cardea_next(get(), &raw, 1, &count, timeout);
    if (status == CARDEA_OK && count == 1) adopt(view, raw);
    return {status, count};
  }

  std::shared_ptr<const std::vector<std::uint64_t>> bytes_;
};

/// The range of a range-for over a fetch; see Fetch::views. Single pass: one iterator at a time.
class Fetch::Views {
 public:
  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using value_type = View;
    using difference_type = std::ptrdiff_t;

    View& operator*() const noexcept { return *views_->current_; }
    View* operator->() const noexcept { return &*views_->current_; }
    Iterator& operator++() {
      views_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const noexcept { return !views_->current_; }

   private:
    friend class Views;
    explicit Iterator(Views* views) noexcept : views_(views) {}
    Views* views_;
  };

  Iterator begin() {
    advance();
    return Iterator(this);
  }
  std::default_sentinel_t end() const noexcept { return {}; }

 private:
  friend class Fetch;
  Views(Fetch& fetch, std::chrono::nanoseconds timeout) noexcept : fetch_(&fetch), timeout_(timeout) {}

  void advance() {
    current_.reset();  // before waiting: the next expert may need this one's slot
    current_ = fetch_->next(timeout_);
    if (current_) current_->check();
  }

  Fetch* fetch_;
  std::chrono::nanoseconds timeout_;
  std::optional<View> current_;
};

inline Fetch::Views Fetch::views(std::chrono::nanoseconds timeout) & {
  return Views(*this, timeout);
}

// ---------------------------------------------------------------- memory and slabs

/// Memory that ranks of the node can map (Context::allocate), or memory of the caller's made known (Context::adopt).
class Memory : public detail::Handle<cardea_memory_t, cardea_memory_free> {
 public:
  using Handle::Handle;

  cardea_memory_info_t info() const {
    cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
    detail::check("cardea_memory_query", cardea_memory_query(get(), &info));
    return info;
  }
  /// All of it as an array of T.
  template <typename T = std::byte>
  std::span<T> as() const {
    const cardea_memory_info_t found = info();
    return {static_cast<T*>(found.address), static_cast<std::size_t>(found.bytes / sizeof(T))};
  }
};

/// Landing memory. A free slot is a credit.
class Slab : public detail::Handle<cardea_slab_t, cardea_slab_destroy> {
 public:
  using Handle::Handle;

  cardea_slab_info_t info() const {
    cardea_slab_info_t info = CARDEA_SLAB_INFO_INIT;
    detail::check("cardea_slab_query", cardea_slab_query(get(), &info));
    return info;
  }
};

struct SlabOptions {
  std::vector<Segment> segments;
  std::uint32_t slots = 1;
  std::uint32_t first_slot = 0;       // only with placements
  std::vector<Placement> placements;  // empty: made by Cardea
  cardea_memory_kind_t kind = CARDEA_MEMORY_HOST;
};

// ---------------------------------------------------------------- layers

struct LayerOptions {
  std::uint32_t layer_id = 0;
  std::uint32_t num_experts = 0;  // over the whole group
  std::vector<Segment> segments;
  std::vector<std::uint32_t> local_experts;  // those of which this rank is a source
  std::vector<std::uint8_t> local_is_home;   // empty: home of them all
  std::vector<Placement> placements;         // one per segment; may be empty if there are no local experts
  const Slab* slab = nullptr;                // where fetches land that name none; must outlive the layer
};

struct FetchOptions {
  std::uint32_t flags = CARDEA_FETCH_DEFAULT;  // cardea_fetch_flags_t
  std::uint64_t segment_mask = 0;              // 0: all
  const Slab* slab = nullptr;                  // null: the layer's
  cardea_ready_fn on_ready = nullptr;          // on the engine thread; must not wait and must not throw
  void* user = nullptr;
  std::chrono::nanoseconds deadline = forever;
};

class Layer : public detail::Handle<cardea_layer_t, cardea_layer_destroy> {
 public:
  Layer() = default;

  cardea_layer_info_t info() const {
    cardea_layer_info_t info = CARDEA_LAYER_INFO_INIT;
    detail::check("cardea_layer_query", cardea_layer_query(get(), &info));
    return info;
  }
  cardea_expert_info_t expert(std::uint32_t index) const {
    cardea_expert_info_t info = CARDEA_EXPERT_INFO_INIT;
    detail::check("cardea_expert_query", cardea_expert_query(get(), index, &info));
    return info;
  }
  /// The table at its fixed address; when its entries may be read, see cardea_expert_table_t.
  std::span<const cardea_expert_entry_t> table() const {
    cardea_expert_table_t table = CARDEA_EXPERT_TABLE_INIT;
    detail::check("cardea_layer_table", cardea_layer_table(get(), &table));
    return {table.entries, table.num_experts};
  }
  /// The table in device memory, at fixed addresses; when its entries may be read, see cardea_device_table_t.
  cardea_device_table_t device_table() const {
    cardea_device_table_t table = CARDEA_DEVICE_TABLE_INIT;
    detail::check("cardea_layer_device_table", cardea_layer_device_table(get(), &table));
    return table;
  }

  void publish(std::uint64_t version) { detail::check("cardea_publish", cardea_publish(get(), version, nullptr)); }
  void finish(std::uint64_t version) { detail::check("cardea_finish", cardea_finish(get(), version, nullptr)); }
  /// Waits until the weights are this rank's own again. Throws TIMEOUT.
  void collect(std::uint64_t version, std::chrono::nanoseconds timeout = forever) {
    detail::check("cardea_collect", cardea_collect(get(), version, nullptr, detail::nanoseconds(timeout)));
  }
  /// True once they are; false if not so within `timeout`.
  bool try_collect(std::uint64_t version, std::chrono::nanoseconds timeout = {}) {
    const cardea_status_t status = cardea_collect(get(), version, nullptr, detail::nanoseconds(timeout));
    if (status == CARDEA_IN_PROGRESS || status == CARDEA_ERR_TIMEOUT) return false;
    detail::check("cardea_collect", status);
    return true;
  }

  Fetch fetch(std::uint64_t version, std::span<const std::uint32_t> experts, const FetchOptions& options = {}) const {
    return submit("cardea_fetch", cardea_fetch, version, experts, options);
  }
  /// Brings experts nearer without urgency; it has no views, only wait, cancel and info.
  Fetch prefetch(std::uint64_t version, std::span<const std::uint32_t> experts, const FetchOptions& options = {}) const {
    return submit("cardea_prefetch", cardea_prefetch, version, experts, options);
  }

 private:
  friend class Group;
  using Submit = cardea_status_t (*)(cardea_layer_t, const cardea_fetch_desc_t*, cardea_fetch_t*);

  Layer(cardea_layer_t handle, std::shared_ptr<const std::vector<std::uint64_t>> bytes)
      : Handle(handle), bytes_(std::move(bytes)) {}

  Fetch submit(const char* call, Submit function, std::uint64_t version, std::span<const std::uint32_t> experts,
               const FetchOptions& options) const {
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = version;
    desc.experts = experts.data();
    desc.num_experts = static_cast<std::uint32_t>(experts.size());
    desc.flags = options.flags;
    desc.segment_mask = options.segment_mask;
    if (options.slab != nullptr) desc.slab = options.slab->get();
    desc.on_ready = options.on_ready;
    desc.user = options.user;
    // 0 means none in C: a deadline that has passed already becomes the shortest there is.
    if (options.deadline != forever)
      desc.deadline = options.deadline.count() > 0 ? detail::nanoseconds(options.deadline) : 1;
    cardea_fetch_t handle{};
    detail::check(call, function(get(), &desc, &handle));
    return Fetch(handle, bytes_);
  }

  std::shared_ptr<const std::vector<std::uint64_t>> bytes_;  // of each segment, for the spans of views
};

// ---------------------------------------------------------------- groups and contexts

class Group : public detail::Handle<cardea_group_t, cardea_group_destroy> {
 public:
  using Handle::Handle;

  cardea_group_info_t info() const {
    cardea_group_info_t info = CARDEA_GROUP_INFO_INIT;
    detail::check("cardea_group_query", cardea_group_query(get(), &info));
    return info;
  }

  /// Collective over the group; waits for the other members.
  Layer create_layer(const LayerOptions& options) const {
    const std::vector<cardea_segment_t> segments = detail::to_c(options.segments);
    const std::vector<cardea_placement_t> placements = detail::to_c(options.placements);
    if (!options.local_experts.empty() && placements.size() != segments.size()) {
      throw std::invalid_argument("create_layer: one placement per segment is needed");
    }
    if (!options.local_is_home.empty() && options.local_is_home.size() != options.local_experts.size()) {
      throw std::invalid_argument("create_layer: local_is_home needs one flag per local expert, or none at all");
    }
    for (const Placement& p : options.placements) {
      if (!p.pointers.empty() && p.pointers.size() != options.local_experts.size()) {
        throw std::invalid_argument("create_layer: a placement by pointers needs one per local expert");
      }
    }
    cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    desc.layer_id = options.layer_id;
    desc.num_experts = options.num_experts;
    desc.segments = segments.data();
    desc.num_segments = static_cast<std::uint32_t>(segments.size());
    desc.num_local = static_cast<std::uint32_t>(options.local_experts.size());
    if (desc.num_local != 0) {
      desc.local_experts = options.local_experts.data();
      desc.local_is_home = options.local_is_home.empty() ? nullptr : options.local_is_home.data();
      desc.placements = placements.data();
    }
    if (options.slab != nullptr) desc.slab = options.slab->get();
    auto bytes = std::make_shared<std::vector<std::uint64_t>>();
    for (const Segment& s : options.segments) bytes->push_back(s.bytes);
    cardea_layer_t handle{};
    detail::check("cardea_layer_create", cardea_layer_create(get(), &desc, &handle));
    return Layer(handle, std::move(bytes));
  }
};

/// This rank in its job. Destroying it leaves the job, which may take up to 2 s while hardware still writes here.
class Context : public detail::Handle<cardea_context_t, cardea_context_destroy> {
 public:
  /// Joins the job that the environment describes; waits for the other ranks.
  Context() : Context(cardea_config_t CARDEA_CONFIG_INIT) {}
  /// Joins as told: begin with CARDEA_CONFIG_INIT.
  explicit Context(const cardea_config_t& config) : Handle(create(config)) {}

  static cardea_unique_id_t create_unique_id(const char* address = nullptr) {
    cardea_unique_id_t id{};
    detail::check("cardea_unique_id_create", cardea_unique_id_create(address, &id));
    return id;
  }

  cardea_context_info_t info() const {
    cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
    detail::check("cardea_context_query", cardea_context_query(get(), &info));
    return info;
  }
  cardea_rank_info_t rank(std::uint32_t rank) const {
    cardea_rank_info_t info = CARDEA_RANK_INFO_INIT;
    detail::check("cardea_rank_query", cardea_rank_query(get(), rank, &info));
    return info;
  }
  /// Chunks moved so far, a row for each lane, class and path that has carried any.
  std::vector<cardea_traffic_t> traffic() const {
    std::vector<cardea_traffic_t> rows;
    std::uint32_t count = 0;
    do {
      rows.assign(count, CARDEA_TRAFFIC_INIT);
      detail::check("cardea_traffic_query", cardea_traffic_query(get(), rows.data(), count, &count));
    } while (count > rows.size());
    rows.resize(count);
    return rows;
  }
  /// In Prometheus's exposition format.
  std::string metrics() const {
    return detail::text_of("cardea_metrics_text", [&](char* text, std::size_t capacity, std::size_t* needed) {
      return cardea_metrics_text(get(), text, capacity, needed);
    });
  }
  /// What this rank waits for, whose fault that is, and what happened last.
  std::string dump(const std::string& reason) const {
    return detail::text_of("cardea_dump_text", [&](char* text, std::size_t capacity, std::size_t* needed) {
      return cardea_dump_text(get(), reason.c_str(), text, capacity, needed);
    });
  }
  cardea_counters_t counters() const {
    cardea_counters_t counters = CARDEA_COUNTERS_INIT;
    detail::check("cardea_counters_query", cardea_counters_query(get(), &counters));
    return counters;
  }

  /// Ends every waiting call and open fetch with CANCELED, from any thread; only closing is left then.
  void abort() { detail::check("cardea_context_abort", cardea_context_abort(get())); }

  /// Polls readable when something happened since clear_events; see cardea_event_descriptor.
  int event_descriptor() const {
    int descriptor = -1;
    detail::check("cardea_event_descriptor", cardea_event_descriptor(get(), &descriptor));
    return descriptor;
  }
  void clear_events() { detail::check("cardea_event_clear", cardea_event_clear(get())); }

  /// All ranks of the job, or those given, in their order.
  Group group(std::span<const std::uint32_t> ranks = {}) const {
    cardea_group_t handle{};
    detail::check("cardea_group_create", cardea_group_create(get(), ranks.empty() ? nullptr : ranks.data(),
                                                             static_cast<std::uint32_t>(ranks.size()), &handle));
    return Group(handle);
  }

  Memory allocate(std::uint64_t bytes, cardea_memory_kind_t kind = CARDEA_MEMORY_HOST) const {
    cardea_memory_t handle{};
    detail::check("cardea_memory_alloc", cardea_memory_alloc(get(), bytes, kind, &handle));
    return Memory(handle);
  }
  /// Makes memory of the caller's known; it must outlive the Memory.
  Memory adopt(std::span<std::byte> bytes, cardea_memory_kind_t kind = CARDEA_MEMORY_HOST) const {
    cardea_memory_t handle{};
    detail::check("cardea_memory_register", cardea_memory_register(get(), bytes.data(), bytes.size(), kind, &handle));
    return Memory(handle);
  }

  /// Waits until no other rank maps this device memory, before it is freed. Throws TIMEOUT, BUSY.
  void wait_unmapped(const void* address, std::uint64_t bytes, std::chrono::nanoseconds timeout = forever) const {
    detail::check("cardea_memory_wait_unmapped",
                  cardea_memory_wait_unmapped(get(), address, bytes, detail::nanoseconds(timeout)));
  }

  Slab create_slab(const SlabOptions& options) const {
    const std::vector<cardea_segment_t> segments = detail::to_c(options.segments);
    const std::vector<cardea_placement_t> placements = detail::to_c(options.placements);
    if (!placements.empty() && placements.size() != segments.size()) {
      throw std::invalid_argument("create_slab: one placement per segment is needed, or none");
    }
    cardea_slab_desc_t desc = CARDEA_SLAB_DESC_INIT;
    desc.segments = segments.data();
    desc.num_segments = static_cast<std::uint32_t>(segments.size());
    desc.num_slots = options.slots;
    desc.first_slot = options.first_slot;
    desc.placements = placements.empty() ? nullptr : placements.data();
    desc.kind = options.kind;
    cardea_slab_t handle{};
    detail::check("cardea_slab_create", cardea_slab_create(get(), &desc, &handle));
    return Slab(handle);
  }

 private:
  static cardea_context_t create(const cardea_config_t& config) {
    cardea_context_t handle{};
    detail::check("cardea_context_create", cardea_context_create(&config, &handle));
    return handle;
  }
};

/// Of the library at run time, which may be newer than this header.
inline cardea_version_info_t version() {
  cardea_version_info_t info = CARDEA_VERSION_INFO_INIT;
  detail::check("cardea_version", cardea_version(&info));
  return info;
}

}  // namespace v0
}  // namespace cardea::api

#endif  // CARDEA_CARDEA_HPP
