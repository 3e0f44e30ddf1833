// SPDX-License-Identifier: Apache-2.0
// Tells over what an endpoint moves bytes: whether it reads remote memory in hardware, and whether it is all TCP. UCX offers
// ucp_get on every endpoint, and over most it is a request that the other side's software answers: slower than asking for
// the chunk. UCX 1.13 says which only in the text of ucp_ep_print_info, so that is read, and an unknown text means no.
#pragma once

#include <ucp/api/ucp.h>

#include <string>
#include <string_view>

namespace cardea::transport::ucx {

/// From the text: a lane of an RDMA transport (rc, dc) for which a GET protocol is listed.
bool describes_hardware_get(std::string_view endpoint_info);
/// Asks UCX about the endpoint. `peer_errors` as the endpoint was made: with it, UCX 1.15 to 1.18 lose zero-copy GET.
bool has_hardware_get(ucp_ep_h endpoint, bool peer_errors);

/// From the text of ucp_context_print_info: an RDMA transport by which hardware reads remote memory is among its resources.
bool describes_rdma(std::string_view context_info);
/// Asks UCX about the context.
bool has_rdma(ucp_context_h context);
/// The same, and that endpoints with peer errors, or without, use it for reading.
bool reads_by_rdma(ucp_context_h context, bool peer_errors);

/// From the text: the network device, such as "eth0", of an endpoint all of whose lanes are TCP; empty for any other.
std::string describes_tcp_device(std::string_view endpoint_info);
/// Asks UCX about the endpoint.
std::string tcp_device(ucp_ep_h endpoint);

}  // namespace cardea::transport::ucx
