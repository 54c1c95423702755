// The way back: folding, draining, and shrinking by people's wish or by policy.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/names.h"
#include "base/size.h"
#include "control/control_limits.h"
#include "control/reconciler.h"

namespace foreshadow::control {
namespace {

policy::SegmentView::Kind kind_of(const v1::Segment& segment) {
  if (segment.role() == v1::SEGMENT_ROLE_PRIMARY) return policy::SegmentView::Kind::kPrimary;
  if (segment.state() == v1::SEGMENT_STATE_WARM) return policy::SegmentView::Kind::kWarm;
  if (segment.state() == v1::SEGMENT_STATE_MERGED) return policy::SegmentView::Kind::kMerged;
  return policy::SegmentView::Kind::kInUse;
}

// Of what came from pools: without an image that the volume lies over.
uint64_t granted_capacity(const v1::Volume& volume) {
  uint64_t out = lasting_capacity(volume);
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.role() == v1::SEGMENT_ROLE_BASE) out -= std::min(segment.capacity(), out);
  }
  return out;
}
uint64_t granted_use(const v1::Volume& volume) {
  uint64_t out = volume.used();
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.role() == v1::SEGMENT_ROLE_BASE) out -= std::min(segment.used(), out);
  }
  return out;
}

const v1::Segment* primary_of(const v1::Volume& volume) {
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.role() == v1::SEGMENT_ROLE_PRIMARY) return &segment;
  }
  return nullptr;
}

}  // namespace

Status Reconciler::fold(VolumeModel& model, const std::string& uuid, const std::string& reason, Done done) {
  const v1::Segment* segment = model.segment(uuid);
  if (segment == nullptr) {
    return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", model.name(), quoted(uuid)));
  }
  if (const auto* open = ledger_.about("fold_shadow", model.id(), uuid)) {
    ledger_.join(open->row.id, std::move(done));
    return {};
  }
  v1::Intent intent;
  intent.mutable_fold_shadow()->set_volume_id(model.id());
  intent.mutable_fold_shadow()->set_segment_uuid(uuid);
  TRY(begin(model.agent(), std::move(intent), std::move(done)));
  events_.append("shadow.folding", model.name(), fmt::format("segment {}: {}", segment->id(), reason),
                 segment->id());
  return {};
}

Status Reconciler::drain(VolumeModel& model, const std::string& uuid, const std::string& reason, Done done) {
  const v1::Segment* segment = model.segment(uuid);
  if (segment == nullptr) {
    return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", model.name(), quoted(uuid)));
  }
  if (const auto* open = ledger_.about("drain_segment", model.id(), uuid)) {
    ledger_.join(open->row.id, std::move(done));
    return {};
  }
  v1::Intent intent;
  intent.mutable_drain_segment()->set_volume_id(model.id());
  intent.mutable_drain_segment()->set_segment_uuid(uuid);
  TRY(begin(model.agent(), std::move(intent), std::move(done)));
  events_.append("segment.draining", model.name(), fmt::format("segment {}: {}", segment->id(), reason),
                 segment->id());
  return {};
}

Result<policy::ShrinkPlan> Reconciler::plan_shrink(const VolumeModel& model, uint64_t target) const {
  const v1::Volume volume = shown(model);
  policy::ShrinkView view;
  uint64_t used = 0;
  for (const v1::Segment& segment : volume.segments()) {
    // An image that the volume lies over is nobody's to give back.
    if (segment.state() == v1::SEGMENT_STATE_GRANTED || segment.role() == v1::SEGMENT_ROLE_BASE) continue;
    if (is_leaving(segment)) {
      return fail(
          Code::kFailedPrecondition,
          fmt::format("segment {} of volume {} is being {} already: shrink it further when that is done",
                      segment.id(), model.name(),
                      segment.state() == v1::SEGMENT_STATE_FOLDING ? "folded" : "drained"));
    }
    view.segments.push_back({segment.id(), segment.uuid(), kind_of(segment), segment.capacity(),
                             segment.used(), segment.backing()});
    used += segment.used();
  }
  if (ledger_.about("resize_segment", model.id(), "") != nullptr) {
    return fail(
        Code::kFailedPrecondition,
        fmt::format("a segment of volume {} is being cut already: shrink it further when that is done",
                    model.name()));
  }
  if (ledger_.about("move_primary", model.id(), "") != nullptr) {
    return fail(Code::kFailedPrecondition,
                fmt::format("volume {} is being moved: shrink it when that is done", model.name()));
  }
  std::sort(view.segments.begin(), view.segments.end(), [](const auto& a, const auto& b) {
    const bool a_first = a.kind == policy::SegmentView::Kind::kPrimary;
    const bool b_first = b.kind == policy::SegmentView::Kind::kPrimary;
    return a_first != b_first ? a_first : a.id < b.id;
  });
  view.target = target == 0 ? policy::shrink_target(used) : target;
  add_warm_wish(model, view);
  return policy::plan_shrink(view);
}

// What policy would grant, and want at hand, if the volume had the target's capacity now, and nothing warm.
void Reconciler::add_warm_wish(const VolumeModel& model, policy::ShrinkView& shrunk) const {
  policy::VolumeView view = view_of(model);
  std::erase_if(view.shadows, [](const policy::ShadowView& shadow) {
    return shadow.state != policy::ShadowState::kMerged;
  });
  view.granting = 0;
  view.capacity = std::max(shrunk.target, view.used);
  const policy::Decision decision = options_.decide(view, model.forecaster(), options_.policy);
  // Beyond any volume a forecast is "all of it", and no number.
  const auto need = decision.inputs.find("need");
  const double most = static_cast<double>(view.size);
  shrunk.warm_need =
      need == decision.inputs.end() ? view.size : static_cast<uint64_t>(std::clamp(need->second, 0.0, most));
  if (decision.action == policy::Action::kGrant) {
    shrunk.warm_size = decision.size;
  } else {
    const double share = static_cast<double>(shrunk.target) * options_.policy.grow_share;
    shrunk.warm_size = policy::ladder_size(static_cast<uint64_t>(share), options_.policy);
  }
}

Status Reconciler::shrink(VolumeModel& model, const policy::ShrinkPlan& plan, const std::string& reason,
                          Done done) {
  if (plan.steps.empty()) return fail(Code::kInvalidArgument, "a shrink without steps");
  struct Outcome {
    size_t left;
    v1::Ack ack;
    Done done;
  };
  const auto outcome = std::make_shared<Outcome>();
  outcome->left = plan.steps.size();
  outcome->done = std::move(done);
  const Done step_done = [outcome](const v1::Ack& ack) {
    if (outcome->ack.code() == 0) outcome->ack = ack;
    if (--outcome->left == 0 && outcome->done) outcome->done(outcome->ack);
  };
  v1::Intent::Shrink id;
  id.set_id(new_uuid().str());
  id.set_capacity_before(plan.capacity_before);
  events_.append("volume.shrinking", model.name(), fmt::format("{}: {}", reason, plan.sentence));
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const policy::ShrinkStep& step = plan.steps[i];
    v1::Intent intent;
    const bool drains = step.kind == policy::ShrinkStep::Kind::kDrain;
    if (drains) {
      intent.mutable_drain_segment()->set_volume_id(model.id());
      intent.mutable_drain_segment()->set_segment_uuid(step.uuid);
      *intent.mutable_drain_segment()->mutable_shrink() = id;
    } else {
      intent.mutable_resize_segment()->set_volume_id(model.id());
      intent.mutable_resize_segment()->set_segment_uuid(step.uuid);
      intent.mutable_resize_segment()->set_size(step.size);
      *intent.mutable_resize_segment()->mutable_shrink() = id;
    }
    const Status begun = begin(model.agent(), std::move(intent), step_done);
    if (!begun && i == 0) return begun;
    if (!begun) {
      // What was begun goes on; the rest is as if it had been refused.
      v1::Ack refused;
      refused.set_code(row_of(begun.error().code).grpc_status);
      refused.set_message(begun.error().message);
      for (; i < plan.steps.size(); ++i) step_done(refused);
      return {};
    }
    if (drains) {
      events_.append("segment.draining", model.name(), fmt::format("segment {}: {}", step.id, reason),
                     step.id);
    }
  }
  return {};
}

void Reconciler::note_released(const IntentRow& intent, const v1::Segment& segment, const VolumeModel& after,
                               const v1::Ack& ack) {
  const double took_s = static_cast<double>(ack.elapsed_us()) / 1e6;
  if (intent.kind == "fold_shadow") {
    const v1::Segment* primary = primary_of(after.volume());
    events_.append("shadow.folded", after.name(),
                   fmt::format("segment {} of {} after {:.3f} s; the primary has {}", segment.id(),
                               format_size(segment.capacity()), took_s,
                               format_size(primary == nullptr ? 0 : primary->capacity())),
                   segment.id());
    return;
  }
  events_.append(
      "segment.released", after.name(),
      fmt::format("segment {} of {} after {:.3f} s", segment.id(), format_size(segment.capacity()), took_s),
      segment.id());
}

// What an agent has been asked to empty, and as of its last figures had not begun to: no use counting on it.
uint64_t Reconciler::about_to_leave(const VolumeModel& model) const {
  uint64_t out = 0;
  for (const v1::Segment& segment : model.volume().segments()) {
    const bool asked = ledger_.about("fold_shadow", model.id(), segment.uuid()) != nullptr ||
                       ledger_.about("drain_segment", model.id(), segment.uuid()) != nullptr;
    const auto& listed = model.latest().segments();
    const bool gone = !listed.empty() && std::none_of(listed.begin(), listed.end(), [&](const auto& use) {
      return use.id() == segment.id();
    });
    // What leaves already is in the agent's own figure.
    if (asked && !gone && model.volume().leaving() == 0) out += segment.capacity();
  }
  return out;
}

// The last step of a shrink, however it went, is its end.
void Reconciler::note_shrunk(const v1::Intent& intent) {
  const v1::Intent::Shrink* shrink = shrink_of(intent);
  if (shrink == nullptr) return;
  for (const auto& [number, open] : ledger_.open()) {
    const v1::Intent::Shrink* other = shrink_of(open.row.payload);
    if (other != nullptr && other->id() == shrink->id()) return;
  }
  const VolumeModel* model = fleet_.volume(volume_of(intent));
  if (model == nullptr) return;
  const uint64_t now = model->volume().capacity();
  events_.append(now < shrink->capacity_before() ? "volume.shrunk" : "shrink.refused", model->name(),
                 fmt::format("capacity from {} to {}, {} in use", format_size(shrink->capacity_before()),
                             format_size(now), format_size(model->volume().used())));
}

// A volume that folds adopts what its pool has no room to fold.
bool Reconciler::prefers_fold(const VolumeModel& model, policy::Decision& decision) const {
  if (model.volume().policy().merge() != v1::MERGE_MODE_FOLD) return false;
  const v1::Segment* segment = model.segment(decision.shadow_uuid);
  const v1::Segment* primary = primary_of(model.volume());
  if (segment == nullptr || primary == nullptr) return false;
  if (model.not_folded == decision.shadow_uuid) {
    decision.sentence += "; it could not be folded, so it is adopted";
    return false;
  }
  const uint64_t free = primary->capacity() - std::min(primary->used(), primary->capacity());
  const uint64_t missing = segment->used() - std::min(free, segment->used());
  const v1::Pool* pool = fleet_.pool(model.agent(), primary->pool());
  const uint64_t room = pool == nullptr ? 0 : pool_free(*pool);
  if (missing > room) {
    decision.sentence +=
        fmt::format("; it is adopted: to be folded it needs {} more in the primary, and pool {} has {}",
                    format_size(missing), primary->pool(), format_size(room));
    return false;
  }
  decision.sentence += "; this volume folds";
  return true;
}

policy::ReclaimDecision Reconciler::decide_reclaim(const VolumeModel& model) const {
  const uint64_t now = options_.clock();
  const auto seconds_since = [&](uint64_t then) {
    return static_cast<double>(now > then ? now - then : 0) / 1000;
  };
  policy::ReclaimView view;
  view = {granted_capacity(model.volume()), granted_use(model.volume()), 0, 0};
  if (model.roomy_since_ms != 0) view.free_for_s = seconds_since(model.roomy_since_ms);
  view.since_grant_s = seconds_since(model.last_grant_ms == 0 ? started_ms_ : model.last_grant_ms);
  policy::ReclaimConfig config = options_.reclaim;
  if (model.volume().policy().reclaim_hold_s() != 0) config.hold_s = model.volume().policy().reclaim_hold_s();
  config.cooldown_s = std::min(config.cooldown_s, config.hold_s);
  return policy::decide_reclaim(view, model.forecaster(), config);
}

// Hysteresis: it has to have been roomy for long, and a shrink leaves less than what counts as roomy.
void Reconciler::consider_reclaim(VolumeModel& model) {
  const v1::Volume& volume = model.volume();
  const auto capacity = static_cast<double>(granted_capacity(volume));
  const auto used = static_cast<double>(granted_use(volume));
  const bool roomy = capacity > 0 && 1 - used / capacity > options_.reclaim.free_share;
  if (!roomy) {
    model.roomy_since_ms = 0;
    model.reclaim_backoff.reset();
    return;
  }
  const uint64_t now = options_.clock();
  if (model.roomy_since_ms == 0) model.roomy_since_ms = now;
  if (!volume.policy().reclaim() || model.reclaim_backoff.waiting(now)) return;
  for (const char* kind :
       {"grant_shadow", "merge_shadow", "fold_shadow", "drain_segment", "resize_segment", "move_primary"}) {
    if (ledger_.about(kind, model.id(), "") != nullptr) return;
  }
  const policy::ReclaimDecision decision = decide_reclaim(model);
  if (!decision.shrink) return;
  const auto plan = plan_shrink(model, decision.target);
  // Where there is nothing to gain, or something in the way, it is looked at again later.
  model.reclaim_backoff.fail(now);
  if (!plan || plan->steps.empty()) return;
  record(model, "shrink", fmt::format("{}; {}", decision.sentence, plan->sentence), decision.inputs);
  const Status begun = shrink(model, *plan, decision.sentence, {});
  if (!begun) events_.append("shrink.refused", model.name(), begun.error().message);
}

}  // namespace foreshadow::control
