// SPDX-License-Identifier: Apache-2.0
// The expert table of one layer in device memory, at addresses that stay: slot, version and a pointer for each segment of
// every expert. Its rows change in the order of streams: what is written on a stream is read by work that is queued there
// afterwards.
//
//   note() ──► inbox, in the order in which it was decided ── write() ──► queued on the streams
//
// Rows are copied from pinned memory, only those that changed, neighbours together. A row that another stream wrote, or
// reads still, is written on the GPU after that: a write waits for the row's last writer, and one that empties it for those
// who have said that they read it (kRead).
//
// Threads: note() may be called under any lock; it never calls the driver. write() calls the driver, may wait for the
// device, and must be called neither under a lock nor by the engine thread. So must the others; the destructor waits for the
// device as cudaFree does, and, should streams that wrote the table not get on for 2 s, leaves its memory to the process.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <boost/container/small_vector.hpp>

#include "lib/base/types.h"
#include "lib/cuda/batch.h"
#include "lib/cuda/event.h"

namespace cardea::cuda {

/// What one row says. Segments that are null stay what they are when it is entered.
struct TableRow {
  std::uint32_t expert = 0;
  std::int32_t slot = CARDEA_NO_SLOT;
  Version version = kNoVersion;
  std::vector<Pointer> segments;
};

/// Rows that change together.
struct TableChange {
  enum class Kind : std::uint8_t {
    kEnter,    // slot, version and segments
    kVersion,  // the version alone
    kEmpty,    // to what an empty entry has
    kRead      // nothing changes: the stream has read them until now
  };
  Kind kind = Kind::kEnter;
  Stream stream = nullptr;  // null: the table's own, for a caller that waits
  std::vector<TableRow> rows;
};

class DeviceTable {
 public:
  /// Empty. NO_MEMORY, DEVICE.
  static Result<std::shared_ptr<DeviceTable>> make(std::shared_ptr<const Device> device, std::uint32_t experts,
                                                   std::uint32_t segments);
  ~DeviceTable();
  DeviceTable(const DeviceTable&) = delete;
  DeviceTable& operator=(const DeviceTable&) = delete;

  /// Makes the table's own stream wait for all that was queued, and returns it: where it has got there, nothing writes the
  /// table any more.
  Result<Stream> join();

  Pointer slots() const { return memory_; }
  Pointer versions() const { return memory_ + versions_at_; }
  Pointer segments() const { return memory_ + segments_at_; }

  /// Takes a change behind those that were noted before; an expert stands in it once. Its number.
  std::uint64_t note(TableChange change);
  /// Queues all that has been noted, and tells what became of change `number`. With `wait`, returns when all that was queued
  /// on the table's own stream is done. UNSUPPORTED (a stream that is being captured), DEVICE, NO_MEMORY: then the change's
  /// rows are undefined.
  Status write(std::uint64_t number, bool wait);

 private:
  struct Mark {  // a place in a stream
    Stream stream = nullptr;
    std::uint64_t number = 0;
    EventRef event;
  };
  using Marks = boost::container::small_vector<Mark, 2>;
  struct Block {  // of pinned memory
    std::byte* memory = nullptr;
    std::size_t used = 0;
    bool filling = false;  // its last copies have no mark behind them yet
    Marks reads;           // by copies, the last of each stream
  };

  DeviceTable(std::shared_ptr<const Device> device, std::uint32_t experts, std::uint32_t segments);
  Status start();
  Status put(TableChange& change);
  Status wait_for_others(const TableChange& change, Stream stream);
  Status put(TableChange::Kind kind, std::span<const TableRow> rows, Stream stream);
  Status copy(TableChange::Kind kind, std::span<const TableRow> rows, Stream stream);
  void stage(TableChange::Kind kind, std::span<const TableRow> rows, std::byte* at);
  Result<std::byte*> room(std::size_t bytes);
  Result<Mark> mark(Stream stream);
  static void newest(Marks& marks, const Mark& mark);
  std::size_t row_bytes(TableChange::Kind kind) const;

  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<EventPool> events_;
  const std::uint32_t experts_, segments_;
  std::uint64_t versions_at_ = 0, segments_at_ = 0;
  Pointer memory_ = 0;
  Stream own_ = nullptr;

  bool idle() const;

  std::mutex writing_;        // held while changes are put on streams; guards what follows
  void* staging_ = nullptr;   // pinned; the blocks are its parts
  std::deque<Block> blocks_;  // rows go into the last one; the first one was filled longest ago
  Status broken_;             // nobody can tell any more what the copies have done
  Batch batch_;
  std::vector<Mark> written_;               // by expert: its row's last writer
  std::map<std::uint32_t, Marks> readers_;  // of rows that are not empty
  std::vector<Mark> streams_;               // where each stream was used last
  std::uint64_t last_number_ = 0;
  std::map<std::uint64_t, Status> failed_;  // by number of the change

  std::mutex mutex_;  // guards what follows; the driver is never called under it
  std::vector<std::pair<std::uint64_t, TableChange>> inbox_;
  std::uint64_t last_change_ = 0;
};

}  // namespace cardea::cuda
