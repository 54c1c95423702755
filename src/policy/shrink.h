#pragma once
// Giving back what a volume does not need any more. Pure: segments and a target in, a plan with its reasons
// out.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "forecast/forecaster.h"

namespace foreshadow::policy {

struct SegmentView {
  enum class Kind : uint8_t { kPrimary, kMerged, kInUse, kWarm };  // in use: active, or sealed
  uint32_t id = 0;
  std::string uuid;
  Kind kind = Kind::kMerged;
  uint64_t capacity = 0;
  uint64_t used = 0;
  uint64_t backing = 0;  // bytes taken from its pool, metadata included
};

struct ShrinkView {
  std::vector<SegmentView> segments;  // the primary first, then by id
  uint64_t target = 0;                // capacity wanted, the warm shadow included
  uint64_t warm_size = 0;             // what policy would grant as a warm shadow once it is reached
  uint64_t warm_need = 0;             // what must be at hand for growth, by the forecast
};

struct ShrinkStep {
  enum class Kind : uint8_t { kDrain, kCut };
  Kind kind = Kind::kDrain;
  uint32_t id = 0;
  std::string uuid;
  uint64_t moves = 0;  // bytes, at most
  uint64_t frees = 0;  // capacity that goes
  uint64_t size = 0;   // kCut: of the backing afterwards
};

struct ShrinkPlan {
  std::vector<ShrinkStep> steps;  // in this order; none: there is nothing to gain
  uint64_t capacity_before = 0;
  uint64_t capacity_after = 0;  // with the warm shadow that policy grants in place of one that goes
  uint64_t target = 0;
  uint64_t moves = 0;
  std::string sentence;
};

// What is used, and a fifth more, but not less than kShrinkFloor more.
inline constexpr uint64_t kShrinkFloor = 16ull << 20;
uint64_t shrink_target(uint64_t used);
// The least capacity, without the warm shadow, that the engine drains into: it leaves a reserve for writes.
uint64_t shrink_least(uint64_t used);

// Whole segments are drained, never the primary, so that as little as can be has to be moved; then what is
// still too much is cut off the ends of those that have the most free. Every step has room for what it moves
// when its turn comes, by the engine's own rule. Of the warm shadows one that is larger than `warm_size` goes
// as well, for policy to grant a smaller one, and so do, down to the target, those beyond the first and
// beyond `warm_need`: a burst leaves many behind. kInvalidArgument, saying what could be had, where the
// target is out of reach.
Result<ShrinkPlan> plan_shrink(const ShrinkView& view);

// When to do so without being asked.
struct ReclaimConfig {
  double free_share = 0.5;    // more than this share of the capacity must be free
  double hold_s = 600;        // for as long
  double cooldown_s = 600;    // since the last grant, at least
  double growth_q = 0.99;     // growth over the next hold_s that must still fit, at this quantile
  double worth_share = 0.25;  // of the capacity must go, or it is not worth the copying
};

struct ReclaimView {
  uint64_t capacity = 0;
  uint64_t used = 0;
  double free_for_s = 0;     // how long more than free_share has been free
  double since_grant_s = 0;  // since control's start where there was none
};

struct ReclaimDecision {
  bool shrink = false;
  uint64_t target = 0;
  std::string sentence;  // why, or why not
  std::map<std::string, double> inputs;
};

ReclaimDecision decide_reclaim(const ReclaimView& view, const forecast::Forecaster& forecaster,
                               const ReclaimConfig& config);

}  // namespace foreshadow::policy
