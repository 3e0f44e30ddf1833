// SPDX-License-Identifier: Apache-2.0
// The gate that every topology file passes before anything interprets it. A file may be anything: truncated, empty, a
// picture, an entity bomb, /dev/zero. Whatever passes is well-formed XML of bounded size, depth and device count, without a
// document type of its own. Pure functions but for the reading; thread-safe. Every error is CONFIGURATION.
#pragma once

#include <cstddef>
#include <memory>
#include <pugixml.hpp>
#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace cardea::topology {

inline constexpr std::size_t kMostFileBytes = std::size_t{8} << 20;
inline constexpr std::size_t kMostFileDevices = 4096;
inline constexpr unsigned kMostXmlDepth = 64;

/// The bytes of a regular file of at most kMostFileBytes.
Result<std::string> read_topology_file(const std::string& path);

/// The document. Refuses: nothing, NUL bytes, a document type with an internal subset and entities (a bare reference such
/// as hwloc's own DOCTYPE is harmless, nothing follows it), ill-formed or truncated XML, several roots, nesting deeper than
/// kMostXmlDepth, more than kMostFileDevices devices.
Result<std::unique_ptr<pugi::xml_document>> parse_topology_xml(std::string_view text);

}  // namespace cardea::topology
