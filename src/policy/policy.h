#pragma once
// The rule that turns a forecast into a decision. Pure: state in, decision with its reasons out.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "forecast/forecaster.h"

namespace foreshadow::policy {

enum class ShadowState : uint8_t { kGranted, kWarm, kActive, kSealed, kMerging, kMerged };

struct ShadowView {
  std::string uuid;
  uint32_t id = 0;
  ShadowState state = ShadowState::kWarm;
  uint64_t capacity = 0;
  uint64_t used = 0;
};

// All that the decision may depend on. Bytes and seconds.
struct VolumeView {
  uint64_t size = 0;      // logical
  uint64_t capacity = 0;  // of every attached segment, the warm one included
  uint64_t used = 0;
  std::vector<ShadowView> shadows;  // every segment but the primary, oldest first
  uint64_t held_now = 0;
  uint64_t pool_free = 0;       // what the pool could still hand out
  uint64_t granting = 0;        // bytes of grants sent and not yet acknowledged
  double lead_p99_s = 0;        // measured: intent to warm
  uint64_t grants_refused = 0;  // by the pool, since the last success
};

struct Config {
  double risk_budget = 1e-3;          // P(exhaustion within lead + review) above this must be acted on
  double review_s = 0.25;             // until the next look: a redirect is reported at once
  double cooldown_s = 0.25;           // a grant should last at least this long beyond that
  uint64_t shadow_min = 64ull << 20;  // the smallest rung of the ladder
  uint64_t shadow_max = 64ull << 30;  // the largest
  double grow_share = 0.25;  // a rung is at least this share of today's capacity, so that segments stay few
  uint32_t segments_max = 64;
  uint32_t warm_wanted = 1;  // tier T0: attached and warm, kept at hand
};

enum class Action : uint8_t { kNone, kGrant, kMerge, kRefuse };

struct Decision {
  Action action = Action::kNone;
  uint64_t size = 0;        // kGrant: bytes to take from the pool
  std::string shadow_uuid;  // kMerge
  std::string sentence;     // why, in words, with the figures
  std::map<std::string, double> inputs;
};

// One decision; call again after carrying it out, until kNone or kRefuse. A merge comes before a grant.
Decision decide(const VolumeView& view, const forecast::Forecaster& forecaster, const Config& config);

// The rung for a need: the smallest shadow_min * 2^k >= need, clamped to [shadow_min, shadow_max].
uint64_t ladder_size(uint64_t need, const Config& config);

}  // namespace foreshadow::policy
