#include "volume/segment_set.h"

#include <algorithm>

namespace foreshadow::volume {

Segment& SegmentSet::add(std::unique_ptr<Segment> segment) {
  segment->index = static_cast<uint32_t>(segments_.size());
  const uint32_t first = segment->row.pcn_base.v / extent::kGranuleClusters;
  const uint32_t count = static_cast<uint32_t>(div_up(segment->row.clusters, extent::kGranuleClusters));
  if (by_granule_.size() < first + count) by_granule_.resize(first + count, nullptr);
  for (uint32_t i = 0; i < count; ++i) {
    ASSERT(by_granule_[first + i] == nullptr);
    by_granule_[first + i] = segment.get();
  }
  segments_.push_back(std::move(segment));
  return *segments_.back();
}

Segment* SegmentSet::find(const Uuid& uuid) {
  const auto found =
      std::find_if(segments_.begin(), segments_.end(), [&](const auto& s) { return s->row.uuid == uuid; });
  return found == segments_.end() ? nullptr : found->get();
}

uint32_t SegmentSet::alignment() const {
  uint32_t out = 1;
  for (const auto& segment : segments_) out = std::max(out, segment->file->alignment());
  return out;
}

}  // namespace foreshadow::volume
