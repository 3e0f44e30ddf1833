// SPDX-License-Identifier: Apache-2.0
// The runtime's half that brings experts of this rank's device memory to host memory for those who cannot reach it there:
// once for a version, whoever asks. What has come of an expert is lent while the rest is still copied.
#include <algorithm>
#include <set>

#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

// An expert is copied out of the device in parts, so that its first bytes are sent while its last ones are copied: a small
// one first, since the network has nothing to do until it is here, and each twice as large as the one before. The copier's
// batches for host memory grow alike.
constexpr std::uint64_t kFirstPart = std::uint64_t{2} << 20;
constexpr std::uint64_t kLargestPart = std::uint64_t{16} << 20;

Status not_yet_staged() {
  return {CARDEA_IN_PROGRESS, "it is being copied to host memory"};
}

}  // namespace

bool Runtime::in_device_memory(const LayerRecord& layer, std::size_t local) const {
  return std::any_of(layer.announce.places.begin(), layer.announce.places.end(),
                     [&](const SegmentPlace& place) { return regions_.at(place.of(local).region).device != nullptr; });
}

/// Where the expert's bytes before `until` lie, if they are here already.
Result<std::shared_ptr<std::byte>> Runtime::stage(const LayerRecord& layer, const transport::ExpertAddress& expert,
                                                  std::uint64_t until) {
  if (device_closes_) return not_yet_staged();  // the asker hears of the goodbye next
  const std::pair key{layer.number, expert.expert};
  if (const auto found = staged_.find(key); found != staged_.end() && found->second->version == expert.version) {
    const Staged& known = *found->second;
    if (known.here >= until) return known.memory;
    if (known.failed.ok() || known.under_way != 0) return not_yet_staged();
    const Status failed = known.failed;
    staged_.erase(found);
    return failed;
  }
  const std::uint64_t all = layer.layout.packed_bytes();
  const auto buffer = buffers_->take(all);
  if (!buffer) return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of host memory to send it from", all);
  // The weights are lent to the GPU until it has read them.
  if (const Status status = core_.lend(layer.number, expert.version); !status.ok()) return status;
  const auto fresh = std::make_shared<Staged>();
  fresh->version = expert.version;
  fresh->layer = layer.number;
  fresh->memory = {buffer, buffer->data()};
  const std::size_t local = layer.local_of.at(expert.expert);
  for (std::uint64_t from = 0, part = kFirstPart; from < all; from += part, part = std::min(2 * part, kLargestPart)) {
    const std::uint64_t bytes = std::min(part, all - from);
    cuda::CopyOrder order;
    order.token = next_staging_++;
    order.buffer = buffer;
    order.queue = cuda::Queue::kDownload;
    layer.layout.for_each_piece(from, bytes, [&](std::size_t segment, std::uint64_t offset, std::uint64_t length) {
      std::byte* const to = fresh->memory.get() + layer.layout.offset(segment) + offset;
      order.pieces.push_back({reinterpret_cast<cuda::Pointer>(to),
                              reinterpret_cast<cuda::Pointer>(layer.local[segment][local] + offset), length});
    });
    staging_.emplace(order.token, StagedPart{fresh, from + bytes});
    ++fresh->under_way;
    order_copy(std::move(order));
  }
  staged_[key] = fresh;
  return not_yet_staged();  // whoever lends dispatches
}

/// Parts of an expert are done in their order: they are on one stream.
void Runtime::staged(std::uint64_t token, const Status& status) {
  const auto held = lock();
  const auto node = staging_.extract(token);
  if (node.empty()) return;
  Staged& of = *node.mapped().of;
  if (of.failed.ok()) of.failed = status;
  if (of.failed.ok()) of.here = node.mapped().until;
  if (--of.under_way == 0) core_.give_back(of.layer);
  enqueue([this] {
    std::set<transport::Transport*> transports(route_.begin(), route_.end());
    for (transport::Transport* const transport : transports) {
      if (transport != nullptr) transport->lend_again();
    }
  });
  dispatch();
}

void Runtime::drop_staged(core::LayerNumber layer) {
  // Nothing is being copied: that would be lent. What is still being sent keeps its memory.
  staged_.erase(staged_.lower_bound({layer, 0}), staged_.lower_bound({layer + 1, 0}));
}

}  // namespace cardea::engine
