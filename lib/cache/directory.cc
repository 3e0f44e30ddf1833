// SPDX-License-Identifier: Apache-2.0
#include "lib/cache/directory.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <new>

namespace cardea::cache {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMinChunk = 64;
constexpr std::uint64_t kMaxChunk = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxCapacity = std::uint64_t{1} << 44;
constexpr std::uint32_t kTargetBlocks = 65536;
constexpr std::uint32_t kMaxEntries = 8192;
constexpr std::uint32_t kEntriesPerBlock = 4;  // for those that lie in slots take no block

std::uint64_t up_to(std::uint64_t bytes, std::uint64_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

// Where the parts of the metadata begin.
struct Plan {
  std::uint64_t entries, buckets, map, words, end;

  explicit Plan(const Shape& shape) {
    entries = up_to(sizeof(Header), 64);
    buckets = up_to(entries + sizeof(Entry) * shape.entries, 64);
    map = up_to(buckets + sizeof(std::uint32_t) * bucket_count(shape), 64);
    words = up_to(map + (shape.blocks + 63) / 64 * 8, 64);
    end = up_to(words + std::uint64_t{shape.blocks} * shape.words_per_block * 8, kPage);
  }
  static std::uint32_t bucket_count(const Shape& shape) { return std::bit_ceil(shape.entries * 2); }
};

// A word that another process may change meanwhile, as it is now.
template <typename T>
T once(const T& word) {
  return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

// Of offsets and sizes: two builds that lay the directory out differently never share one.
std::uint64_t layout_hash() {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::uint64_t value :
       {sizeof(Header), sizeof(Entry), sizeof(Nic), offsetof(Header, lock), offsetof(Header, tick), offsetof(Header, nics),
        offsetof(Entry, group), offsetof(Entry, version), offsetof(Entry, first_block), offsetof(Entry, pins),
        offsetof(Entry, last_used), offsetof(Entry, pullers), offsetof(Entry, places), offsetof(Entry, claim)}) {
    hash = (hash ^ value) * 0x100000001b3;
  }
  return hash;
}

}  // namespace

Result<Shape> Shape::of(std::uint64_t capacity, std::uint64_t chunk_bytes) {
  if (chunk_bytes < kMinChunk || chunk_bytes > kMaxChunk) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "chunks of {} bytes; they take {} to {}", chunk_bytes, kMinChunk,
                         kMaxChunk);
  }
  if (capacity < kPage || capacity > kMaxCapacity) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "a node cache of {} bytes; it takes {} to {}", capacity, kPage,
                         kMaxCapacity);
  }
  Shape shape;
  shape.chunk_bytes = chunk_bytes;
  shape.block_bytes = std::max(kPage, std::bit_ceil((capacity + kTargetBlocks - 1) / kTargetBlocks));
  shape.blocks = static_cast<std::uint32_t>(capacity / shape.block_bytes);
  shape.capacity = shape.blocks * shape.block_bytes;
  shape.entries =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(std::uint64_t{shape.blocks} * kEntriesPerBlock, kMaxEntries));
  // An entry of b bytes has ceil(b / chunk) chunks and ceil(b / block) blocks.
  shape.words_per_block =
      static_cast<std::uint32_t>(std::max<std::uint64_t>(1, up_to(shape.block_bytes, chunk_bytes) / chunk_bytes));
  return shape;
}

std::uint64_t Shape::metadata_bytes() const {
  return Plan(*this).end;
}

Directory::Directory(std::byte* memory, const Shape& shape) : memory_(memory), shape_(shape) {
  const Plan plan(shape);
  header_ = reinterpret_cast<Header*>(memory);
  entries_ = reinterpret_cast<Entry*>(memory + plan.entries);
  buckets_ = reinterpret_cast<std::uint32_t*>(memory + plan.buckets);
  map_ = reinterpret_cast<std::uint64_t*>(memory + plan.map);
  words_ = reinterpret_cast<std::atomic<std::uint64_t>*>(memory + plan.words);
}

Directory Directory::create(std::byte* memory, const Shape& shape) {
  Directory directory(memory, shape);
  Header* const header = new (memory) Header{};
  header->magic = Header::kMagic;
  header->layout = layout_hash();
  header->total_bytes = shape.total_bytes();
  header->capacity = shape.capacity;
  header->chunk_bytes = shape.chunk_bytes;
  for (std::uint32_t i = 0; i < shape.entries; ++i) new (directory.entries_ + i) Entry{};
  const std::uint64_t words = std::uint64_t{shape.blocks} * shape.words_per_block;
  for (std::uint64_t i = 0; i < words; ++i) new (directory.words_ + i) std::atomic<std::uint64_t>(0);
  directory.repair();
  header->repairs = 0;
  return directory;
}

Result<Directory> Directory::attach(std::byte* memory, std::uint64_t bytes) {
  const auto wrong = [](std::string_view what) { return Status::error(CARDEA_ERR_PROTOCOL, "node cache: {}", what); };
  if (bytes < sizeof(Header)) return wrong("too small for a header");
  const Header& header = *reinterpret_cast<const Header*>(memory);
  if (once(header.magic) != Header::kMagic) return wrong("no magic number");
  if (once(header.layout) != layout_hash()) return wrong("laid out by another build");
  const std::uint64_t capacity = once(header.capacity);
  const Result<Shape> shape = Shape::of(capacity, once(header.chunk_bytes));
  if (!shape.ok()) return wrong(shape.status().message());
  if (shape->capacity != capacity || shape->total_bytes() != once(header.total_bytes) || shape->total_bytes() > bytes)
    return wrong(fmt::format("{} bytes for a capacity of {}", bytes, capacity));
  return Directory(memory, *shape);
}

std::optional<Extent> Directory::extent(const Entry& entry) const {
  const Extent extent{once(entry.first_block), once(entry.blocks), once(entry.chunks)};
  const bool sensible = extent.blocks != 0 && extent.blocks <= shape_.blocks &&
                        extent.first_block <= shape_.blocks - extent.blocks && extent.chunks != 0 &&
                        extent.chunks <= kMaxChunks &&
                        extent.chunks <= std::uint64_t{extent.blocks} * shape_.words_per_block;
  return sensible ? std::optional(extent) : std::nullopt;
}

EntryIndex Directory::used_entries() const {
  return std::min(once(header_->used_entries), shape_.entries);
}

std::uint32_t Directory::used_blocks() const {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(header_->used_blocks.load(), shape_.blocks));
}

bool Directory::placed(const Entry& entry) {
  return std::any_of(std::begin(entry.places), std::end(entry.places),
                     [](const auto& place) { return copy_state_of(place.load()) == CopyState::kInSlot; });
}

std::uint32_t& Directory::bucket_of(const Entry& entry) const {
  std::uint64_t hash = entry.group ^ entry.version * 0x9E3779B97F4A7C15;
  hash = (hash ^ (std::uint64_t{entry.layer} << 32 | entry.expert)) * 0xD6E8FEB86659FD93;
  return buckets_[(hash >> 32) & (Plan::bucket_count(shape_) - 1)];
}

EntryIndex Directory::find(const Key& key) const {
  Entry wanted{};
  wanted.group = key.layer.group;
  wanted.layer = key.layer.layer;
  wanted.expert = key.expert;
  wanted.version = key.version;
  EntryIndex at = once(bucket_of(wanted));
  for (std::uint32_t steps = 0; at < shape_.entries && steps < shape_.entries; ++steps) {
    const Entry& entry = entries_[at];
    if (entry.group == wanted.group && entry.layer == wanted.layer && entry.expert == wanted.expert &&
        entry.version == wanted.version && entry.state.load() != Entry::kEmpty) {
      return at;
    }
    at = once(entry.next);
  }
  return kNoEntry;
}

EntryIndex Directory::empty_entry() const {
  const EntryIndex used = used_entries();
  for (EntryIndex i = 0; i < used; ++i) {
    if (entries_[i].state.load(std::memory_order_relaxed) == Entry::kEmpty) return i;
  }
  return used < shape_.entries ? used : kNoEntry;
}

std::uint32_t Directory::free_run(std::uint32_t count, std::uint32_t from) const {
  const std::uint32_t found = free_run_within(count, from, shape_.blocks);
  return found != UINT32_MAX || from == 0 ? found : free_run_within(count, 0, shape_.blocks);
}

std::uint32_t Directory::free_run_within(std::uint32_t count, std::uint32_t first, std::uint32_t end) const {
  std::uint32_t run = 0;
  for (std::uint32_t block = first; block < end;) {
    const std::uint64_t word = map_[block / 64];
    if (block % 64 == 0 && word == ~std::uint64_t{0}) {
      run = 0;
      block += 64;
      continue;
    }
    run = (word >> block % 64 & 1) != 0 ? 0 : run + 1;
    ++block;
    if (run == count) return block - count;
  }
  return UINT32_MAX;
}

void Directory::mark(const Extent& extent, bool taken) {
  for (std::uint32_t block = extent.first_block; block < extent.first_block + extent.blocks; ++block) {
    const std::uint64_t bit = std::uint64_t{1} << block % 64;
    map_[block / 64] = taken ? map_[block / 64] | bit : map_[block / 64] & ~bit;
  }
}

bool Directory::overlaps(const Extent& extent) const {
  for (std::uint32_t block = extent.first_block; block < extent.first_block + extent.blocks; ++block) {
    if ((map_[block / 64] >> block % 64 & 1) != 0) return true;
  }
  return false;
}

void Directory::link(EntryIndex index) {
  Entry& entry = entries_[index];
  header_->used_entries = std::max(used_entries(), index + 1);
  std::uint32_t& bucket = bucket_of(entry);
  entry.next = bucket;
  bucket = index;
}

void Directory::occupy(const Extent& extent) {
  mark(extent, true);
  header_->used_blocks += extent.blocks;
}

void Directory::insert(EntryIndex index) {
  const auto made = extent(entries_[index]);
  if (!made) return;
  entries_[index].state.store(Entry::kLive);
  link(index);
  occupy(*made);
}

void Directory::insert_in_slots(EntryIndex index) {
  entries_[index].state.store(Entry::kInSlots);
  link(index);
}

void Directory::let_payload_go(EntryIndex index) {
  Entry& entry = entries_[index];
  const auto held = extent(entry);
  entry.state.store(Entry::kInSlots);
  if (!held || used_blocks() < held->blocks) return repair();
  mark(*held, false);
  header_->used_blocks -= held->blocks;
}

void Directory::give_payload(EntryIndex index) {
  const auto made = extent(entries_[index]);
  if (!made) return;
  entries_[index].state.store(Entry::kLive);
  occupy(*made);
}

void Directory::erase(EntryIndex index) {
  Entry& entry = entries_[index];
  const bool has_payload = entry.state.exchange(Entry::kEmpty) != Entry::kInSlots;
  const auto held = extent(entry);
  if (has_payload && (!held || used_blocks() < held->blocks)) return repair();
  std::uint32_t* link = &bucket_of(entry);
  for (std::uint32_t steps = 0; steps < shape_.entries; ++steps) {
    const EntryIndex at = once(*link);
    if (at >= shape_.entries) break;
    if (at == index) {
      *link = entry.next;
      break;
    }
    link = &entries_[at].next;
  }
  if (!has_payload) return;
  mark(*held, false);
  header_->used_blocks -= held->blocks;
}

bool Directory::consistent() const {
  std::uint64_t taken = 0, held = 0;
  for (std::uint32_t word = 0; word < (shape_.blocks + 63) / 64; ++word)
    taken += static_cast<std::uint64_t>(std::popcount(once(map_[word])));
  for (EntryIndex i = 0; i < shape_.entries; ++i) {
    const auto of = extent(entries_[i]);
    if (of && entries_[i].state.load() == Entry::kLive) held += of->blocks;
  }
  return taken == header_->used_blocks.load() && held == taken;
}

void Directory::repair() {
  std::fill_n(buckets_, Plan::bucket_count(shape_), kNoEntry);
  std::fill_n(map_, (shape_.blocks + 63) / 64, 0);
  header_->used_entries = 0;
  header_->used_blocks = 0;
  ++header_->repairs;
  for (const bool pinned : {true, false}) {
    for (EntryIndex i = 0; i < shape_.entries; ++i) {
      Entry& entry = entries_[i];
      const std::uint32_t state = entry.state.load();
      if (state == Entry::kEmpty || (entry.pins.load() != 0) != pinned) continue;
      const auto held = extent(entry);
      if (state == Entry::kInSlots && (pinned || placed(entry))) {
        link(i);
      } else if (state == Entry::kLive && held && !overlaps(*held)) {
        link(i);
        occupy(*held);
      } else {
        entry.state.store(Entry::kEmpty);
      }
    }
  }
}

}  // namespace cardea::cache
