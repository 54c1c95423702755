#pragma once
// The room that a fold takes in the primary: of what is free there, and of what the primary grows by while
// the copying goes on already.
//
// Crash points of the growth: those of every segment that grows, once a step (evacuate.cc). A crash between
// two steps leaves a primary that is larger than it was, and the fold goes on from what has been moved.
#include <cstdint>

#include "base/error.h"
#include "extent/allocator.h"
#include "io/task.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

class Engine;

// Of one fold. What the fold still needs is set aside for it, as far as it is there; what the primary grows
// by beyond that is for first touches, which have their part of it from the first step on.
class FoldRoom {
 public:
  // `wanted` clusters are to be taken; the primary may grow to `clusters`, or not at all if it has as many.
  FoldRoom(Engine& engine, uint64_t wanted, uint32_t clusters);
  FoldRoom(const FoldRoom&) = delete;
  ~FoldRoom();

  // kFailedPrecondition: not even the primary that has grown has the room.
  Status check(const Segment& leaving) const;
  void begin();
  void recount(uint64_t wanted);  // before anything is taken
  extent::Allocator::Run take(uint32_t want);
  // More room is on its way; told by Relocator::on_room().
  bool growing() const { return growing_; }
  // When no step is under way any more, and no other begins if `early`: what ended the growth before its end.
  // To be awaited before the destructor.
  io::Task<Status> end(bool early);

  static constexpr uint32_t kSteps = 16;
  // Finding pages in memory takes the time of whoever shares the core: while somebody is served, in small
  // steps, and not far ahead of the copying.
  static constexpr uint64_t kGentleStep = 256ull << 10;  // bytes
  static constexpr uint64_t kGentleAhead = 4ull << 20;

 private:
  io::Detached grow();
  void set_aside();
  uint64_t room_then() const;  // clusters, when it has grown

  Engine& engine_;
  Segment& primary_;
  uint64_t left_;         // clusters, to be taken yet
  uint32_t clusters_;     // that the primary grows to
  uint64_t surplus_ = 0;  // clusters that it will have beyond what the fold takes
  bool growing_ = false;
  bool ending_ = false;
  Status outcome_;
  io::Event grown_;
};

}  // namespace foreshadow::volume
