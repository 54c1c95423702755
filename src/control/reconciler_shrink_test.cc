// Fold, drain, shrink and reclaim, from the decision to what is recorded of its end.
#include <algorithm>

#include "control/reconciler_fixture.h"

namespace foreshadow::control {
namespace {

// A volume that grows by nothing, as far as anybody can tell.
class Still final : public forecast::Forecaster {
 public:
  bool observe(const forecast::Sample&) override { return true; }
  uint64_t samples() const override { return 100; }
  double growth_quantile(double, double) const override { return 0; }
  double exceedance(double, double) const override { return 0; }
  std::optional<double> time_to_full_s(double, double) const override { return std::nullopt; }
  forecast::Components components() const override { return {}; }
};

class ReconcilerShrinkTest : public ReconcilerTest {
 protected:
  // A volume with shadows of 64 MiB in these states, `used` MiB in each.
  void make(const std::vector<v1::SegmentState>& states, uint64_t used_mib) {
    connect();
    create("data");
    for (size_t i = 0; i < states.size(); ++i) {
      script_.push_back(grant_of(64 * kMiB));
      tick(4096);
      answer_all();
    }
    v1::Volume& volume = agent_.volumes.at(id_);
    ASSERT_EQ(static_cast<size_t>(volume.segments_size()), states.size() + 1);
    for (size_t i = 0; i < states.size(); ++i) {
      v1::Segment& segment = *volume.mutable_segments(static_cast<int>(i) + 1);
      segment.set_state(states[i]);
      segment.set_used(used_mib * kMiB);
      volume.set_used(volume.used() + segment.used());
    }
    connect();
    sent_before_ = link_.intents().size();
  }
  std::vector<v1::Intent> sent() const {
    const std::vector<v1::Intent> all = link_.intents();
    return {all.begin() + static_cast<std::ptrdiff_t>(sent_before_), all.end()};
  }
  std::string uuid(int segment) { return agent_.volumes.at(id_).segments(segment).uuid(); }
  Requests requests() { return Requests(*reconciler_); }
  static v1::SegmentRequest segment_request(uint32_t id) {
    v1::SegmentRequest out;
    out.set_volume("data");
    out.set_segment_id(id);
    return out;
  }
  Requests::Done collect() {
    return [this](const v1::Ack& ack) { acks_.push_back(ack); };
  }
  size_t sent_before_ = 0;
  std::vector<v1::Ack> acks_;
};

TEST_F(ReconcilerShrinkTest, FoldsTheOldestShadowInUseAndRecordsBothEnds) {
  make({v1::SEGMENT_STATE_MERGED, v1::SEGMENT_STATE_ACTIVE, v1::SEGMENT_STATE_WARM}, 0);
  ASSERT_TRUE(requests().fold_shadow(segment_request(0), collect()));
  ASSERT_EQ(sent().size(), 1u);
  EXPECT_EQ(sent()[0].fold_shadow().segment_uuid(), uuid(1));
  ASSERT_EQ(store_->unfinished_intents()->size(), 1u);
  EXPECT_EQ(reconciler_->shown(model()).segments(1).state(), v1::SEGMENT_STATE_FOLDING);
  EXPECT_EQ(count_events("shadow.folding"), 1u);
  // A second request waits for the first; the other way out is refused meanwhile.
  ASSERT_TRUE(requests().fold_shadow(segment_request(1), collect()));
  EXPECT_EQ(requests().drain_segment(segment_request(1), collect()).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(sent().size(), 1u);
  answer_all();
  ASSERT_EQ(acks_.size(), 2u);
  EXPECT_EQ(acks_[1].code(), 0);
  EXPECT_EQ(count_events("shadow.folded"), 1u);
  EXPECT_EQ(count_events("segment.gone"), 0u);
  EXPECT_EQ(model().volume().segments_size(), 3);
  EXPECT_TRUE(store_->unfinished_intents()->empty());
  // What is gone is named, and so is what there is.
  const Status again = requests().fold_shadow(segment_request(1), collect());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kNotFound);
  EXPECT_NE(again.error().message.find("2, 3"), std::string::npos) << again.error().message;
}

TEST_F(ReconcilerShrinkTest, DrainsByNumberAndNeverThePrimary) {
  make({v1::SEGMENT_STATE_MERGED}, 1);
  EXPECT_EQ(requests().drain_segment(segment_request(0), collect()).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(requests().drain_segment(segment_request(1), collect()));
  EXPECT_EQ(reconciler_->shown(model()).segments(1).state(), v1::SEGMENT_STATE_DRAINING);
  // What is on its way out offers no room to policy: from the moment on that it is asked for.
  reconciler_->consider(model());
  EXPECT_EQ(view_.capacity, agent_.volumes.at(id_).segments(0).capacity());
  v1::Volume& volume = agent_.volumes.at(id_);
  volume.set_leaving(volume.segments(1).capacity());
  connect();
  EXPECT_EQ(view_.capacity, volume.segments(0).capacity());
  volume.set_leaving(0);
  answer_all();
  EXPECT_EQ(count_events("segment.draining"), 1u);
  EXPECT_EQ(count_events("segment.released"), 1u);
  EXPECT_EQ(model().volume().segments_size(), 1);
}

TEST_F(ReconcilerShrinkTest, ARefusalIsToldAndTheSegmentStays) {
  make({v1::SEGMENT_STATE_MERGED}, 1);
  agent_.refuse_code = 8;
  agent_.refuse_message = "pool default has 1MiB free";
  ASSERT_TRUE(requests().fold_shadow(segment_request(1), collect()));
  ASSERT_TRUE(requests().drain_segment(segment_request(1), collect()).error().code ==
              Code::kFailedPrecondition);
  answer_all();
  ASSERT_EQ(acks_.size(), 1u);
  EXPECT_EQ(acks_[0].code(), 8);
  EXPECT_NE(last_event("fold.refused").find("1MiB free"), std::string::npos);
  EXPECT_EQ(reconciler_->shown(model()).segments(1).state(), v1::SEGMENT_STATE_MERGED);
}

TEST_F(ReconcilerShrinkTest, ACrashAnywhereInAFoldEndsInOneAnswer) {
  for (const int point : {0, 1}) {  // before and after the agent has done it
    SCOPED_TRACE(point);
    scratch_ = ScratchDirectory();
    dir_ = scratch_.path("state");
    agent_ = ScriptedAgent("agent-a");
    answered_ = 0;
    start();
    make({v1::SEGMENT_STATE_MERGED}, 1);
    ASSERT_TRUE(requests().fold_shadow(segment_request(1), {}));
    if (point == 1) (void)agent_.answer(link_.intents().back());
    start();
    answered_ = 0;
    connect();
    ASSERT_EQ(link_.intents().size(), 1u);
    answer_all();
    EXPECT_EQ(agent_.repeats, point == 1 ? 1u : 0u);
    EXPECT_EQ(model().volume().segments_size(), 1);
    EXPECT_TRUE(store_->unfinished_intents()->empty());
    EXPECT_EQ(count_events("shadow.folded"), 1u);
    EXPECT_EQ(count_events("segment.gone"), 0u);
  }
}

TEST_F(ReconcilerShrinkTest, AShrinkIsItsStepsAndOneEnd) {
  make({v1::SEGMENT_STATE_MERGED, v1::SEGMENT_STATE_MERGED, v1::SEGMENT_STATE_MERGED}, 1);
  v1::ShrinkVolumeRequest request;
  request.set_volume("data");
  request.set_plan_only(true);
  v1::ShrinkPlan plan;
  ASSERT_TRUE(requests().shrink_volume(request, &plan, collect()));
  ASSERT_EQ(acks_.size(), 1u);
  EXPECT_TRUE(sent().empty());
  ASSERT_GE(plan.steps_size(), 3);
  request.set_plan_only(false);
  v1::ShrinkPlan done;
  ASSERT_TRUE(requests().shrink_volume(request, &done, collect()));
  EXPECT_EQ(sent().size(), static_cast<size_t>(plan.steps_size()));
  EXPECT_EQ(store_->unfinished_intents()->size(), sent().size());
  // Another one has to wait.
  EXPECT_EQ(requests().shrink_volume(request, &done, collect()).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(count_events("volume.shrunk"), 0u);
  answer_all();
  EXPECT_EQ(acks_.size(), 2u);
  EXPECT_EQ(count_events("segment.released"), 3u);
  EXPECT_EQ(count_events("volume.shrunk"), 1u);
  EXPECT_EQ(model().volume().capacity(), plan.capacity_after());
  EXPECT_LE(model().volume().capacity(), 20 * kMiB);
}

TEST_F(ReconcilerShrinkTest, WarmShadowsBeyondWhatPolicyNeedsAtHandGoToo) {
  make({v1::SEGMENT_STATE_WARM, v1::SEGMENT_STATE_WARM, v1::SEGMENT_STATE_WARM}, 0);
  v1::ShrinkVolumeRequest request;
  request.set_volume("data");
  request.set_plan_only(true);
  v1::ShrinkPlan plan;
  const auto drained = [](const v1::ShrinkPlan& of) {
    return std::count_if(of.steps().begin(), of.steps().end(),
                         [](const auto& step) { return step.action() == "drain"; });
  };
  // Where policy does not say what it needs, all of them stay.
  ASSERT_TRUE(requests().shrink_volume(request, &plan, collect()));
  EXPECT_EQ(drained(plan), 0) << plan.sentence();
  policy::Decision wish;
  wish.inputs["need"] = static_cast<double>(100 * kMiB);
  script_.push_back(wish);
  plan.Clear();
  ASSERT_TRUE(requests().shrink_volume(request, &plan, collect()));
  EXPECT_EQ(drained(plan), 1) << plan.sentence();
  wish.inputs["need"] = 0;
  script_.push_back(wish);
  plan.Clear();
  ASSERT_TRUE(requests().shrink_volume(request, &plan, collect()));
  EXPECT_EQ(drained(plan), 2) << plan.sentence();
}

TEST_F(ReconcilerShrinkTest, AShrinkWhoseStepsAreRefusedSaysSoOnce) {
  make({v1::SEGMENT_STATE_MERGED, v1::SEGMENT_STATE_MERGED}, 1);
  agent_.refuse_code = 8;
  agent_.refuse_message = "the others have room for 1MiB";
  v1::ShrinkVolumeRequest request;
  request.set_volume("data");
  v1::ShrinkPlan plan;
  ASSERT_TRUE(requests().shrink_volume(request, &plan, collect()));
  answer_all();
  ASSERT_EQ(acks_.size(), 1u);
  EXPECT_EQ(acks_[0].code(), 8);
  EXPECT_EQ(count_events("shrink.refused"), 1u);
  EXPECT_EQ(count_events("volume.shrunk"), 0u);
  EXPECT_GE(count_events("drain.refused"), 1u);
}

TEST_F(ReconcilerShrinkTest, AVolumeThatFoldsDoesAndAdoptsWhatItCannotFold) {
  policy::Decision merge;
  merge.action = policy::Action::kMerge;
  merge.sentence = "it is full";
  for (const bool refused : {false, true}) {
    SCOPED_TRACE(refused);
    scratch_ = ScratchDirectory();
    dir_ = scratch_.path("state");
    agent_ = ScriptedAgent("agent-a");
    answered_ = 0;
    start();
    make({v1::SEGMENT_STATE_SEALED}, 63);
    v1::SetVolumeRequest set;
    set.set_name("data");
    set.set_merge(v1::MERGE_MODE_FOLD);
    ASSERT_TRUE(requests().set_volume(set, collect()));
    answer_all();
    EXPECT_EQ(count_events("volume.set"), 1u);
    merge.shadow_uuid = uuid(1);
    script_ = {merge};
    if (refused) agent_.refuse_code = 8;
    tick(63 * kMiB);
    ASSERT_TRUE(link_.intents().back().has_fold_shadow());
    EXPECT_EQ(store_->decisions(id_, 2)->at(1).action(), "fold");
    script_ = {merge};
    answer_all();
    EXPECT_EQ(count_events("shadow.folded"), refused ? 0u : 1u);
    EXPECT_EQ(link_.intents().back().has_merge_shadow(), refused);
    std::string said;
    const auto decisions = store_->decisions(id_, 3);
    for (const v1::Decision& decision : *decisions) said += decision.sentence() + "\n";
    EXPECT_EQ(said.find("could not be folded") != std::string::npos, refused) << said;
    script_.clear();
  }
}

TEST_F(ReconcilerShrinkTest, WithoutRoomInThePoolAVolumeThatFoldsAdopts) {
  agent_.add_pool("default", 128 * kMiB);  // all handed out: primary and one shadow
  make({v1::SEGMENT_STATE_SEALED}, 63);
  agent_.volumes.at(id_).mutable_policy()->set_merge(v1::MERGE_MODE_FOLD);
  agent_.volumes.at(id_).mutable_segments(0)->set_used(63 * kMiB);
  connect();
  policy::Decision merge;
  merge.action = policy::Action::kMerge;
  merge.shadow_uuid = uuid(1);
  script_ = {merge};
  tick(126 * kMiB);
  EXPECT_TRUE(link_.intents().back().has_merge_shadow());
  EXPECT_NE(store_->decisions(id_, 2)->at(1).sentence().find("pool default has 0B"), std::string::npos);
}

TEST_F(ReconcilerShrinkTest, ReclaimsByPolicyAfterTheHoldTimeAndOnlyIfAsked) {
  make_forecaster_ = [] { return std::make_unique<Still>(); };
  reclaim_.hold_s = 100;
  reclaim_.cooldown_s = 50;
  start();
  make({v1::SEGMENT_STATE_MERGED, v1::SEGMENT_STATE_MERGED, v1::SEGMENT_STATE_MERGED}, 1);
  for (int i = 0; i < 200; ++i) tick(3 * kMiB);
  EXPECT_TRUE(sent().empty());
  v1::SetVolumeRequest set;
  set.set_name("data");
  set.set_reclaim(true);
  set.set_reclaim_hold_s(300);
  ASSERT_TRUE(requests().set_volume(set, collect()));
  answer_all();
  for (int i = 0; i < 90; ++i) tick(3 * kMiB);
  EXPECT_EQ(sent().size(), 1u);
  EXPECT_NE(reconciler_->explain(model())->sentence().find("waits"), std::string::npos);
  // A busy moment begins it all anew.
  tick(200 * kMiB);
  for (int i = 0; i < 299; ++i) tick(3 * kMiB);
  EXPECT_EQ(sent().size(), 1u);
  for (int i = 0; i < 3; ++i) tick(3 * kMiB);
  ASSERT_GT(sent().size(), 2u);
  const v1::Decision decision = store_->decisions(id_, 2)->at(1);  // since, that nothing else is to be done
  EXPECT_EQ(decision.action(), "shrink");
  EXPECT_NE(decision.sentence().find("by the forecast"), std::string::npos) << decision.sentence();
  EXPECT_EQ(decision.inputs().at("hold_s"), 300);
  answer_all();
  EXPECT_EQ(count_events("volume.shrunk"), 1u);
  const size_t after = sent().size();
  for (int i = 0; i < 400; ++i) tick(3 * kMiB);
  EXPECT_EQ(sent().size(), after);  // there is nothing to gain any more
}

TEST_F(ReconcilerShrinkTest, ARestartCutInTwoIsToldByTheAgent) {
  make({v1::SEGMENT_STATE_MERGED}, 0);
  v1::AgentMessage message =
      agent_.event(id_, v1::VolumeEvent::KIND_SEGMENT_RELEASED, 1, v1::SEGMENT_STATE_DRAINING);
  message.mutable_event()->mutable_volume()->mutable_segments()->RemoveLast();
  deliver(message);
  EXPECT_EQ(count_events("segment.released"), 1u);
  EXPECT_EQ(model().volume().segments_size(), 1);
}

TEST_F(ReconcilerShrinkTest, AJobIsShownAsLongAsItIsReported) {
  make({v1::SEGMENT_STATE_MERGED}, 1);
  now_ += 1000;
  v1::AgentMessage message = agent_.metrics(id_, now_, kMiB, 0);
  v1::Job& job = *message.mutable_metrics()->mutable_volumes(0)->mutable_job();
  job.set_kind(v1::JOB_KIND_DRAIN);
  job.set_segment_uuid("no uuid");
  deliver(message);
  EXPECT_FALSE(model().volume().has_job());
  EXPECT_EQ(count_events("metrics.refused"), 1u);
  job.set_segment_uuid(uuid(1));
  message.mutable_metrics()->set_time_ms(now_ += 1000);
  deliver(message);
  EXPECT_TRUE(reconciler_->shown(model()).has_job());
  tick(kMiB);
  EXPECT_FALSE(reconciler_->shown(model()).has_job());
}

}  // namespace
}  // namespace foreshadow::control
