// What people ask for of the way back.
#include <fmt/format.h>

#include "control/requests.h"

namespace foreshadow::control {

Result<VolumeModel*> Requests::writable(const std::string& name) const {
  ASSIGN_OR_RETURN(VolumeModel * model, volume(name));
  if (model->volume().read_only_reason().empty()) return model;
  return fail(Code::kFailedPrecondition,
              fmt::format("volume {} is read-only: {}", model->name(), model->volume().read_only_reason()));
}

Result<const v1::Segment*> Requests::leaving(const VolumeModel& model, uint32_t segment_id,
                                             std::string_view kind) const {
  std::string there;
  for (const v1::Segment& segment : model.volume().segments()) {
    if (segment.role() != v1::SEGMENT_ROLE_SHADOW) continue;
    there += fmt::format("{}{}", there.empty() ? "" : ", ", segment.id());
    if (segment.id() != segment_id) continue;
    const bool folds = kind == "fold_shadow";
    const auto other = folds ? v1::SEGMENT_STATE_DRAINING : v1::SEGMENT_STATE_FOLDING;
    const bool otherwise =
        segment.state() == other ||
        reconciler_.ledger().about(folds ? "drain_segment" : "fold_shadow", model.id(), segment.uuid());
    if (!otherwise) return &segment;
    return fail(
        Code::kFailedPrecondition,
        fmt::format("segment {} of volume {} is being {} already; `volume show {}` tells how far it is",
                    segment_id, model.name(), folds ? "drained" : "folded", model.name()));
  }
  return fail(Code::kNotFound, fmt::format("volume {} has no shadow with segment id {}; there are: {}",
                                           model.name(), segment_id, there.empty() ? "none" : there));
}

Status Requests::fold_shadow(const v1::SegmentRequest& request, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, writable(request.volume()));
  uint32_t id = request.segment_id();
  for (const v1::Segment& segment : model->volume().segments()) {
    const bool in_use = segment.role() == v1::SEGMENT_ROLE_SHADOW &&
                        segment.state() != v1::SEGMENT_STATE_WARM &&
                        segment.state() != v1::SEGMENT_STATE_DRAINING;
    if (request.segment_id() == 0 && in_use && (id == 0 || segment.id() < id)) id = segment.id();
  }
  if (id == 0) {
    return fail(Code::kFailedPrecondition,
                fmt::format("volume {} has no shadow in use: there is nothing to fold", model->name()));
  }
  ASSIGN_OR_RETURN(const v1::Segment* segment, leaving(*model, id, "fold_shadow"));
  return reconciler_.fold(*model, segment->uuid(), "asked for by hand", std::move(done));
}

Status Requests::drain_segment(const v1::SegmentRequest& request, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, writable(request.volume()));
  if (request.segment_id() == 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("segment 0 is the primary of volume {}: it cannot be drained; `volume shrink "
                            "{}` can cut what is free at its end",
                            model->name(), model->name()));
  }
  ASSIGN_OR_RETURN(const v1::Segment* segment, leaving(*model, request.segment_id(), "drain_segment"));
  return reconciler_.drain(*model, segment->uuid(), "asked for by hand", std::move(done));
}

Status Requests::shrink_volume(const v1::ShrinkVolumeRequest& request, v1::ShrinkPlan* plan, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, writable(request.volume()));
  ASSIGN_OR_RETURN(const policy::ShrinkPlan found, reconciler_.plan_shrink(*model, request.to_bytes()));
  plan->set_capacity_before(found.capacity_before);
  plan->set_capacity_after(found.capacity_after);
  plan->set_target(found.target);
  plan->set_sentence(found.sentence);
  for (const policy::ShrinkStep& step : found.steps) {
    v1::ShrinkPlan::Step& row = *plan->add_steps();
    row.set_segment_id(step.id);
    row.set_segment_uuid(step.uuid);
    row.set_action(step.kind == policy::ShrinkStep::Kind::kDrain ? "drain" : "cut");
    row.set_moves_bytes(step.moves);
    row.set_frees_bytes(step.frees);
    row.set_size(step.size);
  }
  if (!request.plan_only() && !found.steps.empty()) {
    return reconciler_.shrink(*model, found, "asked for by hand", std::move(done));
  }
  v1::Ack already;
  *already.mutable_volume() = reconciler_.shown(*model);
  done(already);
  return {};
}

}  // namespace foreshadow::control
