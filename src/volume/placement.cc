#include "volume/placement.h"

#include <algorithm>

#include "base/assert.h"

namespace foreshadow::volume {
namespace {

using extent::SegmentState;

Segment* first_in_state(SegmentSet& segments, SegmentState state) {
  for (Segment* segment : segments.all()) {
    if (segment->row.state == state) return segment;
  }
  return nullptr;
}

bool takes_first_touches(SegmentState state) {
  return state == SegmentState::kWarm || state == SegmentState::kActive || state == SegmentState::kMerged;
}

}  // namespace

Segment* Placement::active() {
  return first_in_state(segments_, SegmentState::kActive);
}
Segment* Placement::warm() {
  for (Segment* segment : segments_.all()) {
    if (segment->row.state == SegmentState::kWarm && segment->room() > 0) return segment;
  }
  return nullptr;
}

Segment* Placement::active_with_room() {
  for (Segment* segment : segments_.all()) {
    if (segment->row.state == SegmentState::kActive && segment->room() > 0) return segment;
  }
  return nullptr;
}

bool Placement::can_place(uint64_t clusters) const {
  return room(clusters) >= clusters;
}

// The newest first: those have room.
uint64_t Placement::room(uint64_t enough) const {
  uint64_t room = 0;
  for (auto segment = segments_.all().rbegin(); segment != segments_.all().rend(); ++segment) {
    if (room >= enough) return enough;
    if (takes_first_touches((*segment)->row.state)) room += (*segment)->room();
  }
  return std::min(room, enough);
}

uint64_t Placement::clusters() const {
  uint64_t out = 0;
  for (const auto& segment : segments_.all()) {
    if (segment->row.role != extent::SegmentRole::kBase) out += segment->row.clusters;
  }
  return out;
}

Segment* Placement::next_target() {
  if (Segment* shadow = active_with_room()) return shadow;
  for (Segment* segment : segments_.all()) {
    if (segment->row.state == SegmentState::kMerged && segment->room() > 0) return segment;
  }
  Segment* shadow = warm();
  if (shadow != nullptr) activate(*shadow);
  return shadow;
}

void Placement::take(uint32_t clusters, std::vector<Pcn>& out) {
  while (clusters > 0) {
    Segment* target = next_target();
    ASSERT(target != nullptr);
    const extent::Allocator::Run run = target->allocator.allocate(std::min(clusters, target->room()));
    ASSERT(run.count > 0);
    for (uint32_t i = 0; i < run.count; ++i) out.push_back(run.first.next(i));
    clusters -= run.count;
    const bool full_shadow = target->row.state == SegmentState::kActive && target->allocator.free() == 0;
    if (full_shadow && !target->full_reported) {
      target->full_reported = true;
      sink_.on_full(*target);
    }
  }
}

void Placement::activate(Segment& shadow) {
  if (Segment* before = active(); before != nullptr && before != &shadow) {
    seal(*before);
    if (!before->full_reported) {
      before->full_reported = true;
      sink_.on_full(*before);
    }
  }
  set_state(shadow, SegmentState::kActive);
  sink_.on_activated(shadow);
}

void Placement::seal(Segment& shadow) {
  set_state(shadow, SegmentState::kSealed);
}
void Placement::merged(Segment& shadow) {
  set_state(shadow, SegmentState::kMerged);
}

void Placement::begin_evacuation(Segment& segment, SegmentState how) {
  set_state(segment, how);
}
void Placement::end_evacuation(Segment& segment, SegmentState now) {
  set_state(segment, now);
}

void Placement::set_state(Segment& segment, SegmentState state) {
  if (segment.row.state == state) return;
  segment.row.state = state;
  sink_.on_state_changed(segment);
}

}  // namespace foreshadow::volume
