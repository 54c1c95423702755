#pragma once
// Where a first touch goes: the active shadow first, else the primary and what was merged into it, else a
// warm shadow that becomes active for it, else nowhere: then the write waits at the wall.
#include <cstdint>
#include <vector>

#include "base/types.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

// What placement does besides choosing.
class PlacementSink {
 public:
  virtual ~PlacementSink() = default;
  virtual void on_state_changed(Segment& segment) = 0;  // its row must reach the journal
  virtual void on_activated(Segment& segment) = 0;
  virtual void on_full(Segment& segment) = 0;
};

class Placement {
 public:
  Placement(SegmentSet& segments, PlacementSink& sink) : segments_(segments), sink_(sink) {}
  // True if `clusters` can be placed now, counting warm shadows.
  bool can_place(uint64_t clusters) const;
  // How many could be placed, or `enough` if it is at least that many.
  uint64_t room(uint64_t enough) const;
  uint64_t clusters() const;  // of all segments that take new ones, now or when others are empty
  // Takes that many; can_place() said yes. Runs are as long as they come.
  void take(uint32_t clusters, std::vector<Pcn>& out);
  // The segment `redirect all` moves overwrites to; nullptr without an active shadow that has room.
  Segment* active_with_room();
  Segment* active();
  Segment* warm();
  // Redirects to `shadow`; the one before is sealed.
  void activate(Segment& shadow);
  void seal(Segment& shadow);
  void merged(Segment& shadow);
  // Nothing new is placed in it from here on, until the end says what it is now.
  void begin_evacuation(Segment& segment, extent::SegmentState how);
  void end_evacuation(Segment& segment, extent::SegmentState now);

 private:
  void set_state(Segment& segment, extent::SegmentState state);
  Segment* next_target();
  SegmentSet& segments_;
  PlacementSink& sink_;
};

}  // namespace foreshadow::volume
