// SPDX-License-Identifier: Apache-2.0
// The suite of all transports over ucx: streaming by either protocol over loopback TCP, by streams and
// with the messages; and over two rails.
#include <cstdlib>
#include <stdexcept>

#include "lib/transport/ucx/factory.h"
#include "tests/transport/suite_forked.h"

namespace cardea::test {
namespace {

using transport::StreamProtocol;

class UcxSuiteRank final : public ForkedRank {
 public:
  UcxSuiteRank(boost::asio::io_context& io, bootstrap::Exchange& exchange, transport::Listener& listener,
               StreamProtocol stream, bool connections, bool rails) {
    setenv("UCX_TLS", "tcp,self", 0);
    transport::UcxOptions options;
    options.self = exchange.rank();
    options.job_id = exchange.job_id();
    options.secret = exchange.secret();
    options.stream = stream;
    options.stream_connections = connections;
    auto made = rails ? transport::make_ucx_rails(io, listener, options, {"lo", "lo"})
                      : transport::make_ucx_transport(io, listener, options);
    if (!made.ok()) throw std::runtime_error(made.status().message());
    transport_ = std::move(*made);
  }
  transport::Transport& transport() override { return *transport_; }

 private:
  std::unique_ptr<transport::Transport> transport_;
};

class UcxBackend final : public ForkedBackend {
 public:
  UcxBackend(StreamProtocol stream, bool connections, bool rails)
      : stream_(stream), connections_(connections), rails_(rails) {}
  Traits traits() const override { return {.asks_for_mappable = true, .asks_for_private = true, .maps = false}; }

 protected:
  std::unique_ptr<ForkedRank> make_rank(boost::asio::io_context& io, bootstrap::Exchange& exchange,
                                        transport::Listener& listener) override {
    return std::make_unique<UcxSuiteRank>(io, exchange, listener, stream_, connections_, rails_);
  }

 private:
  StreamProtocol stream_;
  bool connections_;
  bool rails_;
};

BackendParam backend(const char* name, StreamProtocol stream, bool connections, bool rails = false) {
  return {name, [=] { return std::make_unique<UcxBackend>(stream, connections, rails); }};
}

INSTANTIATE_TEST_SUITE_P(Ucx, TransportSuite,
                         ::testing::Values(backend("UcxRendezvous", StreamProtocol::kRendezvous, true),
                                           backend("UcxWithMessages", StreamProtocol::kRendezvous, false),
                                           backend("UcxEager", StreamProtocol::kEager, true),
                                           backend("UcxRails", StreamProtocol::kRendezvous, true, true),
                                           backend("UcxRailsEager", StreamProtocol::kEager, true, true)),
                         backend_name);

}  // namespace
}  // namespace cardea::test
