// SPDX-License-Identifier: Apache-2.0
// The core's half that copies experts out of the node cache while they still come into it. Where ranks swap (split.cc), a
// want that is to land in a slot need not wait until the entry is whole: chunks are copied and pulled one by one, and only
// those that are done in the entry can be. So the last chunk over the network is followed by one copy and one pull, not by
// those of a whole expert. A transfer that *streams* ends with the filling of its entry, if that fails.
#include <bit>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {

bool Core::may_stream(const Fetch& of, std::size_t index, const Transfer& cached) const {
  const Layer& in = layer(cached.layer);
  if (!of.spec.into_slots || !of.spec.wants_views || of.spec.gang || !of.spec.slab) return false;
  if (of.spec.segments != in.layout.all() || of.wants[index].state != Want::State::kMoving) return false;
  const Slab& slab = *slabs_.at(*of.spec.slab);
  if (!may_swap(slab, in) || slab.feeding) return false;
  // A slot is taken early only where there is plenty: what is whole must not wait for what is still to come.
  if (slab.slots.available() * 2 <= slab.slots.count()) return false;
  for (const auto& queue : slab.starved) {
    if (!queue.empty()) return false;
  }
  return slab.index.find({cached.layer, cached.expert, cached.version}) == nullptr;
}

/// Some of the entry is there: wants that may begin to copy it do.
void Core::stream(Transfer& cached, Clock::time_point now) {
  if ((cached.requested & ~cached.present) == 0) return;  // whole, and delivered as such
  for (std::size_t i = 0; i < cached.waiting.size();) {
    const WantRef ref = cached.waiting[i];
    Fetch& of = fetch_of(ref.fetch);
    Slab* const slab = of.spec.slab ? slabs_.at(*of.spec.slab).get() : nullptr;
    if (!may_stream(of, ref.want, cached) || !make_room(*slab, 1, of.spec.urgency, now)) {
      ++i;
      continue;
    }
    cached.waiting.erase(cached.waiting.begin() + static_cast<std::ptrdiff_t>(i));
    Want& want = of.wants[ref.want];
    want.cached = std::exchange(want.transfer, 0);  // and its pin
    want.source.path = CARDEA_PATH_CACHE;
    want.source.lane = options_.copy_lane;
    want.source.rails = 1;
    Transfer& opened = open_transfer(*slab, of, want);
    opened.streams = true;
    join(of, ref.want, opened, now);
  }
}

/// This rank has brought a chunk into an entry that ranks of the node want in slots: it copies it itself if it wants it too;
/// else whose it is hears of it.
void Core::tell_whose_chunk(const Transfer& cached, std::size_t chunk, Clock::time_point now) {
  const auto own = swaps_.lower_bound({cached.entry, 0});
  if (own != swaps_.end() && own->first == cached.entry) return swaps_changed(cached.entry, now);
  const std::uint64_t others = cache_->wanted_in_slots(cached.entry) & options_.swap.peers;
  for (std::uint64_t left = others; left != 0; left &= left - 1) {
    const auto local = static_cast<std::uint32_t>(std::countr_zero(left));
    if (share_of(others, local, options_.swap.uplink_of, cached.expert).has(chunk))
      return tell_node(std::uint64_t{1} << local, cached.entry, kNoNic);
  }
}

std::vector<TransferNumber> Core::streamed_from(const Transfer& cached) const {
  std::vector<TransferNumber> streamed;
  for (auto at = swaps_.lower_bound({cached.entry, 0}); at != swaps_.end() && at->first == cached.entry; ++at) {
    const Transfer& transfer = transfers_.at(at->second);
    if (transfer.streams && transfer.origin == cached.number && !transfer.complete()) streamed.push_back(at->second);
  }
  return streamed;
}

}  // namespace cardea::core
