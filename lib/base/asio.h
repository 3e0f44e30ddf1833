// SPDX-License-Identifier: Apache-2.0
// Boost.Asio, with what its 1.74 release forgets to include. Include this, never <boost/asio.hpp>.
#pragma once

#include <utility>

#include <boost/asio.hpp>
