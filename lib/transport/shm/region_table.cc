// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/region_table.h"

#include <iterator>

namespace cardea::shm {

using transport::RegionKey;

Status RegionTable::arrived(RegionKey key, std::uint64_t bytes, UniqueFd descriptor) {
  if (unclaimed_.contains(key) || accepted_.contains(key)) {
    return Status::error(CARDEA_ERR_PROTOCOL, "region {} was passed twice", key.region);
  }
  const auto first = unclaimed_.lower_bound({key.owner, 0});
  const auto last = unclaimed_.upper_bound({key.owner, UINT32_MAX});
  if (static_cast<std::size_t>(std::distance(first, last)) >= kMaxUnclaimed) {
    return Status::error(CARDEA_ERR_PROTOCOL, "more than {} regions were passed and not announced", kMaxUnclaimed);
  }
  unclaimed_.emplace(key, Unclaimed{bytes, std::move(descriptor)});
  return {};
}

UniqueFd RegionTable::take(RegionKey key, std::uint64_t bytes) {
  const auto found = unclaimed_.find(key);
  if (found == unclaimed_.end() || found->second.bytes != bytes) return {};
  UniqueFd descriptor = std::move(found->second.descriptor);
  unclaimed_.erase(found);
  return descriptor;
}

Status RegionTable::accept(RegionKey key, std::uint64_t bytes, ByteView descriptor) {
  const auto wrong = [&](std::string_view text) {
    return Status::error(CARDEA_ERR_PROTOCOL, "region {} of rank {}, {} bytes: {}", key.region, key.owner, bytes, text)
        .with_peer(key.owner);
  };
  Result<RegionDescriptor> decoded = decode_descriptor(descriptor);
  if (!decoded.ok()) return decoded.status().with_peer(key.owner);
  if (bytes == 0) return wrong("it is empty");
  if (const Region* known = find(key)) {
    const bool same = known->bytes == bytes && (known->mapping ? decoded->mappable : known->address == decoded->address);
    return same ? Status() : wrong("it was accepted before with another size or place");
  }
  if (!decoded->mappable) {
    if (decoded->address > UINT64_MAX - bytes) return wrong("it goes beyond the address space");
    accepted_[key] = Region{bytes, {}, decoded->address, {}};
    return {};
  }
  const auto found = unclaimed_.find(key);
  if (found == unclaimed_.end()) return wrong("its owner did not pass its memory");
  if (found->second.bytes != bytes) return wrong("its owner passed memory of another size");
  Result<SharedMapping> mapping = SharedMapping::open(found->second.descriptor.get(), bytes, MappedRange::Pages::kLater);
  if (!mapping.ok()) {
    return mapping.status().within(fmt::format("region {} of rank {}", key.region, key.owner)).with_peer(key.owner);
  }
  accepted_[key] = Region{bytes, std::move(*mapping), 0, std::move(found->second.descriptor)};
  unclaimed_.erase(found);
  return {};
}

Result<bool> RegionTable::bring_in(RegionKey key, std::uint64_t bytes) {
  const auto found = accepted_.find(key);
  if (found == accepted_.end() || !found->second.descriptor) return true;
  Region& region = found->second;
  Result<bool> whole = region.mapping.bring_in_next(region.descriptor.get(), bytes);
  if (!whole.ok() || *whole) region.descriptor.reset();
  return whole.ok() ? whole : whole.status().within(fmt::format("region {} of rank {}", key.region, key.owner));
}

void RegionTable::forget(RegionKey key) {
  unclaimed_.erase(key);
  accepted_.erase(key);
}

const RegionTable::Region* RegionTable::find(RegionKey key) const {
  const auto found = accepted_.find(key);
  return found == accepted_.end() ? nullptr : &found->second;
}

void RegionTable::clear() {
  unclaimed_.clear();
  accepted_.clear();
}

}  // namespace cardea::shm
