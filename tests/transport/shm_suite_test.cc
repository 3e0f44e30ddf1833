// SPDX-License-Identifier: Apache-2.0
// The common suite over the shared-memory transport, once with process_vm_readv and once where the kernel is said to refuse
// it.
#include <gtest/gtest.h>

#include <stdexcept>

#include "lib/transport/shm/factory.h"
#include "tests/transport/suite.h"
#include "tests/transport/suite_forked.h"

namespace cardea::test {
namespace {

class ShmRank final : public ForkedRank {
 public:
  ShmRank(boost::asio::io_context& io, bootstrap::Exchange& exchange, transport::Listener& listener, bool reads_processes) {
    Result<shm::Membership> membership =
        shm::prove_membership(exchange, "", Clock::now() + kPatience, {.handshake_timeout = kPatience});
    if (!membership.ok()) throw std::runtime_error(membership.status().message());
    if (membership->links.size() + 1 != exchange.world_size()) throw std::runtime_error("not all ranks became one node");
    transport_ = shm::make_shm_transport(io, listener, exchange.rank(), std::move(membership->links),
                                         {.allow_process_vm_readv = reads_processes});
  }
  transport::Transport& transport() override { return *transport_; }

 private:
  std::unique_ptr<transport::Transport> transport_;
};

class ShmBackend final : public ForkedBackend {
 public:
  explicit ShmBackend(bool reads_processes) : reads_processes_(reads_processes) {}
  Traits traits() const override {
    return {.asks_for_mappable = false, .asks_for_private = !reads_processes_, .maps = true};
  }

 protected:
  std::unique_ptr<ForkedRank> make_rank(boost::asio::io_context& io, bootstrap::Exchange& exchange,
                                        transport::Listener& listener) override {
    return std::make_unique<ShmRank>(io, exchange, listener, reads_processes_);
  }

 private:
  const bool reads_processes_;
};

INSTANTIATE_TEST_SUITE_P(Node, TransportSuite,
                         ::testing::Values(BackendParam{"Shm", [] { return std::make_unique<ShmBackend>(true); }},
                                           BackendParam{"ShmAsking", [] { return std::make_unique<ShmBackend>(false); }}),
                         backend_name);

}  // namespace
}  // namespace cardea::test
