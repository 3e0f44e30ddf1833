// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/nvtx.h"

#ifdef CARDEA_HAVE_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace cardea::telemetry {

#ifdef CARDEA_HAVE_NVTX
namespace {

/// Null where no tool is attached, which NVTX finds out once in a process.
nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t made = nvtxDomainCreateA("cardea");
  return made;
}

nvtxEventAttributes_t attributes_of(const char* name, std::uint64_t number) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  attributes.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
  attributes.payload.ullValue = number;
  return attributes;
}

}  // namespace

NvtxRange::NvtxRange(const char* name, std::uint64_t number) {
  if (domain() == nullptr) return;
  const nvtxEventAttributes_t attributes = attributes_of(name, number);
  pushed_ = nvtxDomainRangePushEx(domain(), &attributes) >= 0;
}

NvtxRange::~NvtxRange() {
  if (pushed_) nvtxDomainRangePop(domain());
}

std::uint64_t nvtx_begin(const char* name, std::uint64_t number) {
  if (domain() == nullptr) return 0;
  const nvtxEventAttributes_t attributes = attributes_of(name, number);
  return nvtxDomainRangeStartEx(domain(), &attributes);
}

void nvtx_end(std::uint64_t range) {
  if (range != 0) nvtxDomainRangeEnd(domain(), range);
}

bool nvtx_shown() {
  return domain() != nullptr;
}

#else

NvtxRange::NvtxRange(const char*, std::uint64_t) {}
NvtxRange::~NvtxRange() = default;
std::uint64_t nvtx_begin(const char*, std::uint64_t) {
  return 0;
}
void nvtx_end(std::uint64_t) {}
bool nvtx_shown() {
  return false;
}

#endif

}  // namespace cardea::telemetry
