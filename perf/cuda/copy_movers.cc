// SPDX-License-Identifier: Apache-2.0
// Copies as plainly as CUDA lets them be written: over CUDA IPC by this GPU's copy engine (one call each, or one batch),
// over CUDA IPC by a kernel, and cudaMemcpyPeerAsync between two GPUs of one process.
#include <stdexcept>

#include "perf/cuda/kernels.h"
#include "perf/cuda/mover.h"

namespace cardea::perf {
namespace {

/// The other rank's experts, by IPC.
class IpcMover : public Mover {
 public:
  IpcMover(Link& link, const Load& load) : Mover(link, load) {
    for (unsigned s = 0; s < load_.segments; ++s) {
      cudaIpcMemHandle_t mine;
      check_cuda(cudaIpcGetMemHandle(&mine, home_.base(s)), "cudaIpcGetMemHandle");
      const cudaIpcMemHandle_t theirs = link_.swap(mine);
      void* base = nullptr;
      check_cuda(cudaIpcOpenMemHandle(&base, theirs, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
      theirs_.push_back(static_cast<char*>(base));
    }
  }
  ~IpcMover() override {
    for (char* base : theirs_) cudaIpcCloseMemHandle(base);
  }

 protected:
  const char* source(unsigned segment, unsigned expert) const { return theirs_[segment] + expert * load_.segment(); }

  template <typename Copy>
  void each(unsigned part, Copy copy) {
    for (unsigned i = 0; i < load_.experts; ++i)
      for (unsigned s = 0; s < load_.segments; ++s) copy(slots_.at(s, i), source(s, part * load_.experts + i));
  }

 private:
  std::vector<char*> theirs_;
};

class IpcCopy final : public IpcMover {
 public:
  using IpcMover::IpcMover;
  void receive(unsigned part, bool) override {
    each(part, [&](void* to, const void* from) {
      check_cuda(cudaMemcpyAsync(to, from, load_.segment(), cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
    });
  }
};

class IpcKernel final : public IpcMover {
 public:
  using IpcMover::IpcMover;
  void receive(unsigned part, bool) override {
    each(part, [&](void* to, const void* from) { copy_by_kernel(to, from, load_.segment(), stream_); });
    check_cuda(cudaGetLastError(), "copy kernel");
  }
};

class IpcBatch final : public IpcMover {
 public:
  IpcBatch(Link& link, const Load& load) : IpcMover(link, load) {
    if (!supported()) throw std::runtime_error("cudaMemcpyBatchAsync needs CUDA 12.8");
  }
  static bool supported() {
#if CUDART_VERSION >= 12080
    int driver = 0;
    return cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12080;
#else
    return false;
#endif
  }
  void receive(unsigned part, bool) override {
#if CUDART_VERSION >= 12080
    std::vector<void*> to;
    std::vector<const void*> from;
    each(part, [&](void* t, const void* f) {
      to.push_back(t);
      from.push_back(f);
    });
    std::vector<std::size_t> sizes(to.size(), load_.segment());
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    std::size_t first = 0;
#if CUDART_VERSION >= 13000
    check_cuda(cudaMemcpyBatchAsync(to.data(), from.data(), sizes.data(), to.size(), &attributes, &first, 1, stream_),
               "cudaMemcpyBatchAsync");
#else
    std::size_t failed = 0;
    check_cuda(cudaMemcpyBatchAsync(to.data(), const_cast<void**>(from.data()), sizes.data(), to.size(), &attributes, &first,
                                    1, &failed, stream_),
               "cudaMemcpyBatchAsync");
#endif
#else
    static_cast<void>(part);
#endif
  }
};

/// Holds a copy of the other rank's experts on the other rank's device itself, since that call knows no other process's
/// memory.
class MemcpyPeer final : public Mover {
 public:
  MemcpyPeer(Link& link, const Load& load) : Mover(link, load) {
    check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
    peer_ = link_.swap(device_);
    check_cuda(cudaSetDevice(peer_), "cudaSetDevice");
    theirs_ = std::make_unique<Arrays>(load_, kParts * load_.experts);
    for (unsigned e = 0; e < kParts * load_.experts; ++e)
      for (unsigned s = 0; s < load_.segments; ++s)
        write_pattern(theirs_->at(s, e), load_.segment(), seed(1 - link_.rank(), e, s), nullptr);
    check_cuda(cudaDeviceSynchronize(), "write_pattern");
    check_cuda(cudaSetDevice(device_), "cudaSetDevice");
    if (peer_ != device_) check_cuda(cudaDeviceEnablePeerAccess(peer_, 0), "cudaDeviceEnablePeerAccess");
  }
  void receive(unsigned part, bool) override {
    for (unsigned i = 0; i < load_.experts; ++i)
      for (unsigned s = 0; s < load_.segments; ++s)
        check_cuda(cudaMemcpyPeerAsync(slots_.at(s, i), device_, theirs_->at(s, part * load_.experts + i), peer_,
                                       load_.segment(), stream_),
                   "cudaMemcpyPeerAsync");
  }
  ~MemcpyPeer() override {
    if (peer_ != device_) cudaDeviceDisablePeerAccess(peer_);
  }

 private:
  int device_ = 0, peer_ = 0;
  std::unique_ptr<Arrays> theirs_;
};

}  // namespace

std::unique_ptr<Mover> make_copy_mover(const std::string& name, Link& link, const Load& load) {
  if (name == "ipc-copy") return std::make_unique<IpcCopy>(link, load);
  if (name == "ipc-batch") return std::make_unique<IpcBatch>(link, load);
  if (name == "ipc-kernel") return std::make_unique<IpcKernel>(link, load);
  if (name == "memcpy-peer") return std::make_unique<MemcpyPeer>(link, load);
  throw std::invalid_argument("no mover is called " + name);
}

}  // namespace cardea::perf
