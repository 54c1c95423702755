#include "policy/shrink.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/limits.h"
#include "base/size.h"
#include "base/types.h"

namespace foreshadow::policy {
namespace {

using Kind = SegmentView::Kind;

// The engine's rule (volume/evacuate.cc): what a drain leaves for first touches.
constexpr uint64_t kReserveBytes = 64 * kMiB;
constexpr uint64_t kReserveShare = 16;
constexpr uint64_t kClusterBytes = 64 * kKiB;
// Less than this is not worth a step.
constexpr uint64_t kCutMin = 4 * kMiB;

uint64_t free_of(const SegmentView& segment) {
  return segment.capacity - std::min(segment.used, segment.capacity);
}

bool takes_in(const SegmentView& segment) {
  return segment.kind == Kind::kPrimary || segment.kind == Kind::kMerged;
}

// The volume as it is after the steps so far.
struct Draft {
  std::vector<SegmentView> segments;
  ShrinkPlan plan;

  uint64_t capacity() const {  // without the warm
    uint64_t out = 0;
    for (const SegmentView& segment : segments) out += segment.kind == Kind::kWarm ? 0 : segment.capacity;
    return out;
  }
  void remove(size_t index) { segments.erase(segments.begin() + static_cast<ptrdiff_t>(index)); }
};

bool has_room(const Draft& draft, const SegmentView& leaving) {
  if (leaving.used == 0) return true;
  uint64_t room = 0;
  uint64_t held = 0;
  for (const SegmentView& segment : draft.segments) {
    if (segment.id == leaving.id || !takes_in(segment)) continue;
    room += free_of(segment);
    held += segment.capacity;
  }
  return room >= leaving.used + std::min(kReserveBytes, held / kReserveShare);
}

// As the engine does it: into the primary first, then into the others by their ids.
void drain(Draft& draft, size_t index) {
  const SegmentView leaving = draft.segments[index];
  draft.remove(index);
  uint64_t left = leaving.used;
  for (SegmentView& segment : draft.segments) {
    if (!takes_in(segment)) continue;
    const uint64_t taken = std::min(left, free_of(segment));
    segment.used += taken;
    left -= taken;
  }
  draft.plan.steps.push_back(
      {ShrinkStep::Kind::kDrain, leaving.id, leaving.uuid, leaving.used, leaving.capacity, 0});
  draft.plan.moves += leaving.used;
}

using Before = std::function<bool(const SegmentView&, const SegmentView&)>;

// The first in that order that is not needed, until there is none.
void drain_all(Draft& draft, uint64_t wanted, const Before& before) {
  for (;;) {
    size_t chosen = draft.segments.size();
    for (size_t i = 0; i < draft.segments.size(); ++i) {
      const SegmentView& segment = draft.segments[i];
      if (segment.kind != Kind::kMerged && segment.kind != Kind::kInUse) continue;
      if (draft.capacity() < wanted + segment.capacity || !has_room(draft, segment)) continue;
      if (chosen == draft.segments.size() || before(segment, draft.segments[chosen])) chosen = i;
    }
    if (chosen == draft.segments.size()) return;
    drain(draft, chosen);
  }
}

// At most what is free in the segment, so that what lies past its new end fits before it.
void cut_all(Draft& draft, uint64_t wanted) {
  for (;;) {
    const uint64_t excess = draft.capacity() - std::min(draft.capacity(), wanted);
    SegmentView* most = nullptr;
    uint64_t cut = 0;
    for (SegmentView& segment : draft.segments) {
      if (segment.kind == Kind::kWarm) continue;
      const uint64_t metadata = segment.backing - std::min(segment.capacity, segment.backing);
      const uint64_t least = std::max(limits::kSegmentSizeMin, metadata + kClusterBytes);
      const uint64_t cuttable = segment.backing - std::min(segment.backing, least);
      const uint64_t possible =
          std::min({excess, free_of(segment), cuttable}) / kClusterBytes * kClusterBytes;
      if (possible < kCutMin || (most != nullptr && free_of(segment) <= free_of(*most))) continue;
      most = &segment;
      cut = possible;
    }
    if (most == nullptr) return;
    const uint64_t moves = std::min(most->used, cut);
    draft.plan.steps.push_back(
        {ShrinkStep::Kind::kCut, most->id, most->uuid, moves, cut, most->backing - cut});
    draft.plan.moves += moves;
    most->capacity -= cut;
    most->backing -= cut;
  }
}

// A warm shadow holds nothing, so it goes at once: one that is too large, in whose place policy grants what
// it would today, and what is left of them once enough are kept, as far as the target allows. Returns the
// warm capacity afterwards.
uint64_t exchange_warm(Draft& draft, const ShrinkView& view) {
  uint64_t all = draft.plan.capacity_before;
  uint64_t kept = 0;
  bool exchanged = false;
  for (size_t i = 0; i < draft.segments.size();) {
    const SegmentView& segment = draft.segments[i];
    if (segment.kind != Kind::kWarm) {
      ++i;
    } else if (segment.backing > view.warm_size) {
      exchanged = true;
      all -= segment.capacity;
      drain(draft, i);
    } else if (kept > 0 && kept >= view.warm_need && all >= view.target + segment.capacity) {
      all -= segment.capacity;
      drain(draft, i);
    } else {
      kept += segment.capacity;
      ++i;
    }
  }
  return kept == 0 && exchanged ? view.warm_size : kept;
}

std::string describe(const ShrinkPlan& plan, uint64_t used) {
  if (plan.steps.empty()) {
    return fmt::format("nothing to give back: the capacity is {}, {} are used and {} are wanted",
                       format_size(plan.capacity_before), format_size(used), format_size(plan.target));
  }
  std::string drained;
  std::string cut;
  for (const ShrinkStep& step : plan.steps) {
    if (step.kind == ShrinkStep::Kind::kDrain) {
      drained += fmt::format("{}{}", drained.empty() ? "" : ", ", step.id);
    } else {
      cut += fmt::format("{}{} by {}", cut.empty() ? "" : ", ", step.id, format_size(step.frees));
    }
  }
  std::string out;
  if (!drained.empty()) out += fmt::format("drains segment {}", drained);
  if (!cut.empty()) out += fmt::format("{}cuts the end of segment {}", out.empty() ? "" : " and ", cut);
  return out + fmt::format(", moving {} at most: capacity from {} to {} for {} in use",
                           format_size(plan.moves), format_size(plan.capacity_before),
                           format_size(plan.capacity_after), format_size(used));
}

}  // namespace

uint64_t shrink_target(uint64_t used) {
  return std::max(used + used / 5, used + kShrinkFloor);
}

uint64_t shrink_least(uint64_t used) {
  // `reserve` is the share of all that is held, not of what is used.
  const uint64_t by_share = align_up(used + used / (kReserveShare - 1) + kClusterBytes, kClusterBytes);
  return std::min(by_share, used + kReserveBytes);
}

Result<ShrinkPlan> plan_shrink(const ShrinkView& view) {
  Draft start;
  start.segments = view.segments;
  start.plan.target = view.target;
  uint64_t used = 0;
  for (const SegmentView& segment : view.segments) {
    start.plan.capacity_before += segment.capacity;
    used += segment.used;
  }
  const uint64_t warm = exchange_warm(start, view);
  const uint64_t least = shrink_least(used);
  if (view.target < least) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("a capacity of {}: expected at least {}, since {} are used and the rest is kept for "
                    "new writes; delete, trim and try again",
                    format_size(view.target), format_size(least), format_size(used)));
  }
  const uint64_t wanted = std::max(view.target - std::min(view.target, warm), least);
  const Before orders[] = {
      [](const SegmentView& a, const SegmentView& b) {
        return a.used != b.used ? a.used < b.used : a.capacity > b.capacity;
      },
      [](const SegmentView& a, const SegmentView& b) { return a.id < b.id; },
      [](const SegmentView& a, const SegmentView& b) { return a.id > b.id; },
      [](const SegmentView& a, const SegmentView& b) { return a.capacity > b.capacity; },
  };
  // What is moved into a segment that is drained later is moved twice; so several orders are tried, and the
  // one that moves least is taken of those that come about as near to the target as any.
  ShrinkPlan best;
  bool found = false;
  for (const Before& before : orders) {
    Draft draft = start;
    drain_all(draft, wanted, before);
    cut_all(draft, wanted);
    draft.plan.capacity_after = draft.capacity() + warm;
    const uint64_t slack = draft.plan.capacity_after / 20;
    const bool nearer = draft.plan.capacity_after + slack < best.capacity_after;
    const bool near = draft.plan.capacity_after <= best.capacity_after + slack;
    if (!found || nearer || (near && draft.plan.moves < best.moves)) best = draft.plan;
    found = true;
  }
  if (best.capacity_after >= best.capacity_before) {
    best.steps.clear();
    best.moves = 0;
    best.capacity_after = best.capacity_before;
  }
  best.sentence = describe(best, used);
  return best;
}

ReclaimDecision decide_reclaim(const ReclaimView& view, const forecast::Forecaster& forecaster,
                               const ReclaimConfig& config) {
  ReclaimDecision out;
  const double growth = std::max(0.0, forecaster.growth_quantile(config.hold_s, config.growth_q));
  const auto capacity = static_cast<double>(view.capacity);
  const auto used = static_cast<double>(view.used);
  const double share = capacity > 0 ? 1 - std::min(1.0, used / capacity) : 0;
  // Beyond any volume a forecast is "all of it", and no number.
  const double needed = std::max(static_cast<double>(shrink_target(view.used)), used + growth);
  out.target = static_cast<uint64_t>(std::min(needed, std::max(capacity, 1.0)));
  out.inputs = {{"capacity", capacity},
                {"used", used},
                {"free_share", share},
                {"free_for_s", view.free_for_s},
                {"since_grant_s", view.since_grant_s},
                {"growth_p99", growth},
                {"target", static_cast<double>(out.target)},
                {"hold_s", config.hold_s}};
  const std::string state = fmt::format("{:.0f} % of {} are free, {:.0f} % may be", 100 * share,
                                        format_size(view.capacity), 100 * config.free_share);
  if (share <= config.free_share) {
    out.sentence = "keeps what it has: " + state;
  } else if (view.free_for_s < config.hold_s) {
    out.sentence = fmt::format("waits: {}, for {:.0f} s now; after {:.0f} s it is given back", state,
                               view.free_for_s, config.hold_s);
  } else if (view.since_grant_s < config.cooldown_s) {
    out.sentence = fmt::format("waits: {}, but a shadow was granted {:.0f} s ago, and {:.0f} s have to pass",
                               state, view.since_grant_s, config.cooldown_s);
  } else if (needed > capacity * (1 - config.worth_share)) {
    out.sentence =
        fmt::format("keeps what it has: {}, but by the forecast it may grow by {} within {:.0f} s", state,
                    format_size(static_cast<uint64_t>(std::min(growth, 1e18))), config.hold_s);
  } else {
    out.shrink = true;
    out.sentence = fmt::format(
        "shrinks to {}: {}, have been for {:.0f} s, and by the forecast (p{:g}) it grows by no more "
        "than {} within as long",
        format_size(out.target), state, view.free_for_s, 100 * config.growth_q,
        format_size(static_cast<uint64_t>(growth)));
  }
  return out;
}

}  // namespace foreshadow::policy
