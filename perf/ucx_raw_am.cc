// SPDX-License-Identifier: Apache-2.0
#include "perf/ucx_raw_am.h"

#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace cardea::perf {
namespace {

void check(ucs_status_t status, const char* call) {
  if (status != UCS_OK) throw std::runtime_error(std::string(call) + ": " + ucs_status_string(status));
}

struct Endpoint {
  ucp_context_h context = nullptr;
  ucp_worker_h worker = nullptr;
  ucp_ep_h ep = nullptr;

  Endpoint(int link, RawErrors errors) {
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_RMA;
    check(ucp_init(&params, nullptr, &context), "ucp_init");
    ucp_worker_params_t worker_params{};
    worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
    check(ucp_worker_create(context, &worker_params, &worker), "ucp_worker_create");
    ucp_address_t* mine = nullptr;
    std::size_t length = 0;
    check(ucp_worker_get_address(worker, &mine, &length), "ucp_worker_get_address");
    give(link, &length, sizeof(length));
    give(link, mine, length);
    ucp_worker_release_address(worker, mine);
    take(link, &length, sizeof(length));
    std::vector<std::byte> theirs(length);
    take(link, theirs.data(), length);
    ucp_ep_params_t ep_params{};
    ep_params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
    ep_params.address = reinterpret_cast<const ucp_address_t*>(theirs.data());
    if (errors == RawErrors::kPeer) {
      ep_params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
      ep_params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
      ep_params.err_handler.cb = [](void*, ucp_ep_h, ucs_status_t) {};  // the other end goes when it is done
    }
    check(ucp_ep_create(worker, &ep_params, &ep), "ucp_ep_create");
  }
};

struct Sender {
  std::size_t under_way = 0;
};

struct Receiver {
  ucp_worker_h worker = nullptr;
  std::vector<std::byte> landing;
  std::size_t received = 0;
  std::size_t next = 0;

  std::byte* place(std::size_t length) { return landing.data() + next++ % (landing.size() / length) * length; }
};

ucs_status_t on_message(void* arg, const void*, std::size_t, void* data, std::size_t length,
                        const ucp_am_recv_param_t* info) {
  auto& receiver = *static_cast<Receiver*>(arg);
  if ((info->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
    std::memcpy(receiver.place(length), data, length);
    ++receiver.received;
    return UCS_OK;
  }
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.user_data = arg;
  param.cb.recv_am = [](void* request, ucs_status_t status, std::size_t, void* user) {
    check(status, "ucp_am_recv_data_nbx");
    ++static_cast<Receiver*>(user)->received;
    ucp_request_free(request);
  };
  if (ucp_am_recv_data_nbx(receiver.worker, data, receiver.place(length), length, &param) == nullptr) ++receiver.received;
  return UCS_INPROGRESS;
}

}  // namespace

void give(int link, const void* data, std::size_t bytes) {
  for (const char* at = static_cast<const char*>(data); bytes > 0;) {
    const ssize_t written = ::write(link, at, bytes);
    if (written <= 0) throw std::runtime_error("the other process has gone");
    at += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void take(int link, void* data, std::size_t bytes) {
  for (char* at = static_cast<char*>(data); bytes > 0;) {
    const ssize_t got = ::read(link, at, bytes);
    if (got <= 0) throw std::runtime_error("the other process has gone");
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

void raw_send(int link, std::size_t bytes, std::size_t count, std::size_t window, std::size_t footprint,
              RawProtocol protocol, RawErrors errors) {
  Endpoint end(link, errors);
  Sender sender;
  const std::vector<std::byte> data(std::max(footprint / bytes, std::size_t{1}) * bytes, std::byte{7});
  std::size_t at = 0;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = protocol == RawProtocol::kEager        ? UCP_AM_SEND_FLAG_EAGER
                : protocol == RawProtocol::kRendezvous ? UCP_AM_SEND_FLAG_RNDV
                                                       : 0;
  param.user_data = &sender;
  param.cb.send = [](void* request, ucs_status_t status, void* user) {
    check(status, "ucp_am_send_nbx");
    --static_cast<Sender*>(user)->under_way;
    ucp_request_free(request);
  };
  const auto post = [&](std::size_t length) {
    const auto request = ucp_am_send_nbx(end.ep, 1, nullptr, 0, data.data() + at, length, &param);
    at = (at + length) % data.size();
    if (UCS_PTR_IS_ERR(request)) check(UCS_PTR_STATUS(request), "ucp_am_send_nbx");
    if (UCS_PTR_IS_PTR(request)) ++sender.under_way;
  };
  const auto drain = [&](std::size_t left) {
    while (sender.under_way > left) ucp_worker_progress(end.worker);
  };
  for (std::size_t i = 0; i < window; ++i) post(bytes);  // warm-up, and the connection
  drain(0);
  char go = 0;
  take(link, &go, 1);
  for (std::size_t i = 0; i < count; ++i) {
    post(bytes);
    drain(window - 1);
  }
  drain(0);
  // The receiver may still need this side for what it has not taken.
  for (const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
       std::chrono::steady_clock::now() < until;) {
    ucp_worker_progress(end.worker);
  }
  take(link, &go, 1);
}

double raw_receive(int link, std::size_t bytes, std::size_t count, std::size_t window, std::size_t footprint,
                   RawErrors errors) {
  Endpoint end(link, errors);
  Receiver receiver;
  receiver.worker = end.worker;
  receiver.landing.assign(std::max(footprint / bytes, std::size_t{1}) * bytes, std::byte{1});
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = 1;
  handler.cb = on_message;
  handler.arg = &receiver;
  check(ucp_worker_set_am_recv_handler(end.worker, &handler), "ucp_worker_set_am_recv_handler");
  while (receiver.received < window) ucp_worker_progress(end.worker);
  receiver.received = 0;
  const char go = 1;
  const auto start = std::chrono::steady_clock::now();
  give(link, &go, 1);
  while (receiver.received < count) ucp_worker_progress(end.worker);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  give(link, &go, 1);
  return static_cast<double>(bytes) * static_cast<double>(count) / took.count();
}

}  // namespace cardea::perf
