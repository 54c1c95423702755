#pragma once
// One served volume: the Volume, what is told of it, and its shadows' way in.
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "agent/await.h"
#include "agent/clock.h"
#include "agent/volume_report.h"
#include "base/error.h"
#include "foreshadow/v1/agent.pb.h"
#include "io/task.h"
#include "volume/volume.h"

namespace foreshadow::agent {

// Told on the loop. Must not call back into the volume.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_event(v1::VolumeEvent event) = 0;
  // Volumes have come that control has not been told of: it wants the whole inventory.
  virtual void on_inventory_changed() {}
};

// On the loop. Owns the Volume; the NBD server serves it by reference, so drain the export before close().
// Kept by shared_ptr: an operation under way keeps its host, and finds closing() set once it has its turn.
class VolumeHost final : private volume::Listener {
 public:
  VolumeHost(Catalog& catalog, Clock clock, EventSink& sink, std::unique_ptr<volume::Volume> volume,
             Whereabouts whereabouts);
  ~VolumeHost() override;

  volume::Volume& volume() { return *volume_; }
  const volume::Volume& volume() const { return *volume_; }
  const Uuid& id() const { return volume_->id(); }
  const std::string& name() const { return volume_->name(); }
  v1::Volume report() const;
  bool closing() const { return closing_; }

  // Makes the backing, formats and attaches it. Repeating it for a segment that is attached already changes
  // nothing. On failure the backing is gone again, unless the volume may know of it already.
  io::Task<Status> grant_shadow(Uuid segment, std::string pool, uint64_t size);
  Status activate_shadow(Uuid segment);
  io::Task<Status> merge_shadow(Uuid segment);
  // A pass over one segment; others of the volume's operations go on beside it. UNSPECIFIED is zstd.
  io::Task<Result<volume::SqueezeReport>> squeeze(Uuid segment, v1::SqueezeMode codec);
  // Ends a pass that runs, for the agent is stopping.
  void stop_squeezing() { volume_->stop_squeezing(); }
  // Durable and shown when it returns.
  io::Task<Status> grow(uint64_t size);
  io::Task<Result<extent::CheckReport>> check(bool repair);
  void set_policy(v1::VolumePolicy policy) { whereabouts_.policy = std::move(policy); }

  // Long work (volume_jobs.cc), one at a time, in the order it was asked for; grants, merges and activations
  // go on meanwhile. A repeat of what is done succeeds; kShutdown if stop_jobs() comes first, and then a
  // repeat, or resume_jobs() after the next start, goes on from there.
  // Grows the primary in its pool by what is missing, folds the shadow into it, and gives the backing back.
  io::Task<Status> fold_shadow(Uuid segment);
  // Empties the segment into the others, and gives the backing back.
  io::Task<Status> drain_segment(Uuid segment);
  // To a backing of that many bytes: larger, if the pool has room, or smaller.
  io::Task<Status> resize_segment(Uuid segment, uint64_t bytes);
  // Makes a segment of `pool` the primary, empties the one before into it and the others, and gives its
  // backing back (volume_move.cc).
  io::Task<Status> move_primary(Uuid segment, std::string pool, uint64_t size);
  // Begins what a crash has left: segments that are being folded, drained or released. Once, after the start;
  // each keeps `self`, which is this host, until it is done.
  void resume_jobs(const std::shared_ptr<VolumeHost>& self);
  // Before an end: what runs stops soon, what waits does not begin.
  void stop_jobs();

  // Waits for the operations under way, and stops the long ones; then closes the volume. Further operations
  // fail with kShutdown.
  io::Task<Status> close();

 private:
  void on_redirected(SegmentId to) override;
  void on_shadow_full(SegmentId segment) override;
  void on_hold_began() override;
  void on_hold_ended() override;
  void on_pace_began() override;
  void on_pace_ended() override;
  void on_read_only(const std::string& reason) override;
  void on_damaged(const std::string& what) override;
  void on_corrupt_data(const volume::CorruptData& where) override;
  void tell(v1::VolumeEvent::Kind kind, uint32_t segment, std::string message);
  void tell_corrupt(uint32_t segment, const std::string& what);
  void tell_if_shadow_needed();

  bool has_segment(const Uuid& segment) const;
  Status not_closing() const;
  // A backing of that size in the pool. What an earlier try of the same segment left behind is gone first: it
  // was never attached, or has_segment() would know.
  io::Task<Result<std::unique_ptr<io::File>>> make_backing(Uuid segment, std::string pool, uint64_t size);
  // After a failure, unless the volume may know of it.
  io::Task<Status> remove_unattached(Uuid segment, std::string pool);
  // The fallible middle of grant_shadow: everything after the backing exists.
  io::Task<Status> attach(Uuid segment, std::unique_ptr<io::File> file);

  // With the turn of jobs_.
  io::Task<Status> fold_now(Uuid segment);
  io::Task<Status> drain_now(Uuid segment);
  io::Task<Status> resize_now(Uuid segment, uint64_t bytes);
  uint64_t lack_beside(const volume::SegmentInfo& leaving) const;
  Result<uint64_t> primary_for(const volume::SegmentInfo& leaving, uint64_t more) const;
  io::Task<Status> fold_into_primary(Uuid shadow, uint64_t margin);
  io::Task<Status> within_pool(Uuid segment, uint64_t bytes, io::Task<Status> growth);
  io::Task<Status> move_now(Uuid segment, std::string pool, uint64_t size);
  io::Task<Status> replace_primary(Uuid segment, std::string pool, uint64_t size);
  void note_leaving(const Uuid& segment);
  // The volume has let go of it.
  io::Task<Status> return_backing(Uuid segment);
  io::Task<Status> resume_job(Uuid segment, bool folds);
  void resumed(const volume::SegmentInfo& segment, const Status& outcome);
  std::optional<volume::SegmentInfo> find_segment(const Uuid& segment) const;

  Catalog& catalog_;
  Clock clock_;
  EventSink& sink_;
  std::unique_ptr<volume::Volume> volume_;
  Whereabouts whereabouts_;
  Gate shadows_;  // grants, merges and growth, one at a time; an activation never waits
  Gate checks_;
  Gate jobs_;
  std::set<Uuid> activated_by_control_;
  uint64_t corrupt_told_ = 0;
  std::map<Uuid, std::string> leaving_;  // the pool of what long work was begun on
  bool closing_ = false;
  bool jobs_stopped_ = false;
};

}  // namespace foreshadow::agent
