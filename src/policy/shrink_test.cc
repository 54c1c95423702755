#include "policy/shrink.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "base/rng.h"
#include "base/types.h"

namespace foreshadow::policy {
namespace {

using Kind = SegmentView::Kind;

SegmentView segment(uint32_t id, Kind kind, uint64_t capacity_mib, uint64_t used_mib) {
  return {id,
          "uuid-" + std::to_string(id),
          kind,
          capacity_mib * kMiB,
          used_mib * kMiB,
          (capacity_mib + 2) * kMiB};
}

// "d3 d4 c0:96": drained, and cut by so many MiB.
std::string words(const ShrinkPlan& plan) {
  std::string out;
  for (const ShrinkStep& step : plan.steps) {
    out += out.empty() ? "" : " ";
    out += step.kind == ShrinkStep::Kind::kDrain ? "d" : "c";
    out += std::to_string(step.id);
    if (step.kind == ShrinkStep::Kind::kCut) out += ":" + std::to_string(step.frees / kMiB);
  }
  return out;
}

struct Row {
  const char* name;
  std::vector<SegmentView> segments;
  uint64_t target_mib;
  uint64_t warm_mib;
  const char* steps;
  uint64_t after_mib;
  uint64_t moves_mib;
  uint64_t need_mib = 0;  // of what is warm
};

const Row kRows[] = {
    {"an empty segment goes",
     {segment(0, Kind::kPrimary, 256, 100), segment(1, Kind::kMerged, 256, 0)},  //
     256,
     64,
     "d1",
     256,
     0},
    {"the one that holds least goes",
     {segment(0, Kind::kPrimary, 256, 100), segment(1, Kind::kMerged, 256, 50),
      segment(2, Kind::kMerged, 256, 10)},
     512,
     64,
     "d2",
     512,
     10},
    {"the primary never goes",
     {segment(0, Kind::kPrimary, 256, 0), segment(1, Kind::kMerged, 256, 100)},
     256,
     64,
     "d1",
     256,
     100},
    {"one segment alone is cut", {segment(0, Kind::kPrimary, 1024, 100)}, 120, 64, "c0:904", 120, 100},
    {"drained as far as whole segments go, then cut",
     {segment(0, Kind::kPrimary, 256, 100), segment(1, Kind::kMerged, 256, 8),
      segment(2, Kind::kMerged, 512, 8)},
     300,
     64,
     "d2 c1:212",
     300,
     16},
    {"what has no room elsewhere stays, and is cut instead",
     {segment(0, Kind::kPrimary, 64, 60), segment(1, Kind::kMerged, 1024, 200)},
     312,
     64,
     "c1:776",
     312,
     200},
    {"what is in use is drained into what is merged",
     {segment(0, Kind::kPrimary, 512, 100), segment(1, Kind::kInUse, 1024, 50)},
     512,
     64,
     "d1",
     512,
     50},
    {"a warm shadow of the right size stays, and counts",
     {segment(0, Kind::kPrimary, 512, 100), segment(1, Kind::kMerged, 512, 0),
      segment(2, Kind::kWarm, 62, 0)},
     574,
     64,
     "d1",
     574,
     0},
    {"a warm shadow that is too large is exchanged",
     {segment(0, Kind::kPrimary, 512, 400), segment(1, Kind::kWarm, 512, 0)},
     576,
     64,
     "d1",
     576,
     0},
    {"of many warm shadows one stays where nothing is needed",
     {segment(0, Kind::kPrimary, 512, 400), segment(1, Kind::kWarm, 62, 0), segment(2, Kind::kWarm, 62, 0),
      segment(3, Kind::kWarm, 62, 0)},
     574,
     64,
     "d2 d3",
     574,
     0},
    {"of many warm shadows none goes below the target",
     {segment(0, Kind::kPrimary, 512, 400), segment(1, Kind::kWarm, 62, 0), segment(2, Kind::kWarm, 62, 0),
      segment(3, Kind::kWarm, 62, 0)},
     640,
     64,
     "c0:58",
     640,
     58},
    {"of many warm shadows as many stay as are needed, and count",
     {segment(0, Kind::kPrimary, 512, 100), segment(1, Kind::kMerged, 512, 0), segment(2, Kind::kWarm, 62, 0),
      segment(3, Kind::kWarm, 62, 0), segment(4, Kind::kWarm, 62, 0)},
     636,
     64,
     "d4 d1",
     636,
     0,
     100},
    {"nothing is done where the capacity is as wanted",
     {segment(0, Kind::kPrimary, 256, 200), segment(1, Kind::kWarm, 62, 0)},
     318,
     64,
     "",
     318,
     0},
    {"a few MiB are not worth it", {segment(0, Kind::kPrimary, 256, 200)}, 254, 64, "", 256, 0},
    {"a target above what there is asks for nothing",
     {segment(0, Kind::kPrimary, 256, 10)},
     512,
     64,
     "",
     256,
     0},
    {"after a purge: many segments down to little",
     {segment(0, Kind::kPrimary, 14, 3), segment(1, Kind::kMerged, 62, 10), segment(2, Kind::kMerged, 62, 10),
      segment(3, Kind::kMerged, 126, 20), segment(4, Kind::kMerged, 254, 40),
      segment(5, Kind::kInUse, 510, 80), segment(6, Kind::kWarm, 510, 0)},
     240,
     64,
     "",
     0,
     0},  // judged below
};

TEST(Shrink, ChoosesWhatToDrainAndWhatToCut) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(row.name);
    const auto plan =
        plan_shrink({row.segments, row.target_mib * kMiB, row.warm_mib * kMiB, row.need_mib * kMiB});
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_FALSE(plan->sentence.empty());
    if (row.after_mib == 0) {
      EXPECT_LE(plan->capacity_after, 250 * kMiB) << words(*plan);
      EXPECT_LE(plan->moves, 300 * kMiB) << words(*plan);
      continue;
    }
    EXPECT_EQ(words(*plan), row.steps);
    EXPECT_EQ(plan->capacity_after / kMiB, row.after_mib);
    EXPECT_EQ(plan->moves / kMiB, row.moves_mib);
  }
}

TEST(Shrink, ATargetOutOfReachSaysWhatIsInReach) {
  const auto plan = plan_shrink({{segment(0, Kind::kPrimary, 1024, 480)}, 490 * kMiB, 64 * kMiB});
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, Code::kInvalidArgument);
  for (const char* part : {"490MiB", "480MiB", "512", "trim"}) {
    EXPECT_NE(plan.error().message.find(part), std::string::npos) << plan.error().message;
  }
}

// Whatever the segments: every step has the room that the engine will ask for, nothing is lost, and what
// remains is within a quarter of what is needed wherever a segment's own bounds allow it.
TEST(Shrink, EveryPlanCanBeCarriedOut) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
    SeededRng rng(seed);
    const auto up_to = [&](uint64_t n) { return rng.next() % n; };
    std::vector<SegmentView> segments;
    const auto count = static_cast<uint32_t>(1 + up_to(12));
    uint64_t used = 0;
    for (uint32_t id = 0; id < count; ++id) {
      Kind kind = id == 0 ? Kind::kPrimary : Kind::kMerged;
      if (id > 0 && id + 2 == count) kind = Kind::kInUse;
      if (id > 0 && id + 1 == count) kind = Kind::kWarm;
      const uint64_t capacity = 14 + up_to(600);
      segments.push_back(segment(id, kind, capacity, kind == Kind::kWarm ? 0 : up_to(capacity / 3 + 1)));
      used += segments.back().used;
    }
    const uint64_t target = shrink_target(used);
    const auto plan = plan_shrink({segments, target, 64 * kMiB});
    ASSERT_TRUE(plan) << plan.error().message;
    std::vector<SegmentView> now = segments;
    for (const ShrinkStep& step : plan->steps) {
      const auto at = std::find_if(now.begin(), now.end(), [&](const auto& s) { return s.id == step.id; });
      ASSERT_NE(at, now.end());
      if (step.kind == ShrinkStep::Kind::kCut) {
        ASSERT_LE(at->used + step.frees, at->capacity);
        ASSERT_EQ(at->backing - step.frees, step.size);
        ASSERT_GE(step.size, 8 * kMiB);
        at->capacity -= step.frees;
        at->backing = step.size;
        continue;
      }
      ASSERT_NE(at->kind, Kind::kPrimary);
      ASSERT_EQ(at->used, step.moves);
      uint64_t left = at->used;
      uint64_t room = 0;
      uint64_t held = 0;
      now.erase(at);
      for (SegmentView& s : now) {
        if (s.kind != Kind::kPrimary && s.kind != Kind::kMerged) continue;
        room += s.capacity - s.used;
        held += s.capacity;
        const uint64_t taken = std::min(left, s.capacity - s.used);
        s.used += taken;
        left -= taken;
      }
      ASSERT_EQ(left, 0u);
      ASSERT_GE(room, step.moves == 0 ? 0 : step.moves + std::min(64 * kMiB, held / 16));
    }
    uint64_t after = 0;
    uint64_t stuck = 0;  // below the least size of a segment, or in steps too small to be worth it
    for (const SegmentView& s : now) {
      if (s.kind == Kind::kWarm) continue;
      after += s.capacity;
      stuck += 12 * kMiB;
    }
    EXPECT_LE(after, std::max(target, shrink_least(used)) + stuck) << plan->sentence;
  }
}

// Growth of `rate` bytes a second, at every quantile.
class Told final : public forecast::Forecaster {
 public:
  explicit Told(double rate) : rate_(rate) {}
  bool observe(const forecast::Sample&) override { return true; }
  uint64_t samples() const override { return 1; }
  double growth_quantile(double horizon_s, double) const override { return rate_ * horizon_s; }
  double exceedance(double, double) const override { return 0; }
  std::optional<double> time_to_full_s(double, double) const override { return std::nullopt; }
  forecast::Components components() const override { return {}; }

 private:
  double rate_;
};

TEST(Reclaim, OnlyWhatHasBeenFreeForLongAndIsForecastToStaySo) {
  struct Case {
    const char* name;
    ReclaimView view;
    double rate;
    bool shrinks;
    const char* says;
  };
  const ReclaimView roomy{1000 * kMiB, 100 * kMiB, 700, 10'000};
  const auto with = [&](auto change) {
    ReclaimView out = roomy;
    change(out);
    return out;
  };
  const Case cases[] = {
      {"free for long, and quiet", roomy, 0, true, "shrinks to 120MiB"},
      {"room for what it will grow by", roomy, 500'000, true, "shrinks to"},
      {"half is in use", with([](auto& v) { v.used = 500 * kMiB; }), 0, false, "keeps"},
      {"not yet for long", with([](auto& v) { v.free_for_s = 599; }), 0, false, "after 600 s"},
      {"a grant a moment ago", with([](auto& v) { v.since_grant_s = 5; }), 0, false, "5 s ago"},
      {"it will be needed", roomy, 2'000'000, false, "may grow by"},
      {"a forecast beyond any number", roomy, std::numeric_limits<double>::infinity(), false, "may grow by"},
      {"nothing there at all", ReclaimView{}, 0, false, "keeps"},
  };
  for (const Case& row : cases) {
    SCOPED_TRACE(row.name);
    const ReclaimDecision decision = decide_reclaim(row.view, Told(row.rate), ReclaimConfig());
    EXPECT_EQ(decision.shrink, row.shrinks) << decision.sentence;
    EXPECT_NE(decision.sentence.find(row.says), std::string::npos) << decision.sentence;
    EXPECT_EQ(decision.inputs.count("growth_p99"), 1u);
    EXPECT_GE(decision.target,
              std::min(row.view.used + kShrinkFloor, std::max<uint64_t>(row.view.capacity, 1)));
  }
}

}  // namespace
}  // namespace foreshadow::policy
