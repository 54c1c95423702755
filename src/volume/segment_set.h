#pragma once
// The segments of one volume, and who owns which physical cluster.
#include <memory>
#include <vector>

#include "base/assert.h"
#include "base/types.h"
#include "base/uuid.h"
#include "extent/allocator.h"
#include "extent/geometry.h"
#include "extent/superblock.h"
#include "io/file.h"

namespace foreshadow::volume {

struct Segment {
  uint32_t index = 0;  // place in the set
  extent::SegmentRow row;
  extent::Layout layout;
  std::unique_ptr<io::File> file;
  extent::Allocator allocator{Pcn(0), 0};
  std::vector<uint8_t> places;  // per table page: the place in use, or extent::kNoPlace
  bool unsynced = false;        // a write has completed since the last sync began
  bool full_reported = false;   // the listener knows that this active shadow is full

  uint64_t data_offset(Pcn pcn, extent::Geometry geometry) const {
    return layout.data_offset + uint64_t{pcn.v - row.pcn_base.v} * geometry.cluster();
  }
};

// Single-threaded; segments never move once added.
class SegmentSet {
 public:
  Segment& add(std::unique_ptr<Segment> segment);
  Segment& of(Pcn pcn) {
    const uint32_t granule = pcn.v / extent::kGranuleClusters;
    ASSERT(granule < by_granule_.size() && by_granule_[granule] != nullptr);
    return *by_granule_[granule];
  }
  Segment& primary() { return *segments_.front(); }
  Segment* find(const Uuid& uuid);
  const std::vector<std::unique_ptr<Segment>>& all() const { return segments_; }
  size_t size() const { return segments_.size(); }
  // Where a new segment's range of physical clusters may start.
  Pcn next_pcn_base() const {
    return Pcn(static_cast<uint32_t>(by_granule_.size()) * extent::kGranuleClusters);
  }
  uint32_t alignment() const;  // that every file accepts

 private:
  std::vector<std::unique_ptr<Segment>> segments_;
  std::vector<Segment*> by_granule_{nullptr};  // granule 0 is nobody's
};

}  // namespace foreshadow::volume
