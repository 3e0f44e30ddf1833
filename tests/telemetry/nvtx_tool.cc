// SPDX-License-Identifier: Apache-2.0
// A tool of NVTX's for tests: NVTX loads it where NVTX_INJECTION64_PATH names it, and it writes a line for each range of the
// domain "cardea" into NVTX_TOOL_FILE: "push NAME NUMBER", "pop", "start ID NAME NUMBER", "end ID".
#include <nvtx3/nvToolsExt.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

std::mutex writing;
std::atomic<std::uint64_t> ranges{0};
int cardea_domain;  // its address is the domain's handle

[[gnu::format(printf, 1, 2)]] void line(const char* format, ...) {
  const std::scoped_lock held(writing);
  const char* const path = std::getenv("NVTX_TOOL_FILE");
  std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  std::va_list values;
  va_start(values, format);
  std::vfprintf(file, format, values);
  va_end(values);
  std::fclose(file);
}

bool ours(nvtxDomainHandle_t domain) {
  return reinterpret_cast<int*>(domain) == &cardea_domain;
}

nvtxDomainHandle_t create(const char* name) {
  return std::strcmp(name, "cardea") == 0 ? reinterpret_cast<nvtxDomainHandle_t>(&cardea_domain) : nullptr;
}

unsigned long long number(const nvtxEventAttributes_t* of) {
  return of->payload.ullValue;
}

int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* of) {
  if (ours(domain)) line("push %s %llu\n", of->message.ascii, number(of));
  return 0;
}

int pop(nvtxDomainHandle_t domain) {
  if (ours(domain)) line("pop\n");
  return 0;
}

nvtxRangeId_t start(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* of) {
  const std::uint64_t id = ++ranges;
  if (ours(domain)) line("start %llu %s %llu\n", static_cast<unsigned long long>(id), of->message.ascii, number(of));
  return id;
}

void end(nvtxDomainHandle_t domain, nvtxRangeId_t id) {
  if (ours(domain)) line("end %llu\n", static_cast<unsigned long long>(id));
}

template <typename Function>
void set(NvtxFunctionTable table, NvtxCallbackIdCore2 which, Function* function) {
  *table[which] = reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* const callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0 ||
      size <= NVTX_CBID_CORE2_DomainCreateA) {
    return 0;
  }
  set(table, NVTX_CBID_CORE2_DomainCreateA, create);
  set(table, NVTX_CBID_CORE2_DomainRangePushEx, push);
  set(table, NVTX_CBID_CORE2_DomainRangePop, pop);
  set(table, NVTX_CBID_CORE2_DomainRangeStartEx, start);
  set(table, NVTX_CBID_CORE2_DomainRangeEnd, end);
  return 1;
}
