// SPDX-License-Identifier: Apache-2.0
// Chunks whose destination is memory of the GPU. UCX is asked whether it has such memory; where it has not, they are
// refused.
//
// Over RDMA the NIC writes there, by GET as by a rendezvous, into memory that is registered once. Over TCP UCX receives into
// buffers of its own and copies, for which it calls the GPU's driver on this thread, in whose context that of the device
// must be current: that is the engine's business (engine/gpu_direct.cc). What comes eagerly lies in UCX's buffers, and UCX
// copies none of that to a GPU unless each message is kept for it: so it is handed to the engine as it is.
//
// What kind a piece of memory is, UCX finds out by itself, whatever a receive says of it. It remembers what the process has
// allocated since it looks, and takes all else for the host's, which it would write into by the processor. So each slab is
// shown to it first, and refused if it is mistaken.
#include <algorithm>
#include <atomic>

#include "lib/base/log.h"
#include "lib/transport/ucx/lanes.h"
#include "lib/transport/ucx/ucx_transport.h"

namespace cardea::transport::ucx {
namespace {

constexpr int kAskUcx = -1;
std::atomic<int> pretended{kAskUcx};
std::atomic<bool> pretended_known{true};

}  // namespace

void UcxTransport::ask_of_device_memory() {
  if (pretended != kAskUcx) {
    device_ = {DeviceMemory::kNone, pretended_known ? UCS_MEMORY_TYPE_HOST : UCS_MEMORY_TYPE_CUDA, true};
    return;
  }
  if (!worker_->has_cuda_memory()) return;
  const bool rdma = options_.get == GetPolicy::kAuto && reads_by_rdma(worker_->context(), options_.peer_errors);
  device_.best = rdma ? DeviceMemory::kWritten : DeviceMemory::kCopied;
}

DeviceMemory UcxTransport::device_memory() const {
  return device_.pretended ? static_cast<DeviceMemory>(pretended.load()) : device_.best;
}

DeviceMemory UcxTransport::device_memory(Rank rank) {
  Peer* const peer = find(rank);
  if (device_.best != DeviceMemory::kWritten || device_.pretended || peer == nullptr) return device_memory();
  const ucp_ep_h ep = endpoint(*peer);
  return ep != nullptr && hardware_get(*peer, ep) ? DeviceMemory::kWritten : DeviceMemory::kCopied;
}

Status UcxTransport::prepare_device(const ChunkOrder& order) {
  const auto refuse = [&](std::string what) {
    return Status(CARDEA_ERR_UNSUPPORTED, std::move(what), {.peer = order.source, .path = CARDEA_PATH_NETWORK});
  };
  if (device_memory() == DeviceMemory::kNone)
    return refuse(fmt::format("UCX {} has no device memory to receive into", ucp_get_version_string()));
  const auto* const base = static_cast<const std::byte*>(order.device.iov_base);
  const bool inside = order.destination.size() == 1 && order.destination[0].iov_base >= base &&
                      static_cast<const std::byte*>(order.destination[0].iov_base) + order.destination[0].iov_len <=
                          base + order.device.iov_len;
  if (!inside) return refuse("a chunk onto the device takes one piece, inside of the memory that it names");
  if (device_regions_.contains(order.device.iov_base)) return {};
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_PROT;
  params.address = order.device.iov_base;
  params.length = order.device.iov_len;
  params.prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE | UCP_MEM_MAP_PROT_REMOTE_WRITE;
  ucp_mem_h memory = nullptr;
  if (const auto status = ucp_mem_map(worker_->context(), &params, &memory); status != UCS_OK) {
    return refuse(fmt::format("{} bytes of device memory cannot be registered with UCX: {}", order.device.iov_len,
                              ucs_status_string(status)));
  }
  ucp_mem_attr_t attributes{};
  attributes.field_mask = UCP_MEM_ATTR_FIELD_MEM_TYPE;
  if (ucp_mem_query(memory, &attributes) != UCS_OK || attributes.mem_type != device_.type) {
    ucp_mem_unmap(worker_->context(), memory);
    return refuse("UCX takes the slab's memory for the host's: with UCX_MEMTYPE_CACHE=n it asks the driver");
  }
  device_regions_.emplace(order.device.iov_base, memory);
  return {};
}

void UcxTransport::describe_destination(const ChunkOrder& order, ucp_request_param_t& param) const {
  if (!order.onto_device()) return;
  param.memory_type = device_.type;
  if (device_memory() != DeviceMemory::kWritten) return;  // registered with no NIC
  const auto registered = device_regions_.find(order.device.iov_base);
  if (registered == device_regions_.end()) return;
  param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
  param.memh = registered->second;
}

Status UcxTransport::error_of(const ChunkOrder& order, ucs_status_t status, std::string_view call) {
  const bool cannot = status == UCS_ERR_UNSUPPORTED || status == UCS_ERR_NOT_IMPLEMENTED;
  if (!order.onto_device() || !cannot) return ucx_error(status, call);
  return Status::error(CARDEA_ERR_UNSUPPORTED, "{} into device memory: {}", call, ucs_status_string(status));
}

void UcxTransport::land(Pull& pull, ByteView bytes) {
  end(pull, [this, token = pull.order.token, landed = Bytes(bytes.begin(), bytes.end())]() mutable {
    listener_.on_chunk_landed(token, std::move(landed));
  });
}

void UcxTransport::forget_device(void* base) {
  const auto found = device_regions_.find(base);
  if (found == device_regions_.end()) return;
  if (worker_->context() != nullptr) ucp_mem_unmap(worker_->context(), found->second);
  device_regions_.erase(found);
}

void UcxTransport::forget_all_device_memory() {
  while (!device_regions_.empty()) forget_device(device_regions_.begin()->first);
}

}  // namespace cardea::transport::ucx

namespace cardea::transport {

bool ucx_has_device_memory() {
  boost::asio::io_context io;
  UcxOptions options;
  options.device_memory = true;
  const auto worker = ucx::Worker::make(io, options);
  if (!worker.ok()) return false;
  const bool has = (*worker)->has_cuda_memory();
  (*worker)->stop();
  return has;
}

void pretend_device_memory(std::optional<DeviceMemory> answer, bool known) {
  ucx::pretended_known = known;
  ucx::pretended = answer ? static_cast<int>(*answer) : ucx::kAskUcx;
}

}  // namespace cardea::transport
