// SPDX-License-Identifier: Apache-2.0
// A CUDA driver without a GPU, for tests: a libcuda.so.1 whose devices are made of host memory and threads. Tests load it in
// the driver's stead (LD_LIBRARY_PATH), so the whole path runs where there is no GPU, and under sanitizers.
//
// It keeps the driver's word in what Cardea depends on: streams run in order and beside one another; events tell of what was
// recorded last; memory is shared between processes by IPC handles and descriptors and outlives its owner where it is
// mapped; a gate (cuStreamWaitValue32) stops its stream; and cuMemFree, and the first launch of a kernel, wait for all
// streams while every other call waits for them, which is how a gate whose opener calls the driver becomes a deadlock. A
// stream takes so many operations and no more, which is how too many behind one gate become another.
// Compiled with FAKE_CUDA_OLD, it is a driver without stream memory operations.
//
//   FAKE_CUDA_DEVICES   how many (default 2)
//   FAKE_CUDA_CONNECTIONS   queues of the device that streams share, in turn; what waits there holds up what comes behind
//                       (default: each stream its own)
//   FAKE_CUDA_RDMA_ORDERED   what the device says of the order of NICs' writes (default 0: they must be flushed)
//   FAKE_CUDA_JITTER    microseconds: each operation starts up to so much later than it could
//   FAKE_CUDA_FAIL      "cuSymbol:n[:code]": from its n-th call on the function fails (code 2 if it allocates, else 719)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/cuda/abi.h"

using namespace cardea::cuda;  // NOLINT

namespace cardea::cuda {

struct CUctx_st {
  int device = 0;
};

struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t recorded = 0;
  // Records that their streams have not come to. A stream that waits waits for one of them: an event may be recorded anew
  // meanwhile, on another stream, which gets there first.
  std::set<std::uint64_t> pending;
  bool reached(std::uint64_t number) const { return !pending.contains(number); }
  std::chrono::steady_clock::time_point when;
};
struct CUevent_st {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();  // streams may still use it when it is destroyed
};

struct CUstream_st {
  CUstream_st* queue = this;       // whose thread does its work
  std::atomic<bool> gated{false};  // it has waited for a word
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> work;
  bool running = false, ending = false;
  std::atomic<bool> capturing{false};
  std::thread thread;
};

struct CUfunc_st {
  bool loaded = false;
};

}  // namespace cardea::cuda

namespace {

struct Range {
  std::size_t bytes = 0;
  int device = 0;
  int descriptor = -1;
  bool ipc = false, managed = false, pool = false, exportable = false, host = false;
  Allocation allocation = 0;
};

struct Made {  // cuMemCreate
  int descriptor = -1;
  std::size_t bytes = 0;
  int device = 0;
  bool exportable = false;
  int references = 1;
};

struct World {
  std::mutex mutex;
  std::map<Pointer, Range> ranges;
  std::map<Allocation, Made> made;
  Allocation next_allocation = 1;
  std::vector<CUctx_st> contexts;
  std::vector<int> active;
  std::set<CUstream_st*> streams;
  CUstream_st legacy;
  std::map<std::string, std::pair<int, int>> failures;  // calls that still succeed, code
  std::shared_mutex driver;                             // cuMemFree has it alone while it waits
  int jitter = 0;
  std::vector<std::unique_ptr<CUstream_st>> connections;
  std::size_t next_connection = 0;
  std::vector<std::unique_ptr<CUfunc_st>> modules;
};

World& world() {
  // Never destroyed: threads of streams may outlive main.
  static World* const instance = [] {
    auto* made = new World;
    const char* count = std::getenv("FAKE_CUDA_DEVICES");
    const int devices = count != nullptr ? std::atoi(count) : 2;
    for (int i = 0; i < devices; ++i) made->contexts.push_back({i});
    made->active.assign(static_cast<std::size_t>(devices), 0);
    if (const char* jitter = std::getenv("FAKE_CUDA_JITTER")) made->jitter = std::atoi(jitter);
    if (const char* connections = std::getenv("FAKE_CUDA_CONNECTIONS")) {
      for (int i = 0; i < std::atoi(connections); ++i) made->connections.push_back(std::make_unique<CUstream_st>());
    }
    if (const char* fail = std::getenv("FAKE_CUDA_FAIL")) {
      std::string text = fail;
      const auto first = text.find(':');
      const auto second = text.find(':', first + 1);
      const std::string name = text.substr(0, first);
      const bool allocates = name == "cuMemCreate" || name == "cuMemAlloc_v2";
      const int code = second != std::string::npos ? std::atoi(text.c_str() + second + 1) : allocates ? 2 : 719;
      made->failures[name] = {std::atoi(text.c_str() + first + 1) - 1, code};
    }
    return made;
  }();
  return *instance;
}

thread_local std::vector<DriverContext> current;

Code fails(const char* symbol) {
  World& w = world();
  const std::scoped_lock held(w.mutex);
  const auto found = w.failures.find(symbol);
  if (found == w.failures.end() || found->second.first-- > 0) return kSuccess;
  return found->second.second;
}

#define ENTER(symbol)                               \
  const std::shared_lock in_driver(world().driver); \
  if (const Code failed = fails(#symbol); failed != kSuccess) return failed

CUstream_st& of(Stream stream) {
  return stream == nullptr || stream == kLegacyStream ? world().legacy : *stream;
}

void run(CUstream_st& stream) {
  std::minstd_rand random(static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(&stream) >> 4));
  std::unique_lock held(stream.mutex);
  for (;;) {
    stream.changed.wait(held, [&] { return !stream.work.empty() || stream.ending; });
    if (stream.work.empty()) return;
    auto work = std::move(stream.work.front());
    stream.work.pop_front();
    stream.running = true;
    held.unlock();
    if (world().jitter > 0)
      std::this_thread::sleep_for(std::chrono::microseconds(random() % static_cast<unsigned>(world().jitter + 1)));
    work();
    held.lock();
    stream.running = false;
    stream.changed.notify_all();
  }
}

constexpr std::size_t kMostQueued = 1021;  // of an H100's; who queues more waits

void enqueue(CUstream_st& of_stream, std::function<void()> work) {
  CUstream_st& stream = *of_stream.queue;
  std::unique_lock held(stream.mutex);
  if (!stream.thread.joinable()) stream.thread = std::thread([&stream] { run(stream); });
  stream.changed.wait(held, [&] { return stream.work.size() < kMostQueued; });
  stream.work.push_back(std::move(work));
  stream.changed.notify_all();
}

void drain(CUstream_st& of_stream) {
  CUstream_st& stream = *of_stream.queue;
  std::unique_lock held(stream.mutex);
  stream.changed.wait(held, [&] { return stream.work.empty() && !stream.running; });
}

/// What cuMemFree and the first launch of a kernel do; every other call waits meanwhile.
void drain_all() {
  drain(world().legacy);
  std::set<CUstream_st*> streams;
  {
    const std::scoped_lock held(world().mutex);
    streams = world().streams;
  }
  for (CUstream_st* const stream : streams) drain(*stream);
}

/// Behind a gate that was opened because nothing will come, a GPU reads what may still be written to, and nobody uses what
/// it read. It does so beside all threads, so no sanitizer is to take it for one.
void copy_behind_gate(Pointer to, Pointer from, std::size_t bytes) {
#if defined(__x86_64__)
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
#else
  for (std::size_t i = 0; i < bytes; ++i)
    reinterpret_cast<volatile char*>(to)[i] = reinterpret_cast<const volatile char*>(from)[i];
#endif
}

void copy_on(const CUstream_st& stream, Pointer to, Pointer from, std::size_t bytes) {
  if (stream.gated) return copy_behind_gate(to, from, bytes);
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
}

int new_memory(std::size_t bytes) {
  const int descriptor = memfd_create("fake-cuda", MFD_CLOEXEC);
  return descriptor >= 0 && ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 ? descriptor : -1;
}

Pointer map_anywhere(int descriptor, std::size_t bytes) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return at == MAP_FAILED ? 0 : reinterpret_cast<Pointer>(at);
}

std::size_t whole_pages(std::size_t bytes) {
  return (bytes + 4095) / 4096 * 4096;
}

Code allocate(Pointer* out, std::size_t bytes, Range range) {
  const int descriptor = new_memory(whole_pages(bytes));
  if (descriptor < 0) return kOutOfMemory;
  *out = map_anywhere(descriptor, whole_pages(bytes));
  if (*out == 0) return kOutOfMemory;
  World& w = world();
  const std::scoped_lock held(w.mutex);
  range.bytes = bytes;
  range.descriptor = descriptor;
  range.device = current.empty() ? 0 : current.back()->device;
  w.ranges[*out] = range;
  return kSuccess;
}

std::map<Pointer, Range>::iterator find(Pointer at) {
  auto entry = world().ranges.upper_bound(at);
  if (entry == world().ranges.begin()) return world().ranges.end();
  --entry;
  return at < entry->first + entry->second.bytes ? entry : world().ranges.end();
}

struct Handle {  // inside an IpcHandle
  pid_t process;
  int descriptor;
  std::size_t bytes;
};

}  // namespace

#define FAKE extern "C" __attribute__((visibility("default"))) Code

/// How tests tell that it is the fake.
FAKE fake_cuda_driver() {
  return kSuccess;
}
/// From here on the function fails, as by FAKE_CUDA_FAIL.
FAKE fake_cuda_fail_from_here(const char* symbol) {
  const std::scoped_lock held(world().mutex);
  world().failures[symbol] = {0, 719};
  return kSuccess;
}
FAKE cuInit(unsigned) {
  return world().contexts.empty() ? kNoDevice : fails("cuInit");
}
FAKE cuDriverGetVersion(int* version) {
  return *version = 13000, kSuccess;
}
FAKE cuGetErrorName(Code code, const char** name) {
  *name = code == kOutOfMemory    ? "CUDA_ERROR_OUT_OF_MEMORY"
          : code == kInvalidValue ? "CUDA_ERROR_INVALID_VALUE"
                                  : "CUDA_ERROR_FAKE";
  return kSuccess;
}
FAKE cuGetErrorString(Code, const char** text) {
  return *text = "said the fake driver", kSuccess;
}
FAKE cuDeviceGetCount(int* count) {
  return *count = static_cast<int>(world().contexts.size()), kSuccess;
}
FAKE cuDeviceGet(Ordinal* device, int ordinal) {
  return *device = ordinal, kSuccess;
}
FAKE cuDeviceGetAttribute(int* value, int which, Ordinal) {
  *value = 0;
  switch (static_cast<DeviceAttribute>(which)) {
    case DeviceAttribute::kReadOnlyHostRegister:
    case DeviceAttribute::kRdmaWithVirtualMemory:
      *value = 1;
      break;
    case DeviceAttribute::kRdmaFlushWrites:
      *value = kRdmaFlushByHost;
      break;
    case DeviceAttribute::kRdmaWritesOrdering: {
      const char* const ordered = std::getenv("FAKE_CUDA_RDMA_ORDERED");
      *value = ordered != nullptr ? std::atoi(ordered) : kRdmaOrderedForNobody;
      break;
    }
  }
  return kSuccess;
}
FAKE cuDeviceCanAccessPeer(int* can, Ordinal, Ordinal) {
  return *can = 1, kSuccess;
}
FAKE cuDevicePrimaryCtxRetain(DriverContext* context, Ordinal device) {
  ENTER(cuDevicePrimaryCtxRetain);
  const std::scoped_lock held(world().mutex);
  ++world().active[static_cast<std::size_t>(device)];
  *context = &world().contexts[static_cast<std::size_t>(device)];
  return kSuccess;
}
FAKE cuDevicePrimaryCtxRelease_v2(Ordinal device) {
  const std::scoped_lock held(world().mutex);
  --world().active[static_cast<std::size_t>(device)];
  return kSuccess;
}
FAKE cuDevicePrimaryCtxGetState(Ordinal device, unsigned* flags, int* active) {
  const std::scoped_lock held(world().mutex);
  *flags = 0;
  *active = world().active[static_cast<std::size_t>(device)] > 0 ? 1 : 0;
  return kSuccess;
}
FAKE cuCtxPushCurrent_v2(DriverContext context) {
  return current.push_back(context), kSuccess;
}
FAKE cuCtxPopCurrent_v2(DriverContext* context) {
  if (current.empty()) return kInvalidContext;
  *context = current.back();
  current.pop_back();
  return kSuccess;
}
FAKE cuCtxGetCurrent(DriverContext* context) {
  return *context = current.empty() ? nullptr : current.back(), kSuccess;
}
FAKE cuCtxSetCurrent(DriverContext context) {
  if (!current.empty()) current.pop_back();
  if (context != nullptr) current.push_back(context);
  return kSuccess;
}
FAKE cuCtxGetDevice(Ordinal* device) {
  if (current.empty()) return kInvalidContext;
  return *device = current.back()->device, kSuccess;
}

// ---------------------------------------------------------------- memory

FAKE cuMemAlloc_v2(Pointer* out, std::size_t bytes) {
  ENTER(cuMemAlloc_v2);
  if (current.empty()) return kInvalidContext;
  Range range;
  range.ipc = true;
  return allocate(out, bytes, range);
}
FAKE cuMemAllocManaged(Pointer* out, std::size_t bytes, unsigned) {
  ENTER(cuMemAllocManaged);
  Range range;
  range.managed = true;
  return allocate(out, bytes, range);
}
FAKE cuMemAllocAsync(Pointer* out, std::size_t bytes, Stream) {
  ENTER(cuMemAllocAsync);
  Range range;
  range.pool = true;
  return allocate(out, bytes, range);
}
FAKE cuMemFree_v2(Pointer at) {
  const std::unique_lock alone(world().driver);
  drain_all();
  const std::scoped_lock held(world().mutex);
  const auto range = world().ranges.find(at);
  if (range == world().ranges.end()) return kInvalidValue;
  munmap(reinterpret_cast<void*>(at), whole_pages(range->second.bytes));
  close(range->second.descriptor);
  world().ranges.erase(range);
  return kSuccess;
}
FAKE cuMemHostAlloc(void** out, std::size_t bytes, unsigned) {
  ENTER(cuMemHostAlloc);
  return *out = std::aligned_alloc(4096, whole_pages(bytes)), *out == nullptr ? kOutOfMemory : kSuccess;
}
FAKE cuMemFreeHost(void* at) {
  ENTER(cuMemFreeHost);
  return std::free(at), kSuccess;
}
FAKE cuMemHostRegister_v2(void* at, std::size_t bytes, unsigned) {
  ENTER(cuMemHostRegister_v2);
  const std::scoped_lock held(world().mutex);
  Range range;
  range.bytes = bytes;
  range.host = true;
  return world().ranges.emplace(reinterpret_cast<Pointer>(at), range).second ? kSuccess : kHostMemoryAlreadyRegistered;
}
FAKE cuMemHostUnregister(void* at) {
  ENTER(cuMemHostUnregister);
  const std::scoped_lock held(world().mutex);
  return world().ranges.erase(reinterpret_cast<Pointer>(at)) != 0 ? kSuccess : kInvalidValue;
}
FAKE cuPointerGetAttributes(unsigned count, int* which, void** data, Pointer at) {
  const std::scoped_lock held(world().mutex);
  const auto found = find(at);
  const Range range = found == world().ranges.end() ? Range{} : found->second;  // unknown memory has zeros, and is no error
  const bool known = found != world().ranges.end();
  for (unsigned i = 0; i < count; ++i) {
    const auto number = [&](unsigned value) { std::memcpy(data[i], &value, sizeof value); };
    switch (static_cast<Attribute>(which[i])) {
      case Attribute::kMemoryType:
        number(!known ? 0 : range.host ? kMemoryTypeHost : kMemoryTypeDevice);
        break;
      case Attribute::kIsManaged:
        number(range.managed ? 1 : 0);
        break;
      case Attribute::kDeviceOrdinal:
        number(known ? static_cast<unsigned>(range.device) : static_cast<unsigned>(-2));
        break;
      case Attribute::kIsIpcCapable:
        number(range.ipc ? 1 : 0);
        break;
      case Attribute::kMempool: {
        void* const pool = range.pool ? &world() : nullptr;
        std::memcpy(data[i], &pool, sizeof pool);
        break;
      }
      default:
        return kInvalidValue;
    }
  }
  return kSuccess;
}
FAKE cuMemGetAddressRange_v2(Pointer* start, std::size_t* bytes, Pointer at) {
  const std::scoped_lock held(world().mutex);
  const auto found = find(at);
  if (found == world().ranges.end()) return kInvalidValue;
  *start = found->first;
  *bytes = found->second.bytes;
  return kSuccess;
}

// ---------------------------------------------------------------- memory of other processes

FAKE cuIpcGetMemHandle(IpcHandle* out, Pointer at) {
  ENTER(cuIpcGetMemHandle);
  const std::scoped_lock held(world().mutex);
  const auto found = world().ranges.find(at);
  if (found == world().ranges.end() || !found->second.ipc) return kInvalidValue;
  const Handle handle{getpid(), found->second.descriptor, found->second.bytes};
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &handle, sizeof handle);
  return kSuccess;
}
FAKE cuIpcOpenMemHandle_v2(Pointer* out, IpcHandle in, unsigned) {
  ENTER(cuIpcOpenMemHandle_v2);
  Handle handle{};
  std::memcpy(&handle, &in, sizeof handle);
  if (handle.process == getpid() || handle.process <= 0) return kInvalidContext;
  const std::string path = "/proc/" + std::to_string(handle.process) + "/fd/" + std::to_string(handle.descriptor);
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat state {};
  if (descriptor < 0 || fstat(descriptor, &state) != 0 || static_cast<std::size_t>(state.st_size) < handle.bytes) {
    if (descriptor >= 0) close(descriptor);
    return kInvalidHandle;
  }
  *out = map_anywhere(descriptor, whole_pages(handle.bytes));
  const std::scoped_lock held(world().mutex);
  Range range;
  range.bytes = handle.bytes;
  range.descriptor = descriptor;
  world().ranges[*out] = range;
  return kSuccess;
}
FAKE cuIpcCloseMemHandle(Pointer at) {
  const std::scoped_lock held(world().mutex);
  const auto found = world().ranges.find(at);
  if (found == world().ranges.end()) return kInvalidValue;
  munmap(reinterpret_cast<void*>(at), whole_pages(found->second.bytes));
  close(found->second.descriptor);
  world().ranges.erase(found);
  return kSuccess;
}
FAKE cuMemGetAllocationGranularity(std::size_t* bytes, const AllocationProperties*, int) {
  return *bytes = 2 << 20, kSuccess;
}
FAKE cuMemCreate(Allocation* out, std::size_t bytes, const AllocationProperties* properties, unsigned long long) {
  ENTER(cuMemCreate);
  const int descriptor = bytes > (std::size_t{1} << 36) ? -1 : new_memory(bytes);
  if (descriptor < 0) return kOutOfMemory;
  const std::scoped_lock held(world().mutex);
  *out = world().next_allocation++;
  world().made[*out] = {descriptor, bytes, properties->location.id,
                        properties->requested_handle_types == kHandlePosixDescriptor};
  return kSuccess;
}
FAKE cuMemRelease(Allocation allocation) {
  const std::scoped_lock held(world().mutex);
  const auto found = world().made.find(allocation);
  if (found == world().made.end()) return kInvalidValue;
  if (--found->second.references == 0) {
    close(found->second.descriptor);
    world().made.erase(found);
  }
  return kSuccess;
}
FAKE cuMemRetainAllocationHandle(Allocation* out, void* at) {
  const std::scoped_lock held(world().mutex);
  const auto found = find(reinterpret_cast<Pointer>(at));
  if (found == world().ranges.end() || found->second.allocation == 0) return kInvalidValue;
  *out = found->second.allocation;
  ++world().made.at(*out).references;
  return kSuccess;
}
FAKE cuMemExportToShareableHandle(void* out, Allocation allocation, int type, unsigned long long) {
  ENTER(cuMemExportToShareableHandle);
  const std::scoped_lock held(world().mutex);
  const auto found = world().made.find(allocation);
  if (found == world().made.end() || type != kHandlePosixDescriptor || !found->second.exportable) return kNotSupported;
  const int descriptor = fcntl(found->second.descriptor, F_DUPFD_CLOEXEC, 0);
  std::memcpy(out, &descriptor, sizeof descriptor);
  return kSuccess;
}
FAKE cuMemImportFromShareableHandle(Allocation* out, void* handle, int) {
  ENTER(cuMemImportFromShareableHandle);
  const int descriptor = fcntl(static_cast<int>(reinterpret_cast<std::uintptr_t>(handle)), F_DUPFD_CLOEXEC, 0);
  struct stat state {};
  if (descriptor < 0 || fstat(descriptor, &state) != 0) return kInvalidValue;
  const std::scoped_lock held(world().mutex);
  *out = world().next_allocation++;
  world().made[*out] = {descriptor, static_cast<std::size_t>(state.st_size), 0, true};
  return kSuccess;
}
FAKE cuMemAddressReserve(Pointer* out, std::size_t bytes, std::size_t, Pointer, unsigned long long) {
  ENTER(cuMemAddressReserve);
  // Aligned as the driver's granularity is.
  constexpr std::size_t kAlign = 2 << 20;
  auto* const at =
      static_cast<char*>(mmap(nullptr, bytes + kAlign, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (at == MAP_FAILED) return kOutOfMemory;
  const std::size_t skip = (kAlign - reinterpret_cast<std::uintptr_t>(at) % kAlign) % kAlign;
  if (skip > 0) munmap(at, skip);
  if (skip < kAlign) munmap(at + skip + bytes, kAlign - skip);
  return *out = reinterpret_cast<Pointer>(at + skip), kSuccess;
}
FAKE cuMemAddressFree(Pointer at, std::size_t bytes) {
  return munmap(reinterpret_cast<void*>(at), bytes), kSuccess;
}
FAKE cuMemMap(Pointer at, std::size_t bytes, std::size_t, Allocation allocation, unsigned long long) {
  ENTER(cuMemMap);
  const std::scoped_lock held(world().mutex);
  const auto found = world().made.find(allocation);
  if (found == world().made.end() || bytes > found->second.bytes) return kInvalidValue;
  if (mmap(reinterpret_cast<void*>(at), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, found->second.descriptor,
           0) == MAP_FAILED)
    return kOutOfMemory;
  ++found->second.references;
  Range range;
  range.bytes = bytes;
  range.device = found->second.device;
  range.allocation = allocation;
  range.exportable = found->second.exportable;
  world().ranges[at] = range;
  return kSuccess;
}
FAKE cuMemUnmap(Pointer at, std::size_t bytes) {
  Allocation allocation = 0;
  {
    const std::scoped_lock held(world().mutex);
    const auto found = world().ranges.find(at);
    if (found == world().ranges.end()) return kInvalidValue;
    allocation = found->second.allocation;
    world().ranges.erase(found);
    mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  }
  return cuMemRelease(allocation);
}
FAKE cuMemSetAccess(Pointer, std::size_t, const AccessDescription*, std::size_t) {
  ENTER(cuMemSetAccess);
  return kSuccess;
}

/// How often NICs' writes were flushed; only where the context was current.
static int flushes = 0;
FAKE fake_cuda_flushes() {
  return __atomic_load_n(&flushes, __ATOMIC_ACQUIRE);
}
FAKE cuFlushGPUDirectRDMAWrites(int target, int scope) {
  ENTER(cuFlushGPUDirectRDMAWrites);
  if (current.empty()) return kInvalidContext;
  if (target != kFlushCurrentContext || scope != kFlushToOwner) return kInvalidValue;
  __atomic_fetch_add(&flushes, 1, __ATOMIC_ACQ_REL);
  return kSuccess;
}

// ---------------------------------------------------------------- streams and events

FAKE cuStreamCreate(Stream* out, unsigned) {
  ENTER(cuStreamCreate);
  *out = new CUstream_st;
  const std::scoped_lock held(world().mutex);
  if (const std::size_t count = world().connections.size(); count != 0)
    (*out)->queue = world().connections[world().next_connection++ % count].get();
  world().streams.insert(*out);
  return kSuccess;
}
FAKE cuStreamDestroy_v2(Stream stream) {
  if (stream->queue != stream) drain(*stream);
  {
    const std::scoped_lock held(world().mutex);
    world().streams.erase(stream);
  }
  {
    const std::scoped_lock held(stream->mutex);
    stream->ending = true;
    stream->changed.notify_all();
  }
  if (stream->thread.joinable()) stream->thread.join();
  delete stream;
  return kSuccess;
}
FAKE cuStreamSynchronize(Stream stream) {
  ENTER(cuStreamSynchronize);
  return drain(of(stream)), kSuccess;
}
FAKE cuStreamIsCapturing(Stream stream, int* status) {
  ENTER(cuStreamIsCapturing);
  return *status = of(stream).capturing ? 1 : 0, kSuccess;
}
FAKE cuStreamBeginCapture_v2(Stream stream, int) {
  return of(stream).capturing = true, kSuccess;
}
FAKE cuStreamEndCapture(Stream stream, void** graph) {
  return of(stream).capturing = false, *graph = nullptr, kSuccess;
}
FAKE cuEventCreate(EventHandle* out, unsigned) {
  ENTER(cuEventCreate);
  return *out = new CUevent_st, kSuccess;
}
FAKE cuEventDestroy_v2(EventHandle event) {
  return delete event, kSuccess;
}
FAKE cuEventRecord(EventHandle event, Stream stream) {
  ENTER(cuEventRecord);
  std::uint64_t number = 0;
  {
    const std::scoped_lock held(event->state->mutex);
    number = ++event->state->recorded;
    event->state->pending.insert(number);
  }
  enqueue(of(stream), [state = event->state, number] {
    const std::scoped_lock held(state->mutex);
    state->pending.erase(number);
    state->when = std::chrono::steady_clock::now();
    state->changed.notify_all();
  });
  return kSuccess;
}
FAKE cuEventElapsedTime(float* milliseconds, EventHandle from, EventHandle to) {
  const std::scoped_lock held(from->state->mutex, to->state->mutex);
  for (const EventState* state : {from->state.get(), to->state.get()}) {
    if (state->recorded == 0) return kInvalidHandle;
    if (!state->reached(state->recorded)) return kNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(to->state->when - from->state->when).count();
  return kSuccess;
}
FAKE cuEventQuery(EventHandle event) {
  ENTER(cuEventQuery);
  const std::scoped_lock held(event->state->mutex);
  return event->state->reached(event->state->recorded) ? kSuccess : kNotReady;
}
FAKE cuEventSynchronize(EventHandle event) {
  ENTER(cuEventSynchronize);
  std::unique_lock held(event->state->mutex);
  const std::uint64_t number = event->state->recorded;
  event->state->changed.wait(held, [&] { return event->state->reached(number); });
  return kSuccess;
}
FAKE cuStreamWaitEvent(Stream stream, EventHandle event, unsigned) {
  ENTER(cuStreamWaitEvent);
  std::uint64_t number = 0;
  {
    const std::scoped_lock held(event->state->mutex);
    number = event->state->recorded;
  }
  enqueue(of(stream), [state = event->state, number] {
    std::unique_lock held(state->mutex);
    state->changed.wait(held, [&] { return state->reached(number); });
  });
  return kSuccess;
}
#ifndef FAKE_CUDA_OLD
FAKE cuStreamWaitValue32_v2(Stream stream, Pointer at, std::uint32_t value, unsigned flags) {
  ENTER(cuStreamWaitValue32_v2);
  if (flags != kWaitValueGreaterOrEqual) return kNotSupported;
  of(stream).gated = true;
  enqueue(of(stream), [at, value] {
    const auto* const word = reinterpret_cast<const std::uint32_t*>(at);
    while (static_cast<std::int32_t>(__atomic_load_n(word, __ATOMIC_ACQUIRE) - value) < 0)
      std::this_thread::sleep_for(std::chrono::microseconds(20));
  });
  return kSuccess;
}
#endif
FAKE cuMemsetD8Async(Pointer at, unsigned char byte, std::size_t bytes, Stream stream) {
  ENTER(cuMemsetD8Async);
  enqueue(of(stream), [=] { std::memset(reinterpret_cast<void*>(at), byte, bytes); });
  return kSuccess;
}
FAKE cuMemcpyAsync(Pointer to, Pointer from, std::size_t bytes, Stream stream) {
  ENTER(cuMemcpyAsync);
  enqueue(of(stream), [=, &on = of(stream)] { copy_on(on, to, from, bytes); });
  return kSuccess;
}
FAKE cuMemcpyBatchAsync_v2(Pointer* to, Pointer* from, std::size_t* bytes, std::size_t count, CopyAttributes* attributes,
                           std::size_t* first, std::size_t kinds, Stream stream) {
  ENTER(cuMemcpyBatchAsync_v2);
  if (count == 0 || kinds != 1 || *first != 0 || attributes->source_access != kSourceAccessStream || stream == nullptr)
    return kInvalidValue;
  std::vector<std::array<std::uint64_t, 3>> copies;
  for (std::size_t i = 0; i < count; ++i) copies.push_back({to[i], from[i], bytes[i]});
  std::reverse(copies.begin(), copies.end());  // in no order that anybody may count on
  enqueue(of(stream), [copies = std::move(copies), &on = of(stream)] {
    for (const auto& copy : copies) copy_on(on, copy[0], copy[1], copy[2]);
  });
  return kSuccess;
}

// ---------------------------------------------------------------- one kernel, whose code nobody reads: it stores 12345

FAKE cuModuleLoadData(void** module, const void*) {
  ENTER(cuModuleLoadData);
  const std::scoped_lock held(world().mutex);
  return *module = world().modules.emplace_back(std::make_unique<CUfunc_st>()).get(), kSuccess;
}
FAKE cuModuleGetFunction(void** function, void* module, const char*) {
  return *function = module, kSuccess;
}
FAKE cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream stream,
                    void** parameters, void**) {
  auto& kernel = *static_cast<CUfunc_st*>(function);
  if (!kernel.loaded) {
    const std::unique_lock alone(world().driver);
    drain_all();
    kernel.loaded = true;
  }
  ENTER(cuLaunchKernel);
  Pointer at = 0;
  std::memcpy(&at, parameters[0], sizeof at);
  enqueue(of(stream), [at] { *reinterpret_cast<std::uint32_t*>(at) = 12345; });
  return kSuccess;
}
