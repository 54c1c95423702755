#pragma once
// The segments of one volume, and who owns which physical cluster.
#include <algorithm>
#include <memory>
#include <vector>

#include "base/assert.h"
#include "base/types.h"
#include "base/uuid.h"
#include "extent/allocator.h"
#include "extent/checksum_table.h"
#include "extent/geometry.h"
#include "extent/superblock.h"
#include "io/file.h"

namespace foreshadow::volume {

struct Segment {
  uint32_t index = 0;  // its place in the set, also in what the checkpoint gathers
  extent::SegmentRow row;
  extent::Layout layout;
  std::unique_ptr<io::File> file;
  io::File* table = nullptr;       // where its table lies if not in its own file: a base's is in the primary
  uint64_t data_end = UINT64_MAX;  // nothing of the file at or past this is read or written
  extent::Allocator allocator{Pcn(0), 0};
  std::vector<uint8_t> places;  // per table page: the place in use, or extent::kNoPlace
  extent::ChecksumTable checksums;
  uint32_t reserved = 0;       // free clusters that only a fold may take
  bool unsynced = false;       // a write has completed since the last sync began
  bool full_reported = false;  // the listener knows that this active shadow is full

  bool is_leaving() const {
    return row.state == extent::SegmentState::kDraining || row.state == extent::SegmentState::kFolding ||
           row.state == extent::SegmentState::kReleased;
  }
  // What a first touch may take.
  uint32_t room() const { return allocator.free() - std::min(allocator.free(), reserved); }
  io::File& table_file() { return table != nullptr ? *table : *file; }
  uint64_t data_offset(Pcn pcn, extent::Geometry geometry) const {
    return layout.data_offset + uint64_t{pcn.v - row.pcn_base.v} * geometry.cluster();
  }
};

// Single-threaded; a segment stays where it is in memory, and keeps its index, until it is removed.
class SegmentSet {
 public:
  Segment& add(std::unique_ptr<Segment> segment);
  // Asserted: nothing of it is taken. Its index and its range of physical clusters are free for another one.
  std::unique_ptr<Segment> remove(Segment& segment);
  Segment& of(Pcn pcn) {
    const uint32_t granule = pcn.v / extent::kGranuleClusters;
    ASSERT(granule < by_granule_.size() && by_granule_[granule] != nullptr);
    return *by_granule_[granule];
  }
  Segment& primary() { return *all_.front(); }
  // Its rows, and that of the primary so far, say so already.
  void make_primary(Segment& segment);
  Segment* find(const Uuid& uuid) const;
  const std::vector<Segment*>& all() const { return all_; }
  Segment& at(uint32_t index) const { return *slots_[index]; }
  size_t size() const { return all_.size(); }
  size_t slots() const { return slots_.size(); }  // every index is below
  // The first range of that many physical clusters that is nobody's. A segment owns whole granules.
  Pcn next_pcn_base(uint32_t clusters) const;
  uint32_t alignment() const;  // that every file accepts

 private:
  std::vector<std::unique_ptr<Segment>> slots_;  // null: free
  std::vector<Segment*> all_;                    // in the order of their ids
  std::vector<Segment*> by_granule_{nullptr};    // granule 0 is nobody's
};

}  // namespace foreshadow::volume
