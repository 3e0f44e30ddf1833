// SPDX-License-Identifier: Apache-2.0
// Ways of bringing experts from another process's GPU into this one's, for one table: Cardea, and what it is compared with.
//
// Two ranks, each a process with a GPU of its own, make the same mover with the ends of one link. Each holds three parts of
// n experts of `segments` segments at home and has 2n slots; a transfer brings one part of the other rank's into n of its
// slots, expert i of the part into slot i unless the mover says otherwise. Parts are taken in turns, so that nothing that is
// wanted lies in a slot already, and 2n slots let a transfer be queued while the one before it is under way. Sources hold a
// pattern, so that what has come can be counted right or wrong.
//
// A rank's mover is used by one thread. Errors are exceptions: std::runtime_error with the call's name.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perf/cuda/link.h"

namespace cardea::perf {

inline constexpr unsigned kParts = 3;

/// Throws unless the CUDA call went well.
void check_cuda(cudaError_t status, const char* call);

struct Load {
  std::size_t bytes = 0;  // of an expert; a multiple of 16 times the segments
  unsigned experts = 1;   // in a transfer
  unsigned segments = 1;  // of an expert, of one size
  std::size_t segment() const { return bytes / segments; }
};

/// One array for each segment, [rows, segment bytes], from cudaMalloc on the current device.
class Arrays {
 public:
  Arrays(const Load& load, unsigned rows);
  ~Arrays();
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;
  char* at(unsigned segment, unsigned row) const { return bases_[segment] + row * segment_bytes_; }
  char* base(unsigned segment) const { return bases_[segment]; }

 private:
  std::vector<char*> bases_;
  std::size_t segment_bytes_;
};

class Mover {
 public:
  /// The link must outlive it. The current device is this rank's.
  Mover(Link& link, const Load& load);
  virtual ~Mover();

  /// Queues the transfer of a part into this rank. `both`: the other rank receives at the same time.
  virtual void receive(unsigned part, bool both) = 0;
  /// The other rank's part of a transfer that only one receives; nothing where that is passive.
  virtual void serve(unsigned part);
  /// Waits for what receive() or serve() has queued.
  virtual void finish();
  /// The slot in which expert i of the last transfer lies.
  virtual unsigned slot_of(unsigned i) const { return i; }
  /// Throws if it has not gone the way that it was to go.
  virtual void judge() {}

  /// Fills the slots with what no source holds.
  void poison();
  /// Bytes of the last transfer's slots that are not those of the part of the other rank's experts.
  std::uint64_t wrong(unsigned part);

 protected:
  /// For ways whose slots are not `slots_`: fill theirs too; bring what has come into `slots_`.
  virtual void poison_own() {}
  virtual void bring_own() {}
  static std::uint64_t seed(unsigned rank, unsigned expert, unsigned segment);

  Link& link_;
  const Load load_;
  Arrays home_, slots_;
  cudaStream_t stream_{};

 private:
  unsigned long long* wrong_ = nullptr;
};

/// What there is, in the order of the table, and which the others are held against: within the node, or between two nodes
/// that this machine plays.
std::vector<std::string> mover_names(bool network);
const char* limit_name(bool network);
/// Sets what must be set in a process before anything else (environment of NCCL).
void prepare_process(const std::string& name);
/// Collective. std::invalid_argument for another name.
std::unique_ptr<Mover> make_mover(const std::string& name, Link& link, const Load& load);

// The makers, each in its own file.
std::unique_ptr<Mover> make_cardea_mover(const std::string& name, Link& link, const Load& load);
std::unique_ptr<Mover> make_copy_mover(const std::string& name, Link& link, const Load& load);
std::unique_ptr<Mover> make_nccl_mover(Link& link, const Load& load);  // null where built without NCCL

}  // namespace cardea::perf
