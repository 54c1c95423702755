#pragma once
// The jobs that change where a volume's clusters lie: fold, drain, and segments that grow and shrink at their
// end. evacuate.cc has the crash argument.
#include <cstdint>

#include "base/error.h"
#include "base/uuid.h"
#include "extent/allocator.h"
#include "io/task.h"
#include "volume/segment_set.h"
#include "volume/volume.h"

namespace foreshadow::volume {

class Checkpointer;
class Committer;
class Engine;
class FoldRoom;
class Relocator;

struct Job {
  using Kind = JobKind;
  Kind kind = Kind::kNone;
  Uuid segment;
};

// A part of the engine, in a file of its own. One job runs at a time; the others wait for it, and a squeeze
// gives way to them.
class Evacuator {
 public:
  explicit Evacuator(Engine& engine);

  // As Volume::fold_shadow, drain_segment and resize_segment.
  io::Task<Status> fold(Uuid segment, uint64_t primary_bytes);
  io::Task<Status> drain(Uuid segment);
  io::Task<Status> resize(Uuid segment, uint64_t bytes);

  // Makes the backing larger, durably, and then the segment. For who has the job.
  io::Task<Status> grow_segment(Segment& segment, uint32_t clusters);
  // As Volume::replace_primary: head_move.cc.
  io::Task<Status> replace(SegmentFile next);

  // `work` runs with nothing else evacuating.
  io::Task<Status> as_job(Job job, io::Task<Status> work);
  JobInfo job() const;
  // No further job begins but a squeeze; the one under way ends with kShutdown.
  void stop();
  bool stopping() const { return stopped_; }
  bool idle() const { return job_.kind == JobKind::kNone; }
  bool others_wait() const { return jobs_waiting_ > 0; }  // for a squeeze to end
  io::Event& ended() { return job_ended_; }               // told whenever one has

 private:
  struct DrainRoom;
  io::Task<Status> evacuate(Uuid uuid, SegmentState how, uint64_t primary_bytes);
  io::Task<Status> keep(Segment& segment, extent::SegmentState state);  // it does not leave after all
  io::Task<Status> empty(Segment& segment, uint32_t first, FoldRoom* fold);
  io::Task<Status> resize_backing(Segment& segment, uint64_t bytes);
  io::Task<Status> release(Segment& segment);
  io::Task<Status> replace_now(SegmentFile next);
  io::Task<Status> move_head(Segment& from, Segment& to);
  io::Task<Status> claim(Segment& from, Segment& to);
  io::Task<Status> resize_now(Uuid uuid, uint64_t bytes);
  io::Task<Status> shrink(Segment& segment, uint32_t clusters);
  void set_clusters(Segment& segment, uint32_t clusters);
  Result<Segment*> find_segment(const Uuid& uuid);
  Result<uint32_t> clusters_of(const Segment& segment, uint64_t bytes) const;
  uint64_t backing_size(const Segment& segment, uint32_t clusters) const;
  Status check_drain_room(const Segment& leaving) const;
  DrainRoom drain_room(const Segment& leaving) const;
  extent::Allocator::Run take_for_drain(const Segment& leaving, uint32_t want);

  Engine& engine_;
  io::Executor& executor_;
  const extent::Geometry geometry_;
  SegmentSet& segments_;
  Committer& committer_;
  Checkpointer& checkpointer_;
  Relocator& relocator_;
  Job job_;
  io::Event job_ended_;
  uint32_t jobs_waiting_ = 0;
  bool stopped_ = false;
};

}  // namespace foreshadow::volume
