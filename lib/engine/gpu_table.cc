// SPDX-License-Identifier: Apache-2.0
// The runtime's half that keeps the layers' expert tables on the device. What changes is decided, and noted in order, with
// the mutex held; whoever changed it writes it when he has let go of the mutex (write_tables).
#include <algorithm>

#include "lib/base/log.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

using cuda::TableChange;
using cuda::TableRow;

cuda::Pointer pointer(const void* address) {
  return reinterpret_cast<cuda::Pointer>(address);
}

}  // namespace

Result<std::shared_ptr<cuda::DeviceTable>> Runtime::device_table(const std::shared_ptr<LayerRecord>& layer) {
  if (const Status status = use_device(); !status.ok()) return status;
  const std::scoped_lock making(making_table_);
  {
    const auto held = lock();
    if (layer->device_table) return layer->device_table;
  }
  const std::size_t segments = layer->layout.count();
  const cuda::Device& device = *copier_->device();
  Result<std::shared_ptr<cuda::DeviceTable>> made =
      cuda::DeviceTable::make(copier_->device(), layer->num_experts, static_cast<std::uint32_t>(segments));
  if (!made.ok()) return made;
  const std::shared_ptr<cuda::DeviceTable>& table = *made;

  TableChange all;
  layer->local_of.for_each([&](ExpertIndex expert, std::size_t local) {
    TableRow& row = all.rows.emplace_back();
    row.expert = expert;
    row.slot = layer->local_slot[local];
    for (std::size_t s = 0; s < segments; ++s) {
      const std::byte* const at = layer->local[s][local];
      row.segments.push_back(cuda::readable(device, at) ? pointer(at) : 0);
    }
  });
  std::uint64_t number = 0;
  {
    const auto held = lock();
    const auto known = layers_.find(layer->key);
    if (known == layers_.end() || known->second != layer)
      return Status(CARDEA_ERR_INVALID_HANDLE, "layer handle: another thread destroyed it");
    for (TableRow& row : all.rows) row.version = layer->table[row.expert].version;
    // Views that are open already, of those in device memory.
    for (ExpertIndex expert = 0; expert < layer->num_experts; ++expert) {
      if (layer->table_views[expert] == 0) continue;
      const cardea_expert_entry_t& entry = layer->table[expert];
      if (entry.slot < 0) continue;
      const auto lies_in = [&](const SlabRecord& slab) {
        if (!slab.on_device || slab.base.size() != segments) return false;
        for (std::size_t s = 0; s < segments; ++s) {
          if (entry.segments[s] != nullptr)
            return entry.segments[s] == slab.base[s] + slab.stride[s] * static_cast<std::uint64_t>(entry.slot);
        }
        return false;
      };
      bool on_device = false;
      slabs_.for_each([&](core::SlabNumber, const std::shared_ptr<SlabRecord>& slab) { on_device |= lies_in(*slab); });
      if (!on_device) continue;
      TableRow& row = all.rows.emplace_back();
      row.expert = expert;
      row.slot = entry.slot;
      row.version = entry.version;
      for (std::size_t s = 0; s < segments; ++s) row.segments.push_back(pointer(entry.segments[s]));
    }
    number = table->note(std::move(all));
    layer->device_table = table;
  }
  const Status written = table->write(number, true);
  if (written.ok()) return table;
  const auto held = lock();
  if (layer->device_table == table) drop_table(*layer);
  return written;
}

void Runtime::drop_table(LayerRecord& layer) {
  if (!layer.device_table) return;
  copier_->post([this, table = std::move(layer.device_table)]() mutable {
    const Result<cuda::Stream> joined = table->join();
    if (!joined.ok()) return table.reset();
    // Freed where it need not wait for those who wrote it.
    const auto then = [this, table](const Status&) { copier_->post([table]() mutable { table.reset(); }); };
    table.reset();
    [[maybe_unused]] const Status watched = copier_->when_reached(*joined, then);
  });
  layer.device_table.reset();
}

// ---------------------------------------------------------------- what changes; with the mutex

void Runtime::note_change(const LayerRecord& layer, TableChange change) {
  if (change.rows.empty()) return;
  const bool wait = change.stream == nullptr;
  table_notes_.push_back({layer.device_table, layer.device_table->note(std::move(change)), wait});
}

void Runtime::note_published(LayerRecord& layer, Version version, cuda::Stream stream) {
  if (!layer.device_table) return;
  TableChange change{TableChange::Kind::kVersion, stream, {}};
  for (const ExpertIndex expert : layer.announce.experts) change.rows.push_back({expert, CARDEA_NO_SLOT, version, {}});
  note_change(layer, std::move(change));
}

void Runtime::note_taken(const LayerRecord& layer, Version version, cuda::Stream stream) {
  TableChange change{TableChange::Kind::kEnter, stream, {}};
  for (const auto& [delivery, spot] : delivered_) {
    const bool home = layer.local_of.contains(delivery.expert);
    if (delivery.view == 0 || home || !delivery.slot || !slabs_.at(delivery.slab)->on_device) continue;
    TableRow& row = change.rows.emplace_back();
    row.expert = delivery.expert;
    row.slot = spot.slot;
    row.version = version;
    for (std::size_t s = 0; s < layer.layout.count(); ++s) row.segments.push_back(pointer(spot.segments[s]));
  }
  note_change(layer, std::move(change));
}

void Runtime::note_released(const LayerRecord& layer, ExpertIndex expert, bool last, cuda::Stream stream) {
  if (!last && stream == nullptr) return;  // who read it has synchronized with its kernels
  const auto same = [&](const Releases& known) {
    return known.layer == &layer && known.stream == stream && known.last == last;
  };
  auto known = std::find_if(releases_.begin(), releases_.end(), same);
  if (known == releases_.end()) known = releases_.insert(known, Releases{&layer, stream, last, {}});
  known->rows.push_back({expert, CARDEA_NO_SLOT, kNoVersion, {}});
}

void Runtime::note_releases() {
  // Who reads on is noted before who is the last: a call may release several views of an expert.
  for (const bool last : {false, true}) {
    for (Releases& some : releases_) {
      if (some.last != last) continue;
      note_change(*some.layer,
                  {last ? TableChange::Kind::kEmpty : TableChange::Kind::kRead, some.stream, std::move(some.rows)});
    }
  }
  releases_.clear();
}

// ---------------------------------------------------------------- writing; without the mutex

Status Runtime::write_tables(std::vector<TableNote> notes, bool may) {
  if (notes.empty()) return {};
  if (!may) {
    copier_->post([this, notes = std::move(notes)]() mutable {
      [[maybe_unused]] const Status written = write_tables(std::move(notes), true);  // it says itself what failed
    });
    return {};
  }
  Status first;
  for (const TableNote& note : notes) {
    const Status status = note.table->write(note.number, note.wait);
    if (status.ok()) continue;
    log::print(log::Level::kError, name_, "cuda", "the expert table is not right: {}", status.message());
    if (first.ok()) first = status;
  }
  return first;
}

}  // namespace cardea::engine
