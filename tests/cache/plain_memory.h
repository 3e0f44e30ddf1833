// SPDX-License-Identifier: Apache-2.0
// A node cache's memory without shared memory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>

#include "lib/cache/directory.h"

namespace cardea::cache {

class PlainMemory {
 public:
  PlainMemory(std::uint64_t capacity, std::uint64_t chunk_bytes) : shape_(Shape::of(capacity, chunk_bytes).value()) {
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, (shape_.total_bytes() + 4095) / 4096 * 4096)));
    std::memset(memory_.get(), 0, shape_.metadata_bytes());
    std::memset(memory_.get() + shape_.metadata_bytes(), 0xCC, shape_.capacity);
    Directory::create(memory_.get(), shape_);
  }
  Directory directory() const { return Directory::attach(memory_.get(), shape_.total_bytes()).value(); }
  std::byte* bytes() const { return memory_.get(); }
  const Shape& shape() const { return shape_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  Shape shape_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace cardea::cache
