// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/ucx_rogue.h"

#include <netinet/in.h>

#include <stdexcept>
#include <thread>

#include "lib/transport/ucx/stream_address.h"

namespace cardea::test {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)
using transport::ucx::Address;
using transport::ucx::StreamOffer;
using transport::ucx::Worker;

Rogue::Rogue(UcxWorld& world, Rank self, const transport::UcxOptions& options) : self_(self) {
  setenv("UCX_TLS", "tcp,self", 0);
  const transport::ucx::Member me{self, {std::byte{42}}};
  auto made = Worker::make(io_, options, transport::ucx::caller_id(options.secret, options.job_id, me));
  if (!made.ok()) throw std::runtime_error(made.status().message());
  worker_ = *made;
  const auto peers = world.exchange(self, transport::ucx::encode_address({self, me.nonce, *worker_->address()}));
  peer_ = *transport::ucx::decode_address(peers[0].second, peers[0].first);
  pass_ = transport::ucx::make_pass(options.secret, options.job_id, me, {peer_.rank, peer_.nonce});
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.arg = this;
  handler.cb = [](void* arg, const void* header, std::size_t length, void* data, std::size_t,
                  const ucp_am_recv_param_t* info) {
    auto& rogue = *static_cast<Rogue*>(arg);
    const auto decoded = transport::ucx::decode_header({static_cast<const std::byte*>(header), length});
    if (decoded.ok()) rogue.heard.push_back(*decoded);
    const bool rendezvous = (info->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    if (!rendezvous || rogue.takes_data) return UCS_OK;
    rogue.left_lying_.push_back(data);
    return UCS_INPROGRESS;
  };
  ucp_worker_set_am_recv_handler(worker_->handle(), &handler);
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(peer_.worker.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = [](void*, ucp_ep_h, ucs_status_t) {};
  EXPECT_EQ(ucp_ep_create(worker_->handle(), &params, &endpoint_), UCS_OK);
}

Rogue::~Rogue() {
  for (void* data : left_lying_) ucp_am_data_release(worker_->handle(), data);
  for (ucp_ep_h endpoint : let_in) close(endpoint);
  close(endpoint_);
}

void Rogue::close(ucp_ep_h endpoint) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const auto request = ucp_ep_close_nbx(endpoint, &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  while (ucp_request_check_status(request) == UCS_INPROGRESS) ucp_worker_progress(worker_->handle());
  ucp_request_free(request);
}

void Rogue::say(const Bytes& header, const Bytes& payload, unsigned flags, ucp_ep_h by) {
  kept_.push_back(header);
  kept_.push_back(payload);
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = flags;
  const auto& last = kept_.back();
  const auto request = ucp_am_send_nbx(by != nullptr ? by : endpoint_, 0, kept_[kept_.size() - 2].data(), header.size(),
                                       last.data(), last.size(), &param);
  if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
}

bool Rogue::progress_until(const std::function<bool()>& done) {
  const auto deadline = Clock::now() + 40s;
  while (!done()) {
    if (Clock::now() > deadline) return false;
    while (ucp_worker_progress(worker_->handle()) != 0) {
    }
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

void Rogue::progress_for(std::chrono::milliseconds time) {
  const auto end = Clock::now() + time;
  progress_until([&] { return Clock::now() > end; });
}

ucp_ep_params_t Rogue::parameters() {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = this;
  params.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t) { ++static_cast<Rogue*>(arg)->failed_calls; };
  return params;
}

ucp_ep_h Rogue::call(const StreamOffer& where, bool with_id) {
  const sockaddr_storage address = to_sockaddr(where);
  ucp_ep_params_t params = parameters();
  params.field_mask |= UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  if (with_id) params.flags |= UCP_EP_PARAMS_FLAGS_SEND_CLIENT_ID;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address);
  params.sockaddr.addrlen = where.family == 6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  ucp_ep_h made = nullptr;
  EXPECT_EQ(ucp_ep_create(worker_->handle(), &params, &made), UCS_OK);
  return made;
}

StreamOffer Rogue::listen() {
  const auto let = [](ucp_conn_request_h caller, void* arg) {
    auto& rogue = *static_cast<Rogue*>(arg);
    ucp_ep_params_t params = rogue.parameters();
    params.field_mask |= UCP_EP_PARAM_FIELD_CONN_REQUEST;
    params.conn_request = caller;
    ucp_ep_h made = nullptr;
    EXPECT_EQ(ucp_ep_create(rogue.worker_->handle(), &params, &made), UCS_OK);
    rogue.let_in.push_back(made);
  };
  const auto listener = worker_->listen(*transport::ucx::address_of_device("lo"), let, this);
  EXPECT_TRUE(listener.ok()) << listener.status().message();
  ucp_listener_attr_t attr{};
  attr.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  EXPECT_EQ(ucp_listener_query(*listener, &attr), UCS_OK);
  return transport::ucx::to_offer(attr.sockaddr);
}

}  // namespace cardea::test
