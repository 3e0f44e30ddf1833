// SPDX-License-Identifier: Apache-2.0
#include "topology/load.h"

#include "topology/hwloc_xml.h"
#include "topology/nccl_file.h"
#include "topology/xml_file.h"

namespace cardea::topology {
namespace {

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1);
}

Result<Description> read(const pugi::xml_node& root, const std::string& label) {
  const std::string_view name = root.name();
  const bool hwloc = name == "topology";
  if (!hwloc && name != "system") {
    return Status::error(CARDEA_ERR_CONFIGURATION, "its root is <{}>, neither <topology> (hwloc) nor <system> (NCCL)",
                         name.substr(0, 40));
  }
  Result<Description> description = hwloc ? read_hwloc_xml(root) : read_nccl(root);
  if (!description.ok()) return description;
  const bool first = hwloc && std::string_view(root.attribute("version").value()).substr(0, 1) != "2";
  description->source = fmt::format("{} {}",
                                    !hwloc  ? "NCCL topology"
                                    : first ? "hwloc 1 XML"
                                            : "hwloc 2 XML",
                                    base_name(label));
  return description;
}

}  // namespace

Result<Description> load_file(const std::string& path) {
  Result<std::string> text = read_topology_file(path);
  if (!text.ok()) return text.status();
  return load_text(*text, path);
}

Result<Description> load_text(std::string_view text, const std::string& label) {
  auto document = parse_topology_xml(text);
  if (!document.ok()) return document.status().within(label);
  Result<Description> description = read((*document)->document_element(), label);
  if (!description.ok()) return description.status().within(label);
  // What a description may not say is checked with the file, not later at its use.
  if (const Result<Machine> machine = assemble(*description); !machine.ok()) return machine.status().within(label);
  return description;
}

}  // namespace cardea::topology
