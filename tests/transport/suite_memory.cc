// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/suite_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace cardea::test {

namespace {

/// The pattern in words of 8 bytes (splitmix64).
std::uint64_t pattern_word(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t x = (seed << 40) ^ index;
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void fill(std::uint64_t seed, std::uint64_t position, std::byte* out, std::uint64_t bytes) {
  std::uint64_t word = pattern_word(seed, position / 8);
  for (std::uint64_t i = 0; i < bytes; ++i) {
    const std::uint64_t at = position + i;
    if (at % 8 == 0) word = pattern_word(seed, at / 8);
    out[i] = static_cast<std::byte>(word >> (8 * (at % 8)));
  }
}

}  // namespace

Bytes pattern_bytes(std::uint64_t seed, std::uint64_t position, std::uint64_t bytes) {
  Bytes out(bytes);
  fill(seed, position, out.data(), bytes);
  return out;
}

Region::Region(Rank owner, std::uint32_t id, std::uint64_t bytes, Memory kind) : id_(id), bytes_(bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (kind == Memory::kMappable) {
    memfd_.reset(memfd_create("cardea-suite", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memfd_ || ftruncate(memfd_.get(), static_cast<off_t>(bytes)) != 0 ||
        fcntl(memfd_.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
      throw std::runtime_error("cannot make a memfd");
    }
    flags = MAP_SHARED;
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, memfd_.get(), 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  base_ = static_cast<std::byte*>(memory);
  fill(seed(owner, id), 0, base_, bytes);
}

Region::~Region() {
  munmap(base_, bytes_);
}

void Region::set_stamp(Version version) {
  std::memcpy(base_, &version, sizeof(version));
}

ExpertLayout ExpertLayout::whole(Rank source, std::uint32_t region, ExpertIndex expert, Version version,
                                 std::uint64_t region_offset, std::uint64_t bytes) {
  ExpertLayout layout;
  layout.source = source;
  layout.address = {.layer = {.group = 7, .layer = 1}, .expert = expert, .version = version};
  layout.region = region;
  layout.parts = {{.packed_offset = 0, .region_offset = region_offset, .bytes = bytes}};
  layout.packed_bytes = bytes;
  return layout;
}

std::vector<ExpertLayout::Part> ExpertLayout::cut(std::uint64_t offset, std::uint64_t bytes) const {
  std::vector<Part> pieces;
  for (const Part& part : parts) {
    const std::uint64_t begin = std::max(offset, part.packed_offset);
    const std::uint64_t end = std::min(offset + bytes, part.packed_offset + part.bytes);
    if (begin < end) pieces.push_back({begin, part.region_offset + (begin - part.packed_offset), end - begin});
  }
  return pieces;
}

std::uint64_t ExpertLayout::payload(std::uint64_t offset, std::uint64_t bytes) const {
  std::uint64_t sum = 0;
  for (const Part& part : cut(offset, bytes)) sum += part.bytes;
  return sum;
}

Bytes ExpertLayout::expected(std::uint64_t offset, std::uint64_t bytes) const {
  Bytes out;
  for (const Part& part : cut(offset, bytes)) {
    const Bytes piece = pattern_bytes(Region::seed(source, region), part.region_offset, part.bytes);
    out.insert(out.end(), piece.begin(), piece.end());
  }
  return out;
}

namespace {
constexpr std::uint64_t kGap = 64;
}

Landing::Landing(std::vector<std::uint64_t> pieces) : sizes_(std::move(pieces)) {
  std::uint64_t total = kGap;
  for (const std::uint64_t size : sizes_) total += size + kGap;
  memory_.assign(total, poison_);
}

std::vector<iovec> Landing::pieces() {
  std::vector<iovec> out;
  std::uint64_t at = kGap;
  for (const std::uint64_t size : sizes_) {
    out.push_back({.iov_base = memory_.data() + at, .iov_len = size});
    at += size + kGap;
  }
  return out;
}

Bytes Landing::payload() const {
  Bytes out;
  auto at = memory_.begin() + kGap;
  for (const std::uint64_t size : sizes_) {
    out.insert(out.end(), at, at + static_cast<std::ptrdiff_t>(size));
    at += static_cast<std::ptrdiff_t>(size + kGap);
  }
  return out;
}

bool Landing::untouched() const {
  return std::all_of(memory_.begin(), memory_.end(), [this](std::byte b) { return b == poison_; });
}

bool Landing::gaps_untouched() const {
  std::uint64_t at = 0;
  const auto gap_ok = [this](std::uint64_t from) {
    return std::all_of(memory_.begin() + static_cast<std::ptrdiff_t>(from),
                       memory_.begin() + static_cast<std::ptrdiff_t>(from + kGap),
                       [this](std::byte b) { return b == poison_; });
  };
  if (!gap_ok(at)) return false;
  for (const std::uint64_t size : sizes_) {
    at += kGap + size;
    if (!gap_ok(at)) return false;
  }
  return true;
}

void Landing::poison(std::byte value) {
  poison_ = value;
  std::fill(memory_.begin(), memory_.end(), value);
}

transport::ChunkOrder make_order(transport::ChunkToken token, const ExpertLayout& expert, std::uint64_t offset,
                                 std::uint64_t bytes, Landing& landing) {
  transport::ChunkOrder order;
  order.token = token;
  order.source = expert.source;
  order.expert = expert.address;
  order.offset = offset;
  order.bytes = bytes;
  order.destination = landing.pieces();
  const transport::RegionKey region{.owner = expert.source, .region = expert.region};
  for (const ExpertLayout::Part& part : expert.cut(offset, bytes)) {
    order.source_pieces.push_back({.region = region, .offset = part.region_offset, .bytes = part.bytes});
  }
  if (expert.stamped) order.stamp = {.region = region, .offset = 0, .bytes = sizeof(Version)};
  return order;
}

}  // namespace cardea::test
