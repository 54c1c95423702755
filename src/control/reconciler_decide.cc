// Looking at a volume, deciding, and saying why.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/size.h"
#include "control/control_limits.h"
#include "control/reconciler.h"

namespace foreshadow::control {
namespace {

// Policy is asked again after each action; a look that needs more than this goes on with the next metrics.
constexpr int kActionsPerLook = 8;

policy::ShadowState state_of(v1::SegmentState state) {
  switch (state) {
    case v1::SEGMENT_STATE_GRANTED:
      return policy::ShadowState::kGranted;
    case v1::SEGMENT_STATE_WARM:
      return policy::ShadowState::kWarm;
    case v1::SEGMENT_STATE_ACTIVE:
      return policy::ShadowState::kActive;
    case v1::SEGMENT_STATE_SEALED:
      return policy::ShadowState::kSealed;
    case v1::SEGMENT_STATE_MERGING:
    case v1::SEGMENT_STATE_DRAINING:
    case v1::SEGMENT_STATE_FOLDING:
      return policy::ShadowState::kMerging;
    default:
      return policy::ShadowState::kMerged;
  }
}

std::string_view name_of(policy::Action action) {
  switch (action) {
    case policy::Action::kNone:
      return "none";
    case policy::Action::kGrant:
      return "grant";
    case policy::Action::kMerge:
      return "merge";
    case policy::Action::kRefuse:
      return "refuse";
  }
  return "none";
}

// "in 3.2 h" or "not within a year".
std::string horizon(double seconds) {
  if (seconds < 0) return "not within a year";
  if (seconds < 120) return fmt::format("in {:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("in {:.0f} min", seconds / 60);
  if (seconds < 172'800) return fmt::format("in {:.1f} h", seconds / 3600);
  return fmt::format("in {:.1f} days", seconds / 86'400);
}

}  // namespace

v1::Volume Reconciler::shown(const VolumeModel& model) const {
  v1::Volume out = model.volume();
  if (!model.served()) out.clear_uri();
  for (v1::Segment& segment : *out.mutable_segments()) {
    if (segment.state() == v1::SEGMENT_STATE_MERGED) continue;
    if (ledger_.about("merge_shadow", model.id(), segment.uuid()))
      segment.set_state(v1::SEGMENT_STATE_MERGING);
  }
  // Until the agent tells so itself.
  for (v1::Segment& segment : *out.mutable_segments()) {
    if (is_leaving(segment)) continue;
    if (ledger_.about("fold_shadow", model.id(), segment.uuid()))
      segment.set_state(v1::SEGMENT_STATE_FOLDING);
    if (ledger_.about("drain_segment", model.id(), segment.uuid()))
      segment.set_state(v1::SEGMENT_STATE_DRAINING);
  }
  for (const auto& [number, open] : ledger_.open()) {
    const IntentRow& intent = open.row;
    // One still open at an agent that lost the volume to another promises this volume nothing.
    const bool ours =
        intent.kind == "grant_shadow" && intent.volume == model.id() && intent.agent == model.agent();
    if (!ours || model.segment(intent.segment) != nullptr) continue;
    // Its number within the volume is the agent's to give: 0 until then.
    v1::Segment& granted = *out.add_segments();
    granted.set_uuid(intent.segment);
    granted.set_pool(intent.payload.grant_shadow().pool());
    granted.set_role(v1::SEGMENT_ROLE_SHADOW);
    granted.set_state(v1::SEGMENT_STATE_GRANTED);
    granted.set_capacity(intent.payload.grant_shadow().size());
  }
  return out;
}

policy::VolumeView Reconciler::view_of(const VolumeModel& model) const {
  const v1::Volume volume = shown(model);
  const uint64_t now = options_.clock();
  policy::VolumeView view;
  view.size = volume.size();
  view.capacity = lasting_capacity(volume);
  view.capacity -= std::min(view.capacity, about_to_leave(model));
  view.used = std::min(volume.used(), view.capacity);
  view.held_now = volume.held_now();
  view.lead_p99_s = model.lead.p99_s();
  view.grants_refused = model.grants_refused;
  if (const v1::Pool* pool = fleet_.pool(model.agent(), volume.pool())) view.pool_free = pool_free(*pool);
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.role() == v1::SEGMENT_ROLE_BASE) {
      // What lies in an image has its place, and no other has it: policy looks at the rest.
      const uint64_t inside = std::min({segment.used(), view.used, view.capacity, view.size - 1});
      view.size -= inside;
      view.capacity -= inside;
      view.used -= inside;
    }
    if (segment.role() != v1::SEGMENT_ROLE_SHADOW) continue;
    policy::ShadowView& shadow = view.shadows.emplace_back();
    shadow.uuid = segment.uuid();
    shadow.id = segment.id();
    shadow.state = state_of(segment.state());
    shadow.capacity = segment.capacity();
    shadow.used = segment.used();
    if (shadow.state == policy::ShadowState::kGranted) view.granting += segment.capacity();
    // A merge that was refused a moment ago counts as under way, so that waiting for its next try does not
    // keep policy, which merges first, from granting.
    const bool mergeable = shadow.state == policy::ShadowState::kSealed ||
                           (shadow.state == policy::ShadowState::kActive && shadow.used >= shadow.capacity);
    if (mergeable && model.merge_backoff.waiting(now)) {
      shadow.state = policy::ShadowState::kMerging;
    }
  }
  // Oldest first; what has no number yet is the newest.
  std::stable_sort(view.shadows.begin(), view.shadows.end(), [](const auto& a, const auto& b) {
    const bool a_new = a.state == policy::ShadowState::kGranted;
    const bool b_new = b.state == policy::ShadowState::kGranted;
    return a_new != b_new ? b_new : (!a_new && a.id < b.id);
  });
  return view;
}

policy::Decision Reconciler::decide(const VolumeModel& model) const {
  return options_.decide(view_of(model), model.forecaster(), options_.policy);
}

void Reconciler::consider(VolumeModel& model) {
  // What cannot be carried out is not decided: the agent's next Hello or metrics bring the next look.
  if (!model.served() || fleet_.link(model.agent()) == nullptr) return;
  if (!model.volume().read_only_reason().empty() || ledger_.about("delete_volume", model.id(), "")) return;
  consider_growth(model);
  consider_reclaim(model);
}

void Reconciler::consider_growth(VolumeModel& model) {
  for (int action = 0; action < kActionsPerLook; ++action) {
    policy::Decision decision = decide(model);
    const bool grants = decision.action == policy::Action::kGrant;
    if (grants && model.grant_backoff.waiting(options_.clock())) return;
    Status done;
    if (decision.action == policy::Action::kMerge && prefers_fold(model, decision)) {
      done = fold(model, decision.shadow_uuid, decision.sentence, {});
      if (done) {
        record(model, "fold", decision.sentence, decision.inputs);
        continue;
      }
      events_.append("fold.refused", model.name(), done.error().message);
      model.not_folded = decision.shadow_uuid;
    }
    record_decision(model, decision);
    done = {};
    if (grants) {
      done = grant(model, decision.size, model.volume().pool(), decision.sentence, {});
      if (!done) {
        ++model.grants_refused;
        model.grant_backoff.fail(options_.clock());
        const v1::Pool* pool = fleet_.pool(model.agent(), model.volume().pool());
        model.refused_pool_free = pool == nullptr ? 0 : pool_free(*pool);
        events_.append("grant.refused", model.name(), done.error().message);
      }
    } else if (decision.action == policy::Action::kMerge) {
      done = merge(model, decision.shadow_uuid, decision.sentence, {});
      if (!done) {
        model.merge_backoff.fail(options_.clock());
        events_.append("merge.refused", model.name(), done.error().message);
      }
    } else {
      return;
    }
    if (!done) return;
  }
}

void Reconciler::record_decision(VolumeModel& model, const policy::Decision& decision) {
  const std::string action(name_of(decision.action));
  const bool acts = decision.action == policy::Action::kGrant || decision.action == policy::Action::kMerge;
  // Doing nothing again, every second, is not worth a row: only that it began.
  if (!acts && action == model.last_action) return;
  if (decision.action == policy::Action::kRefuse)
    events_.append("grant.refused", model.name(), decision.sentence);
  record(model, action, decision.sentence, decision.inputs);
}

void Reconciler::record(VolumeModel& model, const std::string& action, const std::string& sentence,
                        const std::map<std::string, double>& inputs) {
  model.last_action = action;
  v1::Decision row;
  row.set_time_ms(options_.clock());
  row.set_action(action);
  row.set_sentence(sentence);
  for (const auto& [name, value] : inputs) (*row.mutable_inputs())[name] = value;
  const Status stored = store_.add_decision(model.id(), row);
  if (!stored) log::error("decision about {} not recorded: {}", model.name(), stored.error().message);
}

Result<v1::Explanation> Reconciler::explain(const VolumeModel& model) const {
  v1::Explanation out;
  *out.mutable_forecast() = model.forecast();
  const v1::Forecast& forecast = out.forecast();
  const v1::Volume& volume = model.volume();
  std::string sentence = fmt::format(
      "Volume {}: {} of {} used, {} left before the wall. Full {} in the median and {} with probability 5 %, "
      "from {} samples. ",
      model.name(), format_size(volume.used()), format_size(volume.capacity()),
      format_size(forecast.free_bytes()), horizon(forecast.time_to_full_p50_s()),
      horizon(forecast.time_to_full_p95_s()), forecast.samples());
  if (!volume.read_only_reason().empty()) {
    sentence += fmt::format("It is read-only ({}), so nothing is decided.", volume.read_only_reason());
  } else if (fleet_.link(model.agent()) == nullptr) {
    sentence += fmt::format(
        "Agent {} is not connected: the volume serves on with what it has, and nothing is decided.",
        model.agent());
  } else if (!model.served()) {
    sentence += fmt::format("Agent {} does not serve it, so nothing is decided.", model.agent());
  } else {
    const policy::Decision now = decide(model);
    sentence += fmt::format("Decision now: {}{}{}. ", name_of(now.action), now.sentence.empty() ? "" : ": ",
                            now.sentence);
    if (model.grant_backoff.waiting(options_.clock())) {
      sentence += fmt::format("The last grant was refused, so the next waits out {} s. ",
                              model.grant_backoff.delay_ms() / 1000);
    }
    sentence += fmt::format(
        "A shadow is granted when P(growth > what is left, over {:.1f} s of lead and {:.1f} s of review) "
        "exceeds {:g}.",
        forecast.lead_time_p99_s(), options_.policy.review_s, options_.policy.risk_budget);
    if (volume.policy().reclaim()) sentence += fmt::format(" Reclaim: {}.", decide_reclaim(model).sentence);
  }
  out.set_sentence(sentence);
  ASSIGN_OR_RETURN(const auto decisions, store_.decisions(model.id(), limits::kDecisionsPerVolume));
  for (const v1::Decision& decision : decisions) *out.add_decisions() = decision;
  return out;
}

}  // namespace foreshadow::control
