#pragma once
// What people ask for, judged before an agent hears of it.
#include <cstdint>
#include <string>

#include "base/error.h"
#include "control/reconciler.h"
#include "foreshadow/v1/control.pb.h"

namespace foreshadow::control {

// Sizes are refused rather than rounded: a person who asked for one number should not find another.
Status check_size(uint64_t size, std::string_view what, uint64_t min, uint64_t max);

Status check_redirect(v1::RedirectMode redirect);
Status check_policy(const v1::VolumePolicy& policy);
Status check_wall(uint32_t hold_timeout_ms, const v1::Backpressure& backpressure);

// Each call validates, records an intent and sends it; `done` gets the agent's answer, once, with the core's
// mutex held. An error names the value and what was expected, and means that nothing was begun. Called with
// the core's mutex held.
class Requests {
 public:
  using Done = Reconciler::Done;
  explicit Requests(Reconciler& reconciler) : reconciler_(reconciler) {}

  Status add_pool(const v1::AddPoolRequest& request, Done done);
  Status create_volume(const v1::CreateVolumeRequest& request, Done done);
  Status adopt_device(const v1::AdoptDeviceRequest& request, Done done);
  // A smaller size than it has is kInvalidArgument.
  Status grow_volume(const v1::GrowVolumeRequest& request, Done done);
  Status set_volume(const v1::SetVolumeRequest& request, Done done);
  Status delete_volume(const std::string& name, bool force, Done done);
  Status check_volume(const v1::CheckVolumeRequest& request, Done done);
  Status scrub_volume(const v1::ScrubVolumeRequest& request, Done done);
  Status grant_shadow(const v1::GrantShadowRequest& request, Done done);
  // A segment that is merged already is answered at once.
  Status merge_shadow(const v1::MergeShadowRequest& request, Done done);
  Status squeeze_shadow(const v1::SqueezeShadowRequest& request, Done done);

  // Of the way back. `plan` is filled in before anything is begun; with plan_only, or without a step to take,
  // `done` is called at once.
  Status fold_shadow(const v1::SegmentRequest& request, Done done);
  Status drain_segment(const v1::SegmentRequest& request, Done done);
  Status shrink_volume(const v1::ShrinkVolumeRequest& request, v1::ShrinkPlan* plan, Done done);

  // To another pool of its agent; without `wait`, `done` is called when the intent is recorded. A second
  // request for the same pool waits for the first; kFailedPrecondition while other long work is under way.
  Status move_volume(const v1::MoveVolumeRequest& request, Done done);

  // kInvalidArgument for what cannot be a name, kNotFound for a volume that is not there.
  Result<VolumeModel*> volume(const std::string& name) const;

 private:
  Result<std::string> agent_for(const std::string& asked) const;
  // The pool of this name with the most room, at a connected agent.
  Result<const v1::Pool*> pool_for(const std::string& name) const;
  // The pool for a volume to be made under a name that nobody has, with room for `primary_size` bytes.
  Result<const v1::Pool*> place_for(const std::string& name, const std::string& pool,
                                    uint64_t primary_size) const;
  // The volume, unless it cannot be changed.
  Result<VolumeModel*> writable(const std::string& name) const;
  // The shadow of that number, unless it leaves in another way than by `kind` already.
  Result<const v1::Segment*> leaving(const VolumeModel& model, uint32_t segment_id,
                                     std::string_view kind) const;
  // Its primary, unless it cannot go now.
  Result<const v1::Segment*> movable(const VolumeModel& model) const;
  void answer_now(const VolumeModel& model, const Done& done) const;
  uint64_t policy_size(const VolumeModel& model, const std::string& pool_name) const;

  Reconciler& reconciler_;
};

}  // namespace foreshadow::control
