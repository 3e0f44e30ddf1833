// SPDX-License-Identifier: Apache-2.0
// NVML's functions are declared here, as its header has them, so that the library builds without it.
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <memory>

#include "topology/live.h"

namespace cardea::topology {
namespace {

using Handle = void*;
constexpr unsigned kMostLinks = 36;
constexpr int kP2pNvlink = 2;  // NVML_P2P_CAPS_INDEX_NVLINK

struct PciInfo {  // nvmlPciInfo_t
  char bus_id_legacy[16];
  unsigned domain;
  unsigned bus;
  unsigned device;
  unsigned pci_device_id;
  unsigned pci_subsystem_id;
  char bus_id[32];
};
struct Memory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct Close {
  void operator()(void* library) const { ::dlclose(library); }
};

class Nvml {
 public:
  bool open(std::string& note) {
    library_.reset(::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL));
    if (!library_) return false;
    bool all = load(init, "nvmlInit_v2") && load(shutdown, "nvmlShutdown") && load(count, "nvmlDeviceGetCount_v2");
    all = all && load(handle, "nvmlDeviceGetHandleByIndex_v2") && load(pci, "nvmlDeviceGetPciInfo_v3");
    all = all && load(uuid, "nvmlDeviceGetUUID") && load(name, "nvmlDeviceGetName");
    if (!all) return note = "libnvidia-ml.so.1 is too old to be asked for NVLinks", false;
    load(memory, "nvmlDeviceGetMemoryInfo");
    load(generation, "nvmlDeviceGetMaxPcieLinkGeneration");
    load(most_width, "nvmlDeviceGetMaxPcieLinkWidth");
    load(width, "nvmlDeviceGetCurrPcieLinkWidth");
    load(link_state, "nvmlDeviceGetNvLinkState");
    load(link_remote, "nvmlDeviceGetNvLinkRemotePciInfo_v2");
    load(link_type, "nvmlDeviceGetNvLinkRemoteDeviceType");
    load(p2p, "nvmlDeviceGetP2PStatus");
    if (const int error = init(); error != 0)
      return note = fmt::format("nvmlInit failed with code {}: is the driver loaded?", error), false;
    ready_ = true;
    return true;
  }
  ~Nvml() {
    if (ready_) shutdown();
  }

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*handle)(unsigned, Handle*) = nullptr;
  int (*pci)(Handle, PciInfo*) = nullptr;
  int (*uuid)(Handle, char*, unsigned) = nullptr;
  int (*name)(Handle, char*, unsigned) = nullptr;
  int (*memory)(Handle, Memory*) = nullptr;
  int (*generation)(Handle, unsigned*) = nullptr;
  int (*most_width)(Handle, unsigned*) = nullptr;
  int (*width)(Handle, unsigned*) = nullptr;
  int (*link_state)(Handle, unsigned, unsigned*) = nullptr;
  int (*link_remote)(Handle, unsigned, PciInfo*) = nullptr;
  int (*link_type)(Handle, unsigned, unsigned*) = nullptr;
  int (*p2p)(Handle, Handle, int, int*) = nullptr;

 private:
  template <typename Function>
  bool load(Function& function, const char* symbol) {
    function = reinterpret_cast<Function>(::dlsym(library_.get(), symbol));
    return function != nullptr;
  }

  std::unique_ptr<void, Close> library_;
  bool ready_ = false;
};

std::string text(const char* from, std::size_t most) {
  return std::string(from, std::find(from, from + most, '\0'));
}

std::vector<DriverGpu::Link> links_of(const Nvml& nvml, Handle gpu) {
  std::vector<DriverGpu::Link> links;
  for (unsigned i = 0; nvml.link_state && i < kMostLinks; ++i) {
    unsigned active = 0;
    if (nvml.link_state(gpu, i, &active) != 0 || active == 0) continue;
    DriverGpu::Link link;
    PciInfo remote{};
    if (nvml.link_remote && nvml.link_remote(gpu, i, &remote) == 0)
      link.bus_id = parse_bus_id(text(remote.bus_id, sizeof(remote.bus_id)));
    unsigned type = 255;
    if (nvml.link_type && nvml.link_type(gpu, i, &type) == 0) {
      using Remote = DriverGpu::Link::Remote;
      link.remote = type == 0 ? Remote::kGpu : type == 1 ? Remote::kCpu : type == 2 ? Remote::kNvSwitch : Remote::kUnknown;
    }
    links.push_back(link);
  }
  return links;
}

DriverGpu describe(const Nvml& nvml, unsigned index, Handle handle, const PciInfo& pci) {
  DriverGpu gpu;
  gpu.index = index;
  gpu.bus_id = parse_bus_id(text(pci.bus_id, sizeof(pci.bus_id))).value_or(BusId{});
  char buffer[128] = {};
  if (nvml.uuid(handle, buffer, sizeof(buffer)) == 0) gpu.uuid = text(buffer, sizeof(buffer));
  if (nvml.name(handle, buffer, sizeof(buffer)) == 0) gpu.model = text(buffer, sizeof(buffer));
  Memory memory{};
  if (nvml.memory && nvml.memory(handle, &memory) == 0) gpu.memory_bytes = memory.total;
  if (nvml.generation) nvml.generation(handle, &gpu.most_generation);
  if (nvml.most_width) nvml.most_width(handle, &gpu.most_width);
  if (nvml.width) nvml.width(handle, &gpu.width);
  gpu.links = links_of(nvml, handle);
  return gpu;
}

}  // namespace

std::vector<DriverGpu> query_nvml(std::string& note) {
  Nvml nvml;
  if (!nvml.open(note)) return {};
  unsigned count = 0;
  if (nvml.count(&count) != 0) return {};
  std::vector<DriverGpu> gpus;
  std::vector<Handle> handles;
  for (unsigned i = 0; i < count; ++i) {
    Handle handle = nullptr;
    PciInfo pci{};
    if (nvml.handle(i, &handle) != 0 || nvml.pci(handle, &pci) != 0) {
      note = fmt::format("NVML cannot open GPU {}: it is left out", i);
      continue;
    }
    gpus.push_back(describe(nvml, i, handle, pci));
    handles.push_back(handle);
  }
  for (std::size_t a = 0; nvml.p2p && a < gpus.size(); ++a) {
    for (std::size_t b = 0; b < gpus.size(); ++b) {
      int status = 1;
      if (a != b && nvml.p2p(handles[a], handles[b], kP2pNvlink, &status) == 0 && status == 0)
        gpus[a].nvlink_peers.push_back(gpus[b].bus_id);
    }
  }
  return gpus;
}

}  // namespace cardea::topology
