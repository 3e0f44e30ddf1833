// SPDX-License-Identifier: Apache-2.0
#include "topology/xml_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "lib/base/unique_fd.h"

namespace cardea::topology {
namespace {

constexpr std::size_t kMostTags = 400000;  // a large real machine has 10,000

template <typename... Args>
Status wrong(fmt::format_string<Args...> format, Args&&... args) {
  return Status::error(CARDEA_ERR_CONFIGURATION, format, std::forward<Args>(args)...);
}

Status check_text(std::string_view text) {
  if (text.empty()) return wrong("the file is empty");
  if (text.size() > kMostFileBytes) return wrong("{} bytes, more than {}", text.size(), kMostFileBytes);
  if (text.find('\0') != std::string_view::npos) return wrong("not XML: it contains NUL bytes");
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return wrong("the file is empty but for white space");
  if (text.find("<!ENTITY") != std::string_view::npos) return wrong("it declares XML entities, which no topology needs");
  if (const auto doctype = text.find("<!DOCTYPE"); doctype != std::string_view::npos) {
    const std::string_view rest = text.substr(doctype);
    const auto end = rest.find('>');
    if (end == std::string_view::npos) return wrong("truncated within its DOCTYPE");
    if (rest.substr(0, end).find('[') != std::string_view::npos)
      return wrong("its DOCTYPE has an internal subset, which no topology needs");
  }
  const auto tags = static_cast<std::size_t>(std::count(text.begin(), text.end(), '<'));
  if (tags > kMostTags) return wrong("{} XML tags, more than {}", tags, kMostTags);
  return {};
}

bool is_device(const pugi::xml_node& node) {
  const std::string_view name = node.name();
  if (name == "object") {
    constexpr std::array kCounted = {"PCIDev", "Bridge", "OSDev", "NUMANode", "Package", "Socket"};
    const std::string_view type = node.attribute("type").value();
    return std::any_of(kCounted.begin(), kCounted.end(), [&](const char* counted) { return type == counted; });
  }
  constexpr std::array kCounted = {"pci", "cpu", "gpu", "nic", "net"};
  return std::any_of(kCounted.begin(), kCounted.end(), [&](const char* counted) { return name == counted; });
}

/// Counts devices and measures depth without recursion: the document is not to be trusted yet.
class Census : public pugi::xml_tree_walker {
 public:
  bool for_each(pugi::xml_node& node) override {
    if (node.type() != pugi::node_element) return true;
    too_deep = depth() >= static_cast<int>(kMostXmlDepth);
    if (is_device(node)) ++devices;
    return !too_deep && devices <= kMostFileDevices;
  }
  std::size_t devices = 0;
  bool too_deep = false;
};

}  // namespace

Result<std::string> read_topology_file(const std::string& path) {
  // Not blocking, lest a FIFO hang the job.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return wrong("{}: {}", path, std::strerror(errno));
  struct stat information {};
  if (::fstat(fd.get(), &information) != 0) return wrong("{}: {}", path, std::strerror(errno));
  if (!S_ISREG(information.st_mode)) return wrong("{}: not a regular file", path);
  if (static_cast<std::size_t>(information.st_size) > kMostFileBytes) {
    return wrong("{}: {} bytes, more than {}", path, information.st_size, kMostFileBytes);
  }
  // Files of /sys and /proc tell no true size, so read until the end, and never past the cap.
  std::string text;
  std::array<char, 65536> block;
  while (true) {
    const ssize_t got = ::read(fd.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return wrong("{}: {}", path, std::strerror(errno));
    if (got == 0) return text;
    text.append(block.data(), static_cast<std::size_t>(got));
    if (text.size() > kMostFileBytes) return wrong("{}: more than {} bytes", path, kMostFileBytes);
  }
}

Result<std::unique_ptr<pugi::xml_document>> parse_topology_xml(std::string_view text) {
  if (Status status = check_text(text); !status.ok()) return status;
  auto document = std::make_unique<pugi::xml_document>();
  const pugi::xml_parse_result parsed =
      document->load_buffer(text.data(), text.size(), pugi::parse_default, pugi::encoding_utf8);
  if (!parsed) {
    const bool truncated = static_cast<std::size_t>(parsed.offset) + 1 >= text.size();
    return wrong("not well-formed XML at byte {} of {}{}: {}", parsed.offset, text.size(), truncated ? ", truncated?" : "",
                 parsed.description());
  }
  std::size_t roots = 0;
  for (const pugi::xml_node& child : document->children()) roots += child.type() == pugi::node_element;
  if (roots != 1) return wrong("{} root elements, not one", roots);
  Census census;
  document->traverse(census);
  if (census.too_deep) return wrong("elements nest deeper than {}", kMostXmlDepth);
  if (census.devices > kMostFileDevices) return wrong("more than {} devices", kMostFileDevices);
  return document;
}

}  // namespace cardea::topology
