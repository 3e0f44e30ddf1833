// SPDX-License-Identifier: Apache-2.0
#include "perf/cuda/mover.h"

#include <cstdlib>
#include <stdexcept>

#include "perf/cuda/kernels.h"

namespace cardea::perf {

void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
}

Arrays::Arrays(const Load& load, unsigned rows) : segment_bytes_(load.segment()) {
  for (unsigned s = 0; s < load.segments; ++s) {
    void* base = nullptr;
    check_cuda(cudaMalloc(&base, segment_bytes_ * rows), "cudaMalloc");
    bases_.push_back(static_cast<char*>(base));
  }
}

Arrays::~Arrays() {
  for (char* base : bases_) cudaFree(base);
}

Mover::Mover(Link& link, const Load& load)
    : link_(link), load_(load), home_(load, kParts * load.experts), slots_(load, 2 * load.experts) {
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  void* counter = nullptr;
  check_cuda(cudaMalloc(&counter, sizeof *wrong_), "cudaMalloc");
  wrong_ = static_cast<unsigned long long*>(counter);
  for (unsigned e = 0; e < kParts * load_.experts; ++e)
    for (unsigned s = 0; s < load_.segments; ++s)
      write_pattern(home_.at(s, e), load_.segment(), seed(link_.rank(), e, s), stream_);
  check_cuda(cudaGetLastError(), "write_pattern");
  check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  link_.meet();
}

Mover::~Mover() {
  cudaFree(wrong_);
  cudaStreamDestroy(stream_);
}

void Mover::serve(unsigned) {}

void Mover::finish() {
  check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void Mover::poison() {
  for (unsigned s = 0; s < load_.segments; ++s)
    check_cuda(cudaMemsetAsync(slots_.base(s), 0xa5, load_.segment() * 2 * load_.experts, stream_), "cudaMemset");
  check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  poison_own();
}

std::uint64_t Mover::wrong(unsigned part) {
  bring_own();
  check_cuda(cudaMemsetAsync(wrong_, 0, sizeof *wrong_, stream_), "cudaMemset");
  for (unsigned i = 0; i < load_.experts; ++i)
    for (unsigned s = 0; s < load_.segments; ++s)
      count_wrong(slots_.at(s, slot_of(i)), load_.segment(), seed(1 - link_.rank(), part * load_.experts + i, s), wrong_,
                  stream_);
  unsigned long long found = 0;
  check_cuda(cudaMemcpyAsync(&found, wrong_, sizeof found, cudaMemcpyDeviceToHost, stream_), "cudaMemcpy");
  check_cuda(cudaStreamSynchronize(stream_), "count_wrong");
  return found;
}

std::uint64_t Mover::seed(unsigned rank, unsigned expert, unsigned segment) {
  return (std::uint64_t{rank} << 60) + (std::uint64_t{expert} << 44) + (std::uint64_t{segment} << 40) + 12345;
}

std::vector<std::string> mover_names(bool network) {
  if (network) return {"net-gpu", "net-direct", "net-host"};
  return {"cardea", "ipc-copy", "ipc-batch", "ipc-kernel", "nccl", "nccl-memcpy", "memcpy-peer"};
}

const char* limit_name(bool network) {
  return network ? "net-host" : "ipc-copy";
}

void prepare_process(const std::string& name) {
  if (name == "nccl-memcpy") setenv("NCCL_P2P_USE_CUDA_MEMCPY", "1", 1);
  if (name.rfind("net-", 0) != 0) return;
  setenv("CARDEA_GPU_DIRECT", name == "net-direct" ? "on" : "off", 1);
  setenv("UCX_TLS", "tcp,self,cuda_copy", 0);  // two nodes on one machine
}

std::unique_ptr<Mover> make_mover(const std::string& name, Link& link, const Load& load) {
  if (name == "cardea" || name.rfind("net-", 0) == 0) return make_cardea_mover(name, link, load);
  if (name == "nccl" || name == "nccl-memcpy") return make_nccl_mover(link, load);
  return make_copy_mover(name, link, load);
}

}  // namespace cardea::perf
