// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/device_table.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "lib/cuda/queue_copies.h"

namespace cardea::cuda {
namespace {

// Pinned memory is made with the table: the driver may not give any while a gate holds a stream up. Blocks are used again
// when the copies out of them are done, so thousands of rows (of three segments: 7,000) may be queued ahead of the GPU
// before somebody waits for it.
constexpr std::size_t kBlockBytes = std::size_t{16} << 10;
constexpr std::size_t kBlocks = 16;
constexpr std::size_t kBlocksAtOnce = 8;  // of a change, before a mark is made behind it
constexpr std::size_t kMostStreams = 64;  // that are remembered without asking whether they have got on

constexpr std::uint64_t up(std::uint64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

}  // namespace

DeviceTable::DeviceTable(std::shared_ptr<const Device> device, std::uint32_t experts, std::uint32_t segments)
    : device_(std::move(device)),
      events_(std::make_shared<EventPool>(device_)),
      experts_(experts),
      segments_(segments),
      versions_at_(up(experts * sizeof(std::int32_t))),
      segments_at_(versions_at_ + up(experts * sizeof(Version))),
      written_(experts) {}

Result<std::shared_ptr<DeviceTable>> DeviceTable::make(std::shared_ptr<const Device> device, std::uint32_t experts,
                                                       std::uint32_t segments) {
  std::shared_ptr<DeviceTable> table(new DeviceTable(std::move(device), experts, segments));
  if (const Status status = table->start(); !status.ok()) return status.within("expert table");
  return table;
}

Status DeviceTable::start() {
  static_assert(CARDEA_NO_SLOT == -1 && kNoVersion == UINT64_MAX, "an empty entry is all ones, and null pointers");
  const Driver& driver = device_->driver();
  const Device::Current current(*device_);
  const std::uint64_t pointers = std::uint64_t{experts_} * segments_ * sizeof(Pointer);
  Status status = device_->check(driver.memory_alloc(&memory_, segments_at_ + pointers), "cuMemAlloc");
  if (status.ok())
    status = device_->check(driver.host_alloc(&staging_, kBlocks * kBlockBytes, kHostAllocPortable), "cuMemHostAlloc");
  for (std::size_t i = 0; status.ok() && i < kBlocks; ++i)
    blocks_.push_back({static_cast<std::byte*>(staging_) + i * kBlockBytes, 0, false, {}});
  if (status.ok()) status = device_->check(driver.stream_create(&own_, kStreamNonBlocking), "cuStreamCreate");
  if (status.ok()) status = device_->check(driver.memory_set(memory_, 0xFF, segments_at_, own_), "cuMemsetD8Async");
  if (status.ok()) status = device_->check(driver.memory_set(segments(), 0, pointers, own_), "cuMemsetD8Async");
  if (status.ok()) status = device_->check(driver.stream_synchronize(own_), "cuStreamSynchronize");
  return status;
}

DeviceTable::~DeviceTable() {
  const Driver& driver = device_->driver();
  const Device::Current current(*device_);
  constexpr std::chrono::seconds kPatience{2};
  const auto deadline = Clock::now() + kPatience;
  while (!idle()) {
    if (Clock::now() >= deadline) return;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (own_ != nullptr) driver.stream_destroy(own_);
  if (memory_ != 0) driver.memory_free(memory_);
  if (staging_ != nullptr) driver.host_free(staging_);
}

bool DeviceTable::idle() const {
  return std::all_of(streams_.begin(), streams_.end(),
                     [&](const Mark& last) { return device_->driver().event_query(last.event->handle()) != kNotReady; });
}

Result<Stream> DeviceTable::join() {
  const Device::Current current(*device_);
  const std::scoped_lock writing(writing_);
  for (const Mark& last : streams_) {
    const Status status =
        device_->check(device_->driver().stream_wait_event(own_, last.event->handle(), 0), "cuStreamWaitEvent");
    if (!status.ok()) return status;
  }
  return own_;
}

std::uint64_t DeviceTable::note(TableChange change) {
  const std::scoped_lock held(mutex_);
  inbox_.emplace_back(++last_change_, std::move(change));
  return last_change_;
}

Status DeviceTable::write(std::uint64_t number, bool wait) {
  const Device::Current current(*device_);
  Status outcome;
  EventRef done;
  {
    const std::scoped_lock writing(writing_);
    std::vector<std::pair<std::uint64_t, TableChange>> taken;
    {
      const std::scoped_lock held(mutex_);
      taken.swap(inbox_);
    }
    for (auto& [change, what] : taken) {
      if (Status status = put(what); !status.ok()) failed_.emplace(change, std::move(status));
    }
    if (auto failed = failed_.extract(number); !failed.empty()) outcome = failed.mapped();
    const auto own = std::find_if(streams_.begin(), streams_.end(), [&](const Mark& last) { return last.stream == own_; });
    if (own != streams_.end()) done = own->event;
  }
  if (!wait || !outcome.ok() || !done) return outcome;
  return device_->check(device_->driver().event_synchronize(done->handle()), "cuEventSynchronize");
}

// ---------------------------------------------------------------- the order of streams

void DeviceTable::newest(Marks& marks, const Mark& mark) {
  for (Mark& known : marks) {
    if (known.stream != mark.stream) continue;
    if (known.number < mark.number) known = mark;
    return;
  }
  marks.push_back(mark);
}

/// Marks where the stream is now.
Result<DeviceTable::Mark> DeviceTable::mark(Stream stream) {
  Result<EventRef> event = events_->record(stream);
  if (!event.ok()) return event.status();
  const Mark now{stream, ++last_number_, std::move(*event)};
  const auto known = std::find_if(streams_.begin(), streams_.end(), [&](const Mark& last) { return last.stream == stream; });
  if (known != streams_.end()) {
    *known = now;
    return now;
  }
  if (streams_.size() >= kMostStreams) {
    std::erase_if(streams_,
                  [&](const Mark& last) { return device_->driver().event_query(last.event->handle()) == kSuccess; });
  }
  streams_.push_back(now);
  return now;
}

Status DeviceTable::wait_for_others(const TableChange& change, Stream stream) {
  Marks before;
  for (const TableRow& row : change.rows) {
    if (const Mark& last = written_[row.expert]; last.event) newest(before, last);
    if (change.kind != TableChange::Kind::kEmpty) continue;
    const auto readers = readers_.find(row.expert);
    if (readers == readers_.end()) continue;
    for (const Mark& reader : readers->second) newest(before, reader);
  }
  // A stream may have been destroyed, and its handle given to another one: that goes on where the first one ends.
  for (const Mark& last : streams_) {
    if (last.stream == stream) newest(before, last);
  }
  for (const Mark& mark : before) {
    const Status status =
        device_->check(device_->driver().stream_wait_event(stream, mark.event->handle(), 0), "cuStreamWaitEvent");
    if (!status.ok()) return status;
  }
  return {};
}

Status DeviceTable::put(TableChange& change) {
  const Stream stream = change.stream == nullptr ? own_ : change.stream;
  if (!broken_.ok() || change.rows.empty()) return broken_;
  if (stream != own_) {
    int capturing = 0;
    const Status status = device_->check(device_->driver().stream_is_capturing(stream, &capturing), "cuStreamIsCapturing");
    if (!status.ok()) return status;
    if (capturing != 0)
      return Status(CARDEA_ERR_UNSUPPORTED, "the stream is being captured into a graph: the expert table is not written");
  }
  if (change.kind != TableChange::Kind::kRead) {
    std::sort(change.rows.begin(), change.rows.end(),
              [](const TableRow& a, const TableRow& b) { return a.expert < b.expert; });
    if (const Status status = wait_for_others(change, stream); !status.ok()) return status;
  }
  if (change.kind == TableChange::Kind::kRead) {
    const Result<Mark> now = mark(stream);
    if (!now.ok()) return now.status();
    for (const TableRow& row : change.rows) newest(readers_[row.expert], *now);
    return {};
  }
  const std::size_t most = kBlockBytes / row_bytes(change.kind) * kBlocksAtOnce;
  for (std::size_t first = 0; first < change.rows.size(); first += most) {
    const std::span<const TableRow> rows = std::span(change.rows).subspan(first, std::min(most, change.rows.size() - first));
    if (const Status status = put(change.kind, rows, stream); !status.ok()) return status;
  }
  return {};
}

Status DeviceTable::put(TableChange::Kind kind, std::span<const TableRow> rows, Stream stream) {
  const Status copied = copy(kind, rows, stream);
  // After a failure some of it may be under way: the mark tells when it is not.
  const Result<Mark> now = mark(stream);
  if (!now.ok()) {
    broken_ = copied.ok() ? now.status() : copied;
    return broken_;
  }
  for (const TableRow& row : rows) {
    written_[row.expert] = *now;
    if (kind == TableChange::Kind::kEmpty) readers_.erase(row.expert);
  }
  for (Block& block : blocks_) {
    if (std::exchange(block.filling, false)) newest(block.reads, *now);
  }
  return copied;
}

// ---------------------------------------------------------------- bytes

std::size_t DeviceTable::row_bytes(TableChange::Kind kind) const {
  if (kind == TableChange::Kind::kVersion) return sizeof(Version);
  return sizeof(std::int32_t) + sizeof(Version) + segments_ * sizeof(Pointer);
}

Status DeviceTable::copy(TableChange::Kind kind, std::span<const TableRow> rows, Stream stream) {
  const std::size_t each = row_bytes(kind);
  const std::size_t most = kBlockBytes / each;
  for (std::size_t first = 0; first < rows.size(); first += most) {
    const std::span<const TableRow> some = rows.subspan(first, std::min(most, rows.size() - first));
    const Result<std::byte*> at = room((some.size() * each + 7) / 8 * 8);
    if (!at.ok()) return at.status();
    batch_.clear();
    stage(kind, some, *at);
    if (const Status status = queue_copies(*device_, batch_, stream); !status.ok()) return status;
  }
  return {};
}

/// Writes rows to pinned memory as they lie in the table, and adds their copies to the batch: neighbours there are
/// neighbours here.
void DeviceTable::stage(TableChange::Kind kind, std::span<const TableRow> rows, std::byte* at) {
  std::byte* const versions_here = at;
  std::byte* const pointers_here = versions_here + rows.size() * sizeof(Version);
  std::byte* const slots_here = pointers_here + rows.size() * segments_ * sizeof(Pointer);
  boost::container::small_vector<CopyPiece, CARDEA_MAX_SEGMENTS + 2> pieces;
  const auto add = [&](Pointer to, std::byte* from, const auto& value) {
    std::memcpy(from, &value, sizeof value);
    pieces.push_back({to, reinterpret_cast<Pointer>(from), sizeof value});
  };
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const TableRow& row = rows[i];
    const std::uint64_t expert = row.expert;
    pieces.clear();
    add(versions() + expert * sizeof(Version), versions_here + i * sizeof(Version), row.version);
    if (kind != TableChange::Kind::kVersion) {
      add(slots() + expert * sizeof row.slot, slots_here + i * sizeof row.slot, row.slot);
      for (std::size_t s = 0; s < segments_; ++s) {
        const Pointer value = s < row.segments.size() ? row.segments[s] : 0;
        if (value == 0 && kind == TableChange::Kind::kEnter) continue;
        const std::uint64_t place = s * sizeof value;
        const std::uint64_t all = segments_ * sizeof value;
        add(segments() + expert * all + place, pointers_here + i * all + place, value);
      }
    }
    batch_.add({pieces.data(), pieces.size()});
  }
}

/// Pinned memory that no copy reads.
Result<std::byte*> DeviceTable::room(std::size_t bytes) {
  if (blocks_.back().used + bytes > kBlockBytes) {
    // The first one is not being filled: nobody fills so many before he makes a mark.
    for (const Mark& read : blocks_.front().reads) {
      const Status status = device_->check(device_->driver().event_synchronize(read.event->handle()), "cuEventSynchronize");
      if (!status.ok()) return status;
    }
    blocks_.push_back({blocks_.front().memory, 0, false, {}});
    blocks_.pop_front();
  }
  Block& block = blocks_.back();
  block.filling = true;
  std::byte* const at = block.memory + block.used;
  block.used += bytes;
  return at;
}

}  // namespace cardea::cuda
