// SPDX-License-Identifier: Apache-2.0
// What the ranks of one node share: the node cache's directory, over memory of this process, and a watch over its entries:
// none is filled with another expert while somebody still writes or reads it.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "lib/cache/node_cache.h"
#include "lib/core/actions.h"
#include "perf/simulator/report.h"

namespace cardea::simulator {

class NodeMemory {
 public:
  /// With `payload` false the payload may not be touched: only addresses of it are made.
  NodeMemory(const cache::Shape& shape, bool payload, Report& report)
      : report_(report), memory_(static_cast<std::byte*>(std::aligned_alloc(kPage, bytes_of(shape, payload)))) {
    std::memset(memory_.get(), 0, shape.metadata_bytes());
    if (payload) std::memset(memory_.get() + shape.metadata_bytes(), 0xCC, shape.capacity);
    directory_.emplace(cache::Directory::create(memory_.get(), shape));
    watched_.resize(shape.entries);
    touched_by_.resize((shape.capacity + kPlace - 1) / kPlace, kUntouched);
  }

  /// Pages come from where whoever writes them first is, and stay there. Returns where the first of them lies.
  std::uint32_t touch(std::uint64_t offset, std::uint64_t bytes, std::uint32_t numa) {
    for (std::uint64_t at = offset / kPlace; at * kPlace < offset + bytes && at < touched_by_.size(); ++at) {
      if (touched_by_[at] == kUntouched) touched_by_[at] = static_cast<std::uint8_t>(numa);
    }
    return lies_in(offset);
  }
  std::uint32_t lies_in(std::uint64_t offset) const { return touched_by_[offset / kPlace]; }

  cache::Directory& directory() { return *directory_; }
  cache::Lock& lock() { return lock_; }

  void writes(const core::StartChunk& chunk) { use(chunk.into, {chunk.layer, chunk.expert, chunk.version}); }
  void reads(cache::EntryIndex entry, core::LayerNumber layer, ExpertIndex expert, Version version) {
    use(entry, {layer, expert, version});
  }
  void ends(cache::EntryIndex entry) { --watched_[entry].users; }

  /// When all is over: nobody who is there holds anything. `gone` has the bits of ranks that are no more.
  void check_rest(std::uint32_t ranks, std::uint64_t gone) {
    for (cache::EntryIndex i = 0; i < directory_->shape().entries; ++i) {
      const cache::Entry& entry = directory_->entry(i);
      if (entry.state.load() == cache::Entry::kEmpty) continue;
      if ((entry.pins.load() & ~gone) != 0) report_.violation(fmt::format("entry {} stays pinned", i));
      if ((entry.waiters.load() & ~gone) != 0) report_.violation(fmt::format("entry {} is still waited for", i));
    }
    for (const cache::Nic& nic : directory_->header().nics) {
      for (const auto& of_class : nic.bytes) {
        for (std::uint32_t local = 0; local < ranks; ++local) {
          if (!(gone >> local & 1) && of_class[local].load() != 0) report_.violation("a NIC still counts bytes on the way");
        }
      }
    }
  }

 private:
  static constexpr std::size_t kPage = 4096;
  static constexpr std::uint64_t kPlace = 64 << 10;  // in which it is noted where memory comes from
  static constexpr std::uint8_t kUntouched = UINT8_MAX;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Content {
    core::LayerNumber layer = 0;
    ExpertIndex expert = 0;
    Version version = 0;
    friend bool operator==(const Content&, const Content&) = default;
  };
  struct Watched {
    Content content;
    std::uint32_t users = 0;
  };
  static std::size_t bytes_of(const cache::Shape& shape, bool payload) {
    return ((payload ? shape.total_bytes() : shape.metadata_bytes()) + kPage - 1) / kPage * kPage;
  }
  void use(cache::EntryIndex entry, const Content& content) {
    Watched& watched = watched_[entry];
    if (watched.users != 0 && !(watched.content == content))
      report_.violation(fmt::format("entry {} of the node cache is filled anew while {} use it", entry, watched.users));
    watched.content = content;
    ++watched.users;
  }

  Report& report_;
  std::unique_ptr<std::byte, Free> memory_;
  std::optional<cache::Directory> directory_;
  cache::NoLock lock_;
  std::vector<Watched> watched_;
  std::vector<std::uint8_t> touched_by_;  // NUMA node, by place
};

}  // namespace cardea::simulator
