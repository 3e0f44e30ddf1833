// SPDX-License-Identifier: Apache-2.0
#include <hwloc.h>

#include <memory>

#include "topology/live.h"
#include "topology/load.h"

namespace cardea::topology {
namespace {

struct Destroy {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};

}  // namespace

Result<Description> discover_hwloc() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return Status::from_errno(errno, "hwloc_topology_init");
  const std::unique_ptr<hwloc_topology, Destroy> topology(raw);
  hwloc_topology_set_io_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
  // HWLOC_XMLFILE and the like would put a file in the machine's place: that is CARDEA_TOPO_FILE's part, with its checks.
  if (hwloc_topology_load(raw) != 0) return Status::from_errno(errno, "hwloc_topology_load");
  if (!hwloc_topology_is_thissystem(raw)) {
    return Status::error(CARDEA_ERR_CONFIGURATION,
                         "HWLOC_XMLFILE or HWLOC_SYNTHETIC replaces this machine; unset it and use CARDEA_TOPO_FILE");
  }
  char* text = nullptr;
  int length = 0;
  if (hwloc_topology_export_xmlbuffer(raw, &text, &length, 0) != 0)
    return Status::from_errno(errno, "hwloc_topology_export_xmlbuffer");
  Result<Description> description = load_text(std::string(text), "this machine, by hwloc");
  hwloc_free_xmlbuffer(raw, text);
  if (description.ok()) description->source = "this machine";
  return description;
}

}  // namespace cardea::topology
