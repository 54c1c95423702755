#include "policy/policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/limits.h"
#include "base/types.h"

namespace foreshadow::policy {
namespace {

// Says what the test tells it: growth of `rate` bytes a second at every quantile from `from` up, nothing
// below.
class Told final : public forecast::Forecaster {
 public:
  explicit Told(double rate) : rate_(rate) {}
  bool observe(const forecast::Sample&) override { return true; }
  uint64_t samples() const override { return 1; }
  double growth_quantile(double horizon_s, double) const override { return rate_ * horizon_s; }
  double exceedance(double horizon_s, double bytes) const override {
    return rate_ * horizon_s > bytes ? 1 : 0;
  }
  std::optional<double> time_to_full_s(double free, double) const override {
    if (rate_ <= 0) return std::nullopt;
    return free / rate_;
  }
  forecast::Components components() const override { return {}; }

 private:
  double rate_;
};

ShadowView shadow(uint32_t id, ShadowState state, uint64_t capacity, uint64_t used) {
  return {"uuid-" + std::to_string(id), id, state, capacity, used};
}

// A healthy volume: 1 TiB over a 1 GiB primary, half used, with a warm shadow of 1 GiB, in an ample pool.
VolumeView healthy() {
  VolumeView view;
  view.size = kTiB;
  view.capacity = 2 * kGiB;
  view.used = kGiB / 2;
  view.shadows = {shadow(1, ShadowState::kWarm, kGiB, 0)};
  view.pool_free = 100 * kGiB;
  view.lead_p99_s = 0.05;
  return view;
}

VolumeView no_warm() {
  VolumeView view = healthy();
  view.shadows[0].state = ShadowState::kActive;
  return view;
}

struct Row {
  const char* name;
  std::function<void(VolumeView&, Config&)> change;  // of healthy()
  double rate;                                       // told growth, bytes a second
  Action action;
  uint64_t size;     // kGrant
  const char* says;  // part of the sentence
};

void check(const std::vector<Row>& rows, const VolumeView& from) {
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    VolumeView view = from;
    Config config;
    config.review_s = 1;
    config.cooldown_s = 30;
    row.change(view, config);
    const Decision decision = decide(view, Told(row.rate), config);
    EXPECT_EQ(decision.action, row.action) << decision.sentence;
    EXPECT_EQ(decision.size, row.size) << decision.sentence;
    EXPECT_NE(decision.sentence.find(row.says), std::string::npos) << decision.sentence;
    EXPECT_TRUE(decision.inputs.contains("capacity"));
    EXPECT_EQ(decision.inputs.at("pool_free"), static_cast<double>(view.pool_free));
  }
}

constexpr double kRate = 10.0 * kMiB;  // need: 310 MiB over 31 s, a rung of 512 MiB

TEST(Decide, MergesWhatIsFullOldestFirst) {
  const std::vector<Row> rows = {
      {"sealed", [](auto& v, auto&) { v.shadows.push_back(shadow(2, ShadowState::kSealed, kGiB, kMiB)); },
       kRate, Action::kMerge, 0, "merging shadow 2: it is sealed, 1MiB of 1GiB used"},
      {"active and full",
       [](auto& v, auto&) { v.shadows.push_back(shadow(2, ShadowState::kActive, kGiB, kGiB)); }, kRate,
       Action::kMerge, 0, "merging shadow 2: it is full"},
      {"one byte short of full",
       [](auto& v, auto&) { v.shadows.push_back(shadow(2, ShadowState::kActive, kGiB, kGiB - 1)); }, kRate,
       Action::kNone, 0, "nothing to do"},
      {"being merged",
       [](auto& v, auto&) { v.shadows.push_back(shadow(2, ShadowState::kMerging, kGiB, kGiB)); }, kRate,
       Action::kNone, 0, "nothing to do"},
      {"before a grant, even at the wall",
       [](auto& v, auto&) {
         v.shadows = {shadow(1, ShadowState::kMerged, kGiB, kGiB),
                      shadow(2, ShadowState::kSealed, kGiB, kGiB),
                      shadow(3, ShadowState::kSealed, kGiB, kGiB)};
         v.held_now = 7;
       },
       kRate, Action::kMerge, 0, "merging shadow 2"},
  };
  check(rows, healthy());
  VolumeView view = healthy();
  view.shadows.push_back(shadow(9, ShadowState::kSealed, kGiB, 0));
  EXPECT_EQ(decide(view, Told(0), {}).shadow_uuid, "uuid-9");
}

TEST(Decide, GrantsWhatIsNeededAndNoMore) {
  const std::vector<Row> rows = {
      {"a warm one is at hand", [](auto& v, auto&) { v = healthy(); }, kRate, Action::kNone, 0,
       "nothing to do"},
      {"none is warm", [](auto&, auto&) {}, kRate, Action::kGrant, 512 * kMiB, "nothing warm was left"},
      {"one is on its way", [](auto& v, auto&) { v.granting = kGiB; }, kRate, Action::kNone, 0,
       "nothing to do"},
      {"one is on its way and listed",
       [](auto& v, auto&) {
         v.granting = kGiB, v.shadows.push_back(shadow(2, ShadowState::kGranted, kGiB, 0));
       },
       kRate, Action::kNone, 0, "nothing to do"},
      {"two are wanted", [](auto& v, auto& c) { v = healthy(), c.warm_wanted = 2; }, kRate, Action::kGrant,
       512 * kMiB, "1 of 2 are warm"},
      {"free is just enough", [](auto& v, auto&) { v = healthy(); }, 1.5 * kGiB / 1.05 * 0.9999,
       Action::kNone, 0, "nothing to do"},
      {"free is just not enough", [](auto& v, auto&) { v = healthy(); }, 1.5 * kGiB / 1.05 * 1.0001,
       Action::kGrant, 64 * kGiB, "the risk of running out within 1.1 s is 100 %, 0.1 % is allowed"},
      {"what is on its way counts as free", [](auto& v, auto&) { v = healthy(), v.granting = 4 * kGiB; },
       1.5 * kGiB / 1.05 * 1.0001, Action::kNone, 0, "nothing to do"},
      {"held at the wall, nobody wants a warm one",
       [](auto& v, auto& c) { v.used = v.capacity, v.held_now = 3, c.warm_wanted = 0; }, 0, Action::kGrant,
       512 * kMiB, "3 writes are held at the wall"},
      {"held, but help is on its way",
       [](auto& v, auto& c) { v.used = v.capacity, v.held_now = 3, v.granting = kGiB, c.warm_wanted = 0; }, 0,
       Action::kNone, 0, "nothing to do"},
      {"full and held: the growth forecast is 0, the share of the capacity decides",
       [](auto& v, auto&) { v.used = v.capacity, v.held_now = 3; }, 0, Action::kGrant, 512 * kMiB,
       "held at the wall"},
      {"need above the share", [](auto&, auto&) {}, 1.0 * kGiB / 31.05 * 1.0001, Action::kGrant, 2 * kGiB,
       "granted 2GiB"},
      {"need just on a rung", [](auto&, auto&) {}, 1.0 * kGiB / 31.05 * 0.9999, Action::kGrant, kGiB,
       "granted 1GiB"},
      {"the smallest rung", [](auto& v, auto&) { v.capacity = 64 * kMiB, v.used = 0; }, 0, Action::kGrant,
       64 * kMiB, "granted 64MiB: 64MiB free would outlast a year at p99.9 growth"},
      {"the largest rung", [](auto&, auto&) {}, 1e12, Action::kGrant, 64 * kGiB, "granted 64GiB"},
  };
  check(rows, no_warm());
}

TEST(Decide, NeverGrantsBeyondTheVolumeThePoolOrTheSegments) {
  const auto segments = [](uint32_t count) {
    return [count](VolumeView& v, Config&) {
      v.shadows.assign(count - 1, shadow(1, ShadowState::kMerged, kMiB, 0));
    };
  };
  const std::vector<Row> rows = {
      {"covered", [](auto& v, auto&) { v.size = 2 * kGiB; }, kRate, Action::kNone, 0,
       "backing covers the whole volume"},
      {"covered by what is on its way",
       [](auto& v, auto& c) { v.size = 3 * kGiB, v.granting = kGiB, c.warm_wanted = 2; }, kRate,
       Action::kNone, 0, "backing covers the whole volume, 3GiB of 3GiB"},
      {"covered, at the wall", [](auto& v, auto&) { v.size = 2 * kGiB, v.used = v.capacity, v.held_now = 1; },
       kRate, Action::kNone, 0, "backing covers the whole volume"},
      {"a cluster is missing", [](auto& v, auto&) { v.size = 2 * kGiB + 65536; }, kRate, Action::kGrant,
       8 * kMiB, "granted 8MiB"},
      {"the last rung is what is missing and its tables",
       [](auto& v, auto&) { v.size = 2 * kGiB + 100 * kMiB; }, kRate, Action::kGrant, 102 * kMiB,
       "granted 102MiB"},
      {"pool exactly enough", [](auto& v, auto&) { v.pool_free = 512 * kMiB; }, kRate, Action::kGrant,
       512 * kMiB, "granted 512MiB"},
      {"pool a byte short", [](auto& v, auto&) { v.pool_free = 512 * kMiB - 1; }, kRate, Action::kGrant,
       256 * kMiB, "512MiB was wanted, the pool has"},
      {"pool holds the smallest", [](auto& v, auto&) { v.pool_free = 64 * kMiB; }, kRate, Action::kGrant,
       64 * kMiB, "granted 64MiB"},
      {"pool holds not even that", [](auto& v, auto&) { v.pool_free = 64 * kMiB - 1; }, kRate,
       Action::kRefuse, 0, "the pool is full"},
      {"empty pool, at the wall",
       [](auto& v, auto&) { v.pool_free = 0, v.used = v.capacity, v.held_now = 9; }, kRate, Action::kRefuse,
       0, "add space to it or free some"},
      {"the pool refused twice", [](auto& v, auto&) { v.grants_refused = 2; }, kRate, Action::kGrant,
       128 * kMiB, "512MiB was wanted, the pool refused 2 times"},
      {"the pool refused ever again", [](auto& v, auto&) { v.grants_refused = UINT64_MAX; }, kRate,
       Action::kGrant, 64 * kMiB, "granted 64MiB"},
      {"few segments", segments(31), kRate, Action::kGrant, 512 * kMiB, "granted 512MiB"},
      {"half of the segments", segments(32), kRate, Action::kGrant, kGiB, "granted 1GiB"},
      {"three quarters", segments(48), kRate, Action::kGrant, 2 * kGiB, "granted 2GiB"},
      {"the last segment", segments(63), kRate, Action::kGrant, 4 * kGiB, "granted 4GiB"},
      {"one past it", segments(64), kRate, Action::kRefuse, 0, "64 segments and 64 is the limit"},
  };
  check(rows, no_warm());
}

TEST(Decide, NeverGrowsOnNonsenseAndNamesIt) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<Row> rows = {
      {"used at the capacity is sound", [](auto& v, auto&) { v.used = v.capacity; }, 0, Action::kGrant,
       512 * kMiB, ""},
      {"used past it", [](auto& v, auto&) { v.used = v.capacity + 1; }, 0, Action::kRefuse, 0,
       "used is 2.0GiB"},
      {"no size", [](auto& v, auto&) { v.size = 0; }, 0, Action::kRefuse, 0, "size is 0"},
      {"size past the limit", [](auto& v, auto&) { v.size = limits::kVolumeSizeMax + 1; }, 0, Action::kRefuse,
       0, "expected at most 128TiB"},
      {"no capacity", [](auto& v, auto&) { v.capacity = 0, v.used = 0; }, 0, Action::kRefuse, 0,
       "capacity is 0"},
      {"lead is not a number", [nan](auto& v, auto&) { v.lead_p99_s = nan; }, 0, Action::kRefuse, 0,
       "lead time is nan"},
      {"lead is endless", [inf](auto& v, auto&) { v.lead_p99_s = inf; }, 0, Action::kRefuse, 0,
       "lead time is inf"},
      {"lead is negative", [](auto& v, auto&) { v.lead_p99_s = -1; }, 0, Action::kRefuse, 0,
       "lead time is -1"},
      {"shadow overfull", [](auto& v, auto&) { v.shadows[0].used = 2 * kGiB; }, 0, Action::kRefuse, 0,
       "shadow 1 has 2GiB used"},
      {"no risk", [](auto&, auto& c) { c.risk_budget = 0; }, 0, Action::kRefuse, 0, "risk_budget is 0"},
      {"all risk", [](auto&, auto& c) { c.risk_budget = 1; }, 0, Action::kRefuse, 0, "risk_budget is 1"},
      {"review", [nan](auto&, auto& c) { c.review_s = nan; }, 0, Action::kRefuse, 0, "review_s is nan"},
      {"cooldown", [](auto&, auto& c) { c.cooldown_s = -3; }, 0, Action::kRefuse, 0, "cooldown_s is -3"},
      {"share", [nan](auto&, auto& c) { c.grow_share = nan; }, 0, Action::kRefuse, 0, "grow_share is nan"},
      {"ladder", [](auto&, auto& c) { c.shadow_min = 0; }, 0, Action::kRefuse, 0, "shadow_min is 0B"},
      {"ladder upside down", [](auto&, auto& c) { c.shadow_max = c.shadow_min - 1; }, 0, Action::kRefuse, 0,
       "at most shadow_max"},
  };
  check(rows, no_warm());
}

TEST(Decide, SaysWhyInASentence) {
  VolumeView view = no_warm();
  view.used = view.capacity - 1229 * kMiB;
  const Decision decision = decide(view, Told(310.0 * kMiB), {.review_s = 1, .cooldown_s = 30});
  EXPECT_EQ(
      decision.sentence,
      "granted 16GiB: 1.2GiB free would last 4 s at p99.9 growth (310MiB/s), a shadow takes 0.05 s to become "
      "warm; nothing warm was left");
  EXPECT_EQ(decision.inputs.at("lead_p99_s"), 0.05);
  EXPECT_EQ(decision.inputs.at("free"), 1229.0 * kMiB);
}

TEST(Ladder, DoublesFromTheSmallestToTheLargest) {
  Config config;
  EXPECT_EQ(ladder_size(0, config), 64 * kMiB);
  EXPECT_EQ(ladder_size(64 * kMiB, config), 64 * kMiB);
  EXPECT_EQ(ladder_size(64 * kMiB + 1, config), 128 * kMiB);
  EXPECT_EQ(ladder_size(kGiB + 1, config), 2 * kGiB);
  EXPECT_EQ(ladder_size(64 * kGiB, config), 64 * kGiB);
  EXPECT_EQ(ladder_size(UINT64_MAX, config), 64 * kGiB);
  config.shadow_max = 100 * kMiB;  // not a rung: the top is still not passed
  EXPECT_EQ(ladder_size(99 * kMiB, config), 100 * kMiB);
  config.shadow_max = UINT64_MAX;
  EXPECT_EQ(ladder_size(UINT64_MAX, config), UINT64_MAX);
}

// A volume, its agent, its pool and control in one, on a clock of one millisecond: a writer at full speed,
// samples each second and at every redirect, a grant warm `lead` later. What is full is merged at once.
class Loop {
 public:
  struct Outcome {
    uint64_t written = 0;
    uint64_t segments = 0;
    uint64_t capacity = 0;
    double held_s = 0;
    double held_longest_s = 0;
  };
  Loop(double rate, double lead_s, const forecast::ForecasterConfig& prior, const Config& config)
      : rate_(rate), lead_s_(lead_s), config_(config), forecaster_(forecast::make_growth_forecaster(prior)) {
    view_.size = 256 * kGiB;
    view_.capacity = 256 * kMiB;
    view_.pool_free = 512 * kGiB;
    view_.lead_p99_s = lead_s;
  }

  Outcome write(uint64_t bytes) {
    look();
    // The client attaches once the volume is served and control had its first word.
    for (; view_.granting > 0; now_ms_ += 1) arrive();
    const uint64_t each = static_cast<uint64_t>(rate_ / 1000);
    double held_ms = 0;
    for (uint64_t tick = 0; out_.written < bytes && tick < 600'000; ++tick, ++now_ms_) {
      arrive();
      const bool wrote = write_once(each);
      held_ms = wrote ? 0 : held_ms + 1;
      out_.held_s += wrote ? 0 : 0.001;
      out_.held_longest_s = std::max(out_.held_longest_s, held_ms / 1000);
      if (!wrote && view_.held_now == 0) view_.held_now = 1, look();
      if (wrote && view_.held_now > 0) view_.held_now = 0, look();
      if (now_ms_ % 1000 == 0) look();
    }
    out_.segments = view_.shadows.size() + 1;
    out_.capacity = view_.capacity;
    return out_;
  }

 private:
  // False if the write had to wait.
  bool write_once(uint64_t each) {
    uint64_t* free = &primary_free_;
    ShadowView* active = nullptr;
    for (ShadowView& s : view_.shadows) {
      if (s.state == ShadowState::kActive) active = &s;
    }
    uint64_t room = active ? active->capacity - active->used : *free;
    if (room < each) {
      // The rest of the old one is left to smaller writes; here it is taken, so that `full` is exact.
      if (active) active->used = active->capacity, active->state = ShadowState::kSealed;
      view_.used += room, out_.written += room, pending_ += room;
      if (!active) *free = 0;
      for (ShadowView& s : view_.shadows) {
        if (s.state != ShadowState::kWarm) continue;
        s.state = ShadowState::kActive;
        look();
        return true;
      }
      return room > 0;
    }
    if (active) active->used += each;
    if (!active) *free -= each;
    view_.used += each, out_.written += each, pending_ += each;
    return true;
  }

  void arrive() {
    if (view_.granting == 0 || now_ms_ < warm_at_ms_) return;
    const auto id = static_cast<uint32_t>(view_.shadows.size() + 1);
    view_.shadows.push_back(shadow(id, ShadowState::kWarm, view_.granting, 0));
    view_.capacity += view_.granting;
    view_.granting = 0;
    look();
  }

  void look() {
    const double time_s = static_cast<double>(now_ms_) / 1000;
    forecaster_->observe({time_s, static_cast<double>(view_.used), static_cast<double>(pending_)});
    pending_ = 0;
    for (int i = 0; i < 100; ++i) {
      const Decision decision = decide(view_, *forecaster_, config_);
      if (decision.action == Action::kMerge) {
        for (ShadowView& s : view_.shadows) {
          if (s.uuid == decision.shadow_uuid) s.state = ShadowState::kMerged;
        }
        continue;
      }
      EXPECT_NE(decision.action, Action::kRefuse) << decision.sentence;
      if (decision.action != Action::kGrant || view_.granting > 0) return;
      view_.pool_free -= decision.size;
      view_.granting = decision.size;
      warm_at_ms_ = now_ms_ + static_cast<uint64_t>(std::lround(lead_s_ * 1000));
    }
    ADD_FAILURE() << "decide() did not come to rest";
  }

  double rate_;
  double lead_s_;
  Config config_;
  std::unique_ptr<forecast::Forecaster> forecaster_;
  VolumeView view_;
  Outcome out_;
  uint64_t primary_free_ = 256 * kMiB;
  uint64_t pending_ = 0;  // written since the last sample
  uint64_t now_ms_ = 0;
  uint64_t warm_at_ms_ = 0;
};

TEST(ClosedLoop, WriterAtFullSpeedNeverReachesTheWall) {
  for (const double lead : {0.05, 0.2, 0.5, 1.2}) {
    for (const double rate : {200e6, 900e6}) {
      const auto out = Loop(rate, lead, {}, {}).write(16 * kGiB);
      EXPECT_GE(out.written, 16 * kGiB);
      EXPECT_EQ(out.held_s, 0) << lead << " " << rate;
      EXPECT_LT(out.segments, 24u);
      // Ahead of the writer are an active and a warm rung, each at most twice the need, and the need is the
      // growth over lead + review + cooldown with a margin for what was not seen yet.
      const double need = 1.4 * rate * (lead + 31);
      EXPECT_LE(static_cast<double>(out.capacity), 16.0 * kGiB + 4 * need) << lead << " " << rate;
    }
  }
}

TEST(ClosedLoop, LadderCatchesUpWhateverThePriorSaid) {
  // A prior a hundred times too low: the ladder starts at the bottom and has to climb.
  const forecast::ForecasterConfig low{.prior_bytes_per_s = 9e6};
  const auto near = Loop(900e6, 0.05, low, {}).write(16 * kGiB);
  EXPECT_GE(near.written, 16 * kGiB);
  EXPECT_EQ(near.held_s, 0) << "a lead of 50 ms";
  EXPECT_LT(near.segments, 24u);
  const auto far = Loop(900e6, 1.2, low, {}).write(16 * kGiB);
  EXPECT_GE(far.written, 16 * kGiB);
  EXPECT_LT(far.held_longest_s, 1.3) << "a hold lasts one lead time, not for ever";
  EXPECT_LT(far.segments, 24u);
}

TEST(ClosedLoop, SmallRungsStillKeepUpAndSegmentsStayFew) {
  // Grants capped at 1 GiB: about one a second, each asked for before the one before is used up.
  Config config;
  config.shadow_max = kGiB;
  const auto out = Loop(900e6, 0.05, {}, config).write(16 * kGiB);
  EXPECT_EQ(out.held_s, 0);
  EXPECT_LT(out.segments, 24u);
}

}  // namespace
}  // namespace foreshadow::policy
