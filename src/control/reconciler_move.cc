// Volumes whose primary goes to another pool.
#include <fmt/format.h>

#include "base/size.h"
#include "control/reconciler.h"

namespace foreshadow::control {

Status Reconciler::move(VolumeModel& model, const v1::Pool& pool, uint64_t size, const std::string& reason,
                        Done done) {
  v1::Intent intent;
  v1::Intent::MovePrimary& action = *intent.mutable_move_primary();
  action.set_volume_id(model.id());
  action.set_segment_uuid(new_uuid().str());
  action.set_pool(pool.name());
  action.set_size(size);
  TRY(begin(model.agent(), std::move(intent), std::move(done)));
  events_.append("volume.moving", model.name(),
                 fmt::format("from pool {} to {}, a primary of {}: {}", model.volume().pool(), pool.name(),
                             format_size(size), reason));
  return {};
}

Status Reconciler::take_moved(const IntentRow& intent, const v1::Segment& segment, const VolumeModel& after,
                              const v1::Ack& ack) {
  if (segment.role() != v1::SEGMENT_ROLE_PRIMARY) {
    return fail(Code::kInternal, fmt::format("agent {} says segment {} is the primary, and reports another",
                                             intent.agent, segment.uuid()));
  }
  events_.append("volume.moved", after.name(),
                 fmt::format("to pool {}, a primary of {} after {:.3f} s", segment.pool(),
                             format_size(segment.capacity()), static_cast<double>(ack.elapsed_us()) / 1e6));
  return {};
}

}  // namespace foreshadow::control
