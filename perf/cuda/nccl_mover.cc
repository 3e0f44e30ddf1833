// SPDX-License-Identifier: Apache-2.0
// NCCL's send and receive, called directly: all pieces of a transfer in one group.
#include "perf/cuda/mover.h"

#ifdef CARDEA_HAVE_NCCL
#include <nccl.h>
#endif

namespace cardea::perf {

#ifdef CARDEA_HAVE_NCCL
namespace {

void check_nccl(ncclResult_t status, const char* call) {
  if (status != ncclSuccess) throw std::runtime_error(std::string(call) + ": " + ncclGetErrorString(status));
}

class NcclMover final : public Mover {
 public:
  NcclMover(Link& link, const Load& load) : Mover(link, load) {
    ncclUniqueId mine{};
    if (link_.rank() == 0) check_nccl(ncclGetUniqueId(&mine), "ncclGetUniqueId");
    const ncclUniqueId theirs = link_.swap(mine);
    check_nccl(ncclCommInitRank(&communicator_, 2, link_.rank() == 0 ? mine : theirs, static_cast<int>(link_.rank())),
               "ncclCommInitRank");
  }
  ~NcclMover() override { ncclCommDestroy(communicator_); }

  void receive(unsigned part, bool both) override { group(part, both, true); }
  void serve(unsigned part) override { group(part, true, false); }

 private:
  void group(unsigned part, bool send, bool take) {
    const int peer = 1 - static_cast<int>(link_.rank());
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    for (unsigned i = 0; i < load_.experts; ++i)
      for (unsigned s = 0; s < load_.segments; ++s) {
        if (send)
          check_nccl(
              ncclSend(home_.at(s, part * load_.experts + i), load_.segment(), ncclInt8, peer, communicator_, stream_),
              "ncclSend");
        if (take) check_nccl(ncclRecv(slots_.at(s, i), load_.segment(), ncclInt8, peer, communicator_, stream_), "ncclRecv");
      }
    check_nccl(ncclGroupEnd(), "ncclGroupEnd");
  }

  ncclComm_t communicator_{};
};

}  // namespace

std::unique_ptr<Mover> make_nccl_mover(Link& link, const Load& load) {
  return std::make_unique<NcclMover>(link, load);
}
#else
std::unique_ptr<Mover> make_nccl_mover(Link&, const Load&) {
  throw std::runtime_error("built without NCCL");
}
#endif

}  // namespace cardea::perf
