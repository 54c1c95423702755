#include "volume/segment_set.h"

#include <algorithm>

namespace foreshadow::volume {
namespace {

uint32_t granules_of(const Segment& segment) {
  return static_cast<uint32_t>(div_up(segment.layout.clusters, extent::kGranuleClusters));
}

}  // namespace

Segment& SegmentSet::add(std::unique_ptr<Segment> segment) {
  const auto free = std::find(slots_.begin(), slots_.end(), nullptr);
  segment->index = static_cast<uint32_t>(free - slots_.begin());
  const uint32_t first = segment->row.pcn_base.v / extent::kGranuleClusters;
  const uint32_t count = granules_of(*segment);
  if (by_granule_.size() < first + count) by_granule_.resize(first + count, nullptr);
  for (uint32_t i = 0; i < count; ++i) {
    ASSERT(by_granule_[first + i] == nullptr);
    by_granule_[first + i] = segment.get();
  }
  all_.push_back(segment.get());
  if (free == slots_.end()) {
    slots_.push_back(std::move(segment));
  } else {
    *free = std::move(segment);
  }
  return *all_.back();
}

std::unique_ptr<Segment> SegmentSet::remove(Segment& segment) {
  ASSERT(segment.allocator.taken() == 0);
  std::replace(by_granule_.begin(), by_granule_.end(), &segment, static_cast<Segment*>(nullptr));
  std::erase(all_, &segment);
  return std::move(slots_[segment.index]);
}

void SegmentSet::make_primary(Segment& segment) {
  std::iter_swap(all_.begin(), std::find(all_.begin(), all_.end(), &segment));
}

Pcn SegmentSet::next_pcn_base(uint32_t clusters) const {
  const auto wanted = static_cast<uint32_t>(div_up(clusters, extent::kGranuleClusters));
  uint32_t run = 0;
  for (uint32_t granule = 1; granule < by_granule_.size(); ++granule) {
    run = by_granule_[granule] == nullptr ? run + 1 : 0;
    if (run == wanted) return Pcn((granule + 1 - wanted) * extent::kGranuleClusters);
  }
  const auto end = static_cast<uint32_t>(std::max<size_t>(by_granule_.size(), 1));
  return Pcn((end - run) * extent::kGranuleClusters);
}

Segment* SegmentSet::find(const Uuid& uuid) const {
  const auto found =
      std::find_if(all_.begin(), all_.end(), [&](const Segment* s) { return s->row.uuid == uuid; });
  return found == all_.end() ? nullptr : *found;
}

uint32_t SegmentSet::alignment() const {
  uint32_t out = 1;
  for (const Segment* segment : all_) out = std::max(out, segment->file->alignment());
  return out;
}

}  // namespace foreshadow::volume
