// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/worker.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <thread>

#include "lib/base/unique_fd.h"
#include "lib/transport/ucx/protocols.h"

namespace cardea::transport::ucx {
namespace {

constexpr int kProgressPerTurn = 32;

struct ConfigRelease {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
};

// What a program sets of a transport's own is known by its name alone up to UCX 1.16 (CONN_NB), and as in the environment
// since (TCP_CONN_NB).
std::string key_of(const std::string& name) {
  constexpr std::string_view kTcp = "TCP_";
  return ucx_minor_version() <= 16 && name.starts_with(kTcp) ? name.substr(kTcp.size()) : name;
}

// UCX ends the process, by an assertion or a null pointer, where it does not get a descriptor for its thread or its events
// (1.13: with fewer than 3, and again while interfaces are opened). A context and a worker took 15 with two interfaces.
constexpr std::size_t kDescriptorsNeeded = 48;

bool readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0;
}

}  // namespace

Status enough_descriptors() {
  std::array<UniqueFd, kDescriptorsNeeded> probes;
  for (std::size_t got = 0; got < probes.size(); ++got) {
    probes[got] = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    if (probes[got]) continue;
    return Status::from_errno(errno, "eventfd", fmt::format("{} descriptors are left, UCX needs {}", got, probes.size()));
  }
  return {};
}

Status ucx_error(ucs_status_t status, std::string_view call) {
  return Status::error(status == UCS_ERR_NO_MEMORY ? CARDEA_ERR_NO_MEMORY : CARDEA_ERR_TRANSPORT, "{}: {}", call,
                       ucs_status_string(status));
}

Result<std::shared_ptr<Worker>> Worker::make(boost::asio::io_context& io, const UcxOptions& options,
                                             std::uint64_t client_id) {
  auto worker = std::make_shared<Worker>(io, options.spin);
  if (auto status = worker->open(options, client_id); !status.ok()) return status;
  return worker;
}

Status Worker::open(const UcxOptions& options, std::uint64_t client_id) {
  if (auto status = enough_descriptors(); !status.ok()) return status;
  if (options.old_protocols) {
    old_protocols_ = *options.old_protocols;
  } else {
    const ProtocolWish wish = protocol_wish(options);
    old_protocols_ = *agree_on_old_protocols({&wish, 1});  // it agrees with itself
  }
  ucp_config_t* raw = nullptr;
  if (const auto status = ucp_config_read(nullptr, nullptr, &raw); status != UCS_OK)
    return ucx_error(status, "ucp_config_read");
  const std::unique_ptr<ucp_config_t, ConfigRelease> config(raw);
  std::vector<std::pair<std::string, std::string>> defaults = options.defaults;
  // By default a peer that has closed its end is noticed after 20 s. Much less than 5 s takes a slow link for a dead one:
  // UCX's signs of life wait behind what is queued.
  defaults.emplace_back("KEEPALIVE_INTERVAL", "5s");
  // Listeners are for streams over TCP, and a stream is for the device whose address was offered: with more, UCX spreads a
  // chunk over all that it has, the loopback device beside the network's included.
  defaults.emplace_back("SOCKADDR_TLS_PRIORITY", "tcp");
  defaults.emplace_back("CM_USE_ALL_DEVICES", "n");
  defaults.emplace_back("PROTO_ENABLE", old_protocols_ ? "n" : "y");
  if (!options.device.empty()) defaults.emplace_back("NET_DEVICES", options.device);
  for (const auto& [name, value] : defaults) {
    if (std::getenv(("UCX_" + name).c_str()) != nullptr) continue;
    if (const auto status = ucp_config_modify(raw, key_of(name).c_str(), value.c_str()); status != UCS_OK) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "UCX setting {}={}: {}", name, value, ucs_status_string(status));
    }
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP;
  params.name = "cardea";
  if (const auto status = ucp_init(&params, raw, &context_); status != UCS_OK) {
    context_ = nullptr;
    return ucx_error(status, "ucp_init");
  }
  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_CLIENT_ID;
  worker_params.client_id = client_id;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // made by one thread, driven by another
  if (const auto status = ucp_worker_create(context_, &worker_params, &worker_); status != UCS_OK) {
    worker_ = nullptr;
    return ucx_error(status, "ucp_worker_create");
  }
  int fd = -1;
  if (const auto status = ucp_worker_get_efd(worker_, &fd); status != UCS_OK) return ucx_error(status, "ucp_worker_get_efd");
  boost::system::error_code error;
  descriptor_.assign(fd, error);
  if (error) return Status::from_errno(error.value(), "epoll_ctl", "UCX worker");
  return {};
}

// With its older protocols UCX has receives into CUDA's memory that never end, and none by GET.
bool Worker::has_cuda_memory() const {
  if (old_protocols_) return false;
  ucp_context_attr_t attr{};
  attr.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  return ucp_context_query(context_, &attr) == UCS_OK && (attr.memory_types >> UCS_MEMORY_TYPE_CUDA & 1) != 0;
}

Result<Bytes> Worker::address() const {
  ucp_address_t* address = nullptr;
  std::size_t length = 0;
  if (const auto status = ucp_worker_get_address(worker_, &address, &length); status != UCS_OK) {
    return ucx_error(status, "ucp_worker_get_address");
  }
  const auto* first = reinterpret_cast<const std::byte*>(address);
  Bytes bytes(first, first + length);
  ucp_worker_release_address(worker_, address);
  return bytes;
}

Result<ucp_listener_h> Worker::listen(const sockaddr_storage& at, ucp_listener_conn_callback_t caller, void* arg) {
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&at);
  params.sockaddr.addrlen = at.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  params.conn_handler.cb = caller;
  params.conn_handler.arg = arg;
  ucp_listener_h listener = nullptr;
  if (const auto status = ucp_listener_create(worker_, &params, &listener); status != UCS_OK) {
    return ucx_error(status, "ucp_listener_create");
  }
  listeners_.push_back(listener);
  return listener;
}

void Worker::kick() {
  if (posted_ || stopped_) return;
  posted_ = true;
  boost::asio::post(io_, [self = shared_from_this()] { self->run(); });
}

void Worker::run() {
  posted_ = false;
  if (stopped_) return;
  int calls = 0;
  while (calls < kProgressPerTurn && ucp_worker_progress(worker_) != 0) ++calls;
  const bool acted = turn_ && turn_();
  if (stopped_) return;
  // What the turn started must be progressed at least once before the worker may sleep.
  if (acted || calls == kProgressPerTurn) {
    if (spin_.count() > 0) last_work_ = Clock::now();
    return kick();
  }
  if (spin_.count() > 0) {
    const auto now = Clock::now();
    if (calls > 0) last_work_ = now;
    if (now - last_work_ < spin_) return kick();
  }
  sleep();
}

void Worker::sleep() {
  if (ucp_worker_arm(worker_) != UCS_OK) return kick();  // BUSY: something came meanwhile
  // A wait that is still outstanding saw its edge before this arming; what has come since must not be missed.
  if (waiting_ && readable(descriptor_.native_handle())) return kick();
  wait();
}

void Worker::wait() {
  if (waiting_) return;
  waiting_ = true;
  descriptor_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                         [self = shared_from_this()](const boost::system::error_code& error) {
                           self->waiting_ = false;
                           if (!error) self->run();
                         });
}

// UCX 1.13 aborts when it is destroyed while an answer to somebody who has just connected waits for a connection of its own.
// If that peer has gone, the attempt fails as soon as UCX looks; if it lives, the answer leaves.
void Worker::settle() {
  constexpr auto kAtMost = std::chrono::milliseconds(100);
  constexpr auto kNap = std::chrono::microseconds(500);
  constexpr unsigned kQuietTurns = 20;
  const auto deadline = Clock::now() + kAtMost;
  for (unsigned quiet = 0; quiet < kQuietTurns && Clock::now() < deadline;) {
    quiet = ucp_worker_progress(worker_) != 0 ? 0 : quiet + 1;
    if (quiet != 0) std::this_thread::sleep_for(kNap);
  }
}

void Worker::stop() {
  if (std::exchange(stopped_, true)) return;
  if (descriptor_.is_open()) descriptor_.release();  // the descriptor is UCX's to close
  if (worker_ != nullptr) {
    settle();
    for (ucp_listener_h listener : listeners_) ucp_listener_destroy(listener);
    ucp_worker_destroy(worker_);
  }
  if (context_ != nullptr) ucp_cleanup(context_);
  worker_ = nullptr;
  context_ = nullptr;
}

}  // namespace cardea::transport::ucx
