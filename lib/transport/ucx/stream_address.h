// SPDX-License-Identifier: Apache-2.0
// Where a rank awaits the connections by which peers stream chunks to it: the address of the network device by which it
// reaches them, which is one by which they reach it. Functions without state.
#pragma once

#include <sys/socket.h>

#include <string>

#include "lib/base/status.h"
#include "lib/transport/ucx/wire.h"

namespace cardea::transport::ucx {

/// An address of the device, port 0: IPv4 before IPv6, and none that is valid only on one link. TRANSPORT if it has none.
Result<sockaddr_storage> address_of_device(const std::string& device);

/// The network that this address lies in, such as "192.0.2.0/24"; empty if it has none.
std::string network_of_device(const std::string& device);

StreamOffer to_offer(const sockaddr_storage& address);
sockaddr_storage to_sockaddr(const StreamOffer& offer);
/// "192.0.2.1:4711", for messages.
std::string to_string(const StreamOffer& offer);

}  // namespace cardea::transport::ucx
