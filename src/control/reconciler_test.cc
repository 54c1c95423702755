#include "control/reconciler.h"

#include <cmath>
#include <limits>

#include "base/limits.h"
#include "control/reconciler_fixture.h"

namespace foreshadow::control {
namespace {

TEST_F(ReconcilerTest, GrantsWhatPolicyDecidesAndRecordsItFirst) {
  connect();
  create("data");
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  ASSERT_EQ(link_.intents().size(), 2u);
  const v1::Intent grant = link_.intents().back();
  EXPECT_EQ(grant.grant_shadow().size(), 64 * kMiB);
  ASSERT_EQ(store_->unfinished_intents()->size(), 1u);
  EXPECT_EQ(store_->unfinished_intents()->front().id, grant.id());
  // Policy is asked again, and sees what is on its way.
  EXPECT_EQ(view_.granting, 64 * kMiB);
  ASSERT_EQ(view_.shadows.size(), 1u);
  EXPECT_EQ(view_.shadows[0].state, policy::ShadowState::kGranted);
  EXPECT_EQ(reconciler_->shown(model()).segments(1).state(), v1::SEGMENT_STATE_GRANTED);
  now_ += 3000;
  answer_all();
  EXPECT_EQ(view_.granting, 0u);
  EXPECT_EQ(view_.shadows[0].state, policy::ShadowState::kWarm);
  EXPECT_TRUE(store_->unfinished_intents()->empty());
  EXPECT_EQ(count_events("shadow.granted"), 1u);
  EXPECT_EQ(count_events("shadow.warm"), 1u);
  // Measured here, from sent to acknowledged, as it is longer than the agent's own 50 ms.
  EXPECT_DOUBLE_EQ(model().lead.p99_s(), 15.0);  // 3 s, widened fivefold: it is one measurement
  const auto decisions = store_->decisions(id_, 10);
  ASSERT_EQ(decisions->size(), 3u);  // nothing, to begin with; the grant; nothing more
  EXPECT_EQ(decisions->at(0).action(), "none");
  EXPECT_EQ(decisions->at(1).action(), "grant");
  EXPECT_EQ(decisions->at(1).sentence(), "granted, for the test");
}

TEST_F(ReconcilerTest, AnIntentIsDurableBeforeItIsSent) {
  connect();
  create("data");
  // The link looks into the store at the moment of sending.
  class LookingLink final : public AgentLink {
   public:
    explicit LookingLink(Store& store) : store_(store) {}
    void send(const v1::ControlMessage& message) override {
      if (!message.has_intent()) return;
      const auto rows = store_.unfinished_intents();
      ASSERT_EQ(rows->size(), 1u);
      EXPECT_EQ(rows->front().id, message.intent().id());
      ++seen;
    }
    void close(const std::string&) override {}
    int seen = 0;

   private:
    Store& store_;
  } looking(*store_);
  ASSERT_TRUE(reconciler_->hello(looking, agent_.hello().hello()));
  EXPECT_EQ(link_.closed, "replaced by a newer connection of the agent");
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  EXPECT_EQ(looking.seen, 1);
}

TEST_F(ReconcilerTest, ACrashAnywhereInAGrantEndsInExactlyOneSegment) {
  // Where control dies: after recording and before sending; after sending; after the agent has done it and
  // before its answer.
  for (const int point : {0, 1, 2}) {
    SCOPED_TRACE(point);
    scratch_ = ScratchDirectory();
    dir_ = scratch_.path("state");
    agent_ = ScriptedAgent("agent-a");
    answered_ = 0;
    start();
    connect();
    create("data");
    if (point == 0) reconciler_->fleet().agents["agent-a"].link = nullptr;
    v1::Intent intent;
    intent.mutable_grant_shadow()->set_volume_id(id_);
    intent.mutable_grant_shadow()->set_segment_uuid("00000000-0000-4000-8000-000000000001");
    intent.mutable_grant_shadow()->set_pool("default");
    intent.mutable_grant_shadow()->set_size(64 * kMiB);
    AgentLink* link = point == 0 ? nullptr : &link_;
    ASSERT_TRUE(reconciler_->ledger().begin("agent-a", intent, link, {}));
    if (point == 2) (void)agent_.answer(link_.intents().back());
    start();
    answered_ = 0;
    connect();
    ASSERT_EQ(link_.intents().size(), 1u);
    answer_all();
    EXPECT_EQ(agent_.volumes.at(id_).segments_size(), 2);
    EXPECT_EQ(agent_.repeats, point == 2 ? 1u : 0u);
    EXPECT_EQ(model().volume().segments_size(), 2);
    EXPECT_TRUE(store_->unfinished_intents()->empty());
    EXPECT_EQ(count_events("shadow.warm"), 1u);
    EXPECT_EQ(count_events("segment.adopted"), 0u);
  }
}

TEST_F(ReconcilerTest, ALostStoreIsRebuiltFromTheAgent) {
  connect();
  create("data");
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  answer_all();
  const v1::Volume before = model().volume();
  reconciler_.reset();
  store_.reset();
  std::filesystem::remove_all(dir_);
  start();
  EXPECT_EQ(reconciler_->fleet().volume(id_), nullptr);
  connect();
  ASSERT_NE(reconciler_->fleet().volume(id_), nullptr);
  EXPECT_EQ(model().volume().segments_size(), before.segments_size());
  EXPECT_EQ(model().volume().capacity(), before.capacity());
  EXPECT_EQ(model().agent(), "agent-a");
  EXPECT_EQ(store_->volumes()->size(), 1u);
  EXPECT_NE(reconciler_->fleet().pool("agent-a", "default"), nullptr);
  EXPECT_EQ(count_events("volume.adopted"), 1u);
  // And it is looked after again.
  script_ = {grant_of(64 * kMiB)};
  tick(8192);
  EXPECT_TRUE(link_.intents().back().has_grant_shadow());
}

TEST_F(ReconcilerTest, RefusedGrantsBackOffAndResetWhenThePoolGrows) {
  connect();
  create("data");
  agent_.refuse_code = 8;
  agent_.refuse_message = "pool default: full";
  size_t grants = 0;
  std::vector<uint64_t> at_ms;
  const uint64_t began = now_;
  for (int second = 0; second < 70; ++second) {
    script_ = {grant_of(64 * kMiB)};
    tick(4096);
    answer_all();
    if (link_.intents().size() - 1 > grants) at_ms.push_back((now_ - began) / 1000);
    grants = link_.intents().size() - 1;
  }
  EXPECT_EQ(at_ms, (std::vector<uint64_t>{1, 2, 4, 8, 16, 32, 62}));
  EXPECT_EQ(view_.grants_refused, 7u);
  EXPECT_NE(last_event("grant.refused").find("pool default: full"), std::string::npos);
  agent_.refuse_code = 0;
  // A little more room is noise; a rung's worth is a reason.
  v1::Metrics pools;
  *pools.add_pools() = agent_.pools.at("default");
  pools.mutable_pools(0)->set_capacity(pools.pools(0).capacity() + 4096);
  reconciler_->metrics("agent-a", pools);
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  EXPECT_EQ(link_.intents().size() - 1, grants);
  pools.mutable_pools(0)->set_capacity(pools.pools(0).capacity() + kGiB);
  reconciler_->metrics("agent-a", pools);
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  answer_all();
  EXPECT_EQ(link_.intents().size() - 1, grants + 1);
  EXPECT_EQ(model().grants_refused, 0u);
}

TEST_F(ReconcilerTest, NeverPromisesMoreThanThePoolHas) {
  agent_.add_pool("default", 256 * kMiB);
  connect();
  create("data");
  // 64 MiB are the primary's; of the other 192 the second grant finds 64 unpromised.
  script_ = {grant_of(128 * kMiB), grant_of(128 * kMiB)};
  tick(4096);
  EXPECT_EQ(link_.intents().size(), 2u);
  EXPECT_NE(last_event("grant.refused").find(std::to_string(64 * kMiB)), std::string::npos)
      << last_event("grant.refused");
}

TEST_F(ReconcilerTest, GrantsInFlightAreLimited) {
  connect();
  create("data");
  for (size_t i = 0; i <= limits::kGrantsInFlight; ++i) script_.push_back(grant_of(64 * kMiB));
  tick(4096);
  EXPECT_EQ(link_.intents().size(), 1 + limits::kGrantsInFlight);
  EXPECT_EQ(count_events("grant.refused"), 1u);
}

TEST_F(ReconcilerTest, UnfinishedIntentsAreLimited) {
  v1::Intent intent;
  intent.mutable_check_volume()->set_volume_id("any");
  const Status all = store_->transaction(Durability::kProcessCrash, [&]() -> Status {
    for (size_t i = 0; i < limits::kUnfinishedIntents; ++i) {
      const auto id = reconciler_->ledger().begin("agent-a", intent, nullptr, {});
      if (!id) return tl::unexpected<Error>(id.error());
    }
    return {};
  });
  ASSERT_TRUE(all) << all.error().message;
  const auto past = reconciler_->ledger().begin("agent-a", intent, nullptr, {});
  ASSERT_FALSE(past);
  EXPECT_EQ(past.error().code, Code::kLimit);
}

TEST_F(ReconcilerTest, AnAnswerWithoutPoolFiguresStillCountsWhatItTook) {
  connect();
  create("data");
  const v1::Pool before = *reconciler_->fleet().pool("agent-a", "default");
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  v1::AgentMessage answer = agent_.answer(link_.intents().back());
  answer.mutable_ack()->clear_pools();
  deliver(answer);
  EXPECT_EQ(reconciler_->pool_free(*reconciler_->fleet().pool("agent-a", "default")),
            reconciler_->pool_free(before) - 64 * kMiB);
}

TEST_F(ReconcilerTest, AFailedMergeWaitsWithoutStoppingGrants) {
  connect();
  create("data");
  script_ = {grant_of(64 * kMiB)};
  tick(4096);
  answer_all();
  agent_.refuse_code = 14;
  policy::Decision merge;
  merge.action = policy::Action::kMerge;
  merge.shadow_uuid = agent_.volumes.at(id_).segments(1).uuid();
  script_ = {merge};
  deliver(agent_.event(id_, v1::VolumeEvent::KIND_SHADOW_FULL, 1, v1::SEGMENT_STATE_SEALED));
  EXPECT_EQ(view_.shadows[0].state, policy::ShadowState::kMerging);
  answer_all();
  EXPECT_EQ(count_events("merge.refused"), 1u);
  // Policy sees a merge under way, and is free to grant.
  EXPECT_EQ(view_.shadows[0].state, policy::ShadowState::kMerging);
  tick(4096);
  tick(4096);
  EXPECT_EQ(view_.shadows[0].state, policy::ShadowState::kSealed);
}

TEST_F(ReconcilerTest, NonsenseMetricsAreRefusedByValueAndDecideNothing) {
  connect();
  create("data");
  struct Case {
    const char* what;
    std::function<void(v1::Metrics&)> spoil;
    const char* named;
  };
  const Case cases[] = {
      {"used beyond capacity", [](v1::Metrics& m) { m.mutable_volumes(0)->set_used(999'999'999'999); },
       "999999999999"},
      {"capacity 0", [](v1::Metrics& m) { m.mutable_volumes(0)->set_capacity(0); }, "capacity 0"},
      {"unknown volume", [](v1::Metrics& m) { m.mutable_volumes(0)->set_volume_id("nobody"); }, "nobody"},
      {"time 0", [](v1::Metrics& m) { m.set_time_ms(0); }, "time 0"},
      {"time backwards", [](v1::Metrics& m) { m.set_time_ms(1'600'000'000'000); }, "1600000000000"},
      {"time repeated", [this](v1::Metrics& m) { m.set_time_ms(now_ - 1000); }, "is not after"},
      {"time absurd", [](v1::Metrics& m) { m.set_time_ms(UINT64_MAX); }, "18446744073709551615"},
      {"used beyond the size",
       [](v1::Metrics& m) {
         m.mutable_volumes(0)->set_capacity(1ull << 50);
         m.mutable_volumes(0)->set_used(1ull << 49);
       },
       "562949953421312"},
      {"allocated beyond the size",
       [](v1::Metrics& m) { m.mutable_volumes(0)->set_allocated_bytes(1ull << 62); }, "4611686018427387904"},
      {"share not a number",
       [](v1::Metrics& m) {
         m.mutable_volumes(0)->set_sequential_share(std::numeric_limits<double>::quiet_NaN());
       },
       "nan"},
      {"share above one", [](v1::Metrics& m) { m.mutable_volumes(0)->set_sequential_share(1.5); }, "1.5"},
      {"histogram too long",
       [](v1::Metrics& m) {
         for (int i = 0; i < 65; ++i) m.mutable_volumes(0)->add_block_size_histogram(1);
       },
       "65"},
      {"the same volume twice", [](v1::Metrics& m) { *m.add_volumes() = m.volumes(0); }, "twice"},
  };
  tick(4096);
  for (const Case& row : cases) {
    SCOPED_TRACE(row.what);
    now_ += 120'000;  // past what keeps repeated refusals rare
    tick(4096);
    const size_t before = count_events("metrics.refused");
    const int looks = looks_;
    const uint64_t samples = model().forecaster().samples();
    now_ += 1000;
    v1::AgentMessage message = agent_.metrics(id_, now_, 8192, 4096);
    row.spoil(*message.mutable_metrics());
    deliver(message);
    EXPECT_EQ(count_events("metrics.refused"), before + 1);
    EXPECT_NE(last_event("metrics.refused").find(row.named), std::string::npos)
        << last_event("metrics.refused");
    if (std::string(row.what) == "the same volume twice") continue;  // its first row is good
    EXPECT_EQ(looks_, looks);
    EXPECT_EQ(model().forecaster().samples(), samples);
    EXPECT_EQ(model().volume().used(), 4096u);
  }
  EXPECT_EQ(link_.intents().size(), 1u);
}

TEST_F(ReconcilerTest, RepeatedNonsenseIsRecordedOnceAMinute) {
  connect();
  create("data");
  for (int i = 0; i < 59; ++i) {
    now_ += 1000;
    v1::AgentMessage message = agent_.metrics(id_, now_, 0, 0);
    message.mutable_metrics()->mutable_volumes(0)->set_capacity(0);
    deliver(message);
  }
  EXPECT_EQ(count_events("metrics.refused"), 1u);
}

TEST_F(ReconcilerTest, AClockSetBackSilencesAVolumeOnlyForMoments) {
  connect();
  create("data");
  for (int i = 0; i < 5; ++i) tick(4096);
  const uint64_t samples = model().forecaster().samples();
  uint64_t set_back = now_ - 3'600'000;
  for (uint32_t i = 1; i < VolumeModel::kRewindSamples; ++i) {
    deliver(agent_.metrics(id_, set_back += 1000, 4096, 0));
    EXPECT_EQ(model().forecaster().samples(), samples);
  }
  deliver(agent_.metrics(id_, set_back += 1000, 4096, 0));
  deliver(agent_.metrics(id_, set_back += 1000, 4096, 0));
  EXPECT_EQ(model().forecaster().samples(), samples + 2);
}

TEST_F(ReconcilerTest, HistoryAndLeadTimesSurviveARestart) {
  connect();
  create("data");
  for (int i = 1; i <= 20; ++i) tick(4096 * static_cast<uint64_t>(i));
  script_ = {grant_of(64 * kMiB)};
  tick(100'000);
  now_ += 7000;
  answer_all();
  const uint64_t samples = model().forecaster().samples();
  start();
  EXPECT_EQ(model().forecaster().samples(), samples);
  EXPECT_DOUBLE_EQ(model().lead.p99_s(), 35.0);
}

TEST_F(ReconcilerTest, ARefusalByPolicyIsAnEventOnce) {
  connect();
  create("data");
  for (int i = 0; i < 5; ++i) {
    script_ = {refusal()};
    tick(4096);
  }
  EXPECT_EQ(count_events("grant.refused"), 1u);
  EXPECT_EQ(last_event("grant.refused"), "the pool is full");
}

TEST_F(ReconcilerTest, AVolumeThatIsNotServedIsNotDecidedAbout) {
  connect();
  create("data");
  const v1::Volume volume = agent_.volumes.at(id_);
  agent_.volumes.clear();
  connect();
  EXPECT_EQ(count_events("volume.missing"), 1u);
  EXPECT_TRUE(reconciler_->shown(model()).uri().empty());
  const int looks = looks_;
  reconciler_->consider(model());
  EXPECT_EQ(looks_, looks);
  // Back again, all is as before.
  agent_.volumes[id_] = volume;
  connect();
  EXPECT_GT(looks_, looks);
  EXPECT_FALSE(reconciler_->shown(model()).uri().empty());
}

TEST_F(ReconcilerTest, SegmentsThatOnlyTheAgentKnowsAreAdopted) {
  connect();
  create("data");
  v1::Volume& volume = agent_.volumes.at(id_);
  v1::Segment& extra = *volume.add_segments();
  extra.set_id(1);
  extra.set_uuid("00000000-0000-4000-8000-0000000000aa");
  extra.set_role(v1::SEGMENT_ROLE_SHADOW);
  extra.set_state(v1::SEGMENT_STATE_ACTIVE);
  extra.set_capacity(kMiB);
  connect();
  EXPECT_EQ(count_events("segment.adopted"), 1u);
  EXPECT_EQ(store_->volumes()->front().segments_size(), 2);
}

TEST_F(ReconcilerTest, AnswersThatContradictThemselvesAreFailures) {
  connect();
  create("data");
  struct Case {
    const char* what;
    std::function<void(v1::Ack&)> spoil;
  };
  const Case cases[] = {
      {"another volume",
       [](v1::Ack& ack) { ack.mutable_volume()->set_id("00000000-0000-4000-8000-0000000000bb"); }},
      {"no volume", [](v1::Ack& ack) { ack.clear_volume(); }},
      {"segment not listed", [](v1::Ack& ack) { ack.mutable_volume()->mutable_segments()->RemoveLast(); }},
  };
  for (const Case& row : cases) {
    SCOPED_TRACE(row.what);
    now_ += 60'000;
    script_ = {grant_of(64 * kMiB)};
    tick(4096);
    const size_t refused = count_events("grant.refused");
    v1::AgentMessage answer = agent_.answer(link_.intents().back());
    row.spoil(*answer.mutable_ack());
    deliver(answer);
    EXPECT_EQ(count_events("grant.refused"), refused + 1);
    EXPECT_TRUE(store_->unfinished_intents()->empty());
    EXPECT_EQ(count_events("shadow.warm"), 0u);
  }
}

TEST_F(ReconcilerTest, HelloIsJudged) {
  struct Case {
    const char* what;
    std::function<void(v1::Hello&)> spoil;
  };
  const Case cases[] = {
      {"no id", [](v1::Hello& hello) { hello.clear_agent_id(); }},
      {"id with a space", [](v1::Hello& hello) { hello.set_agent_id("a b"); }},
      {"id too long", [](v1::Hello& hello) { hello.set_agent_id(std::string(limits::kIdLength + 1, 'a')); }},
      {"too many volumes",
       [](v1::Hello& hello) {
         for (size_t i = 0; i <= foreshadow::limits::kVolumes; ++i) hello.add_volumes();
       }},
      {"too many pools",
       [](v1::Hello& hello) {
         for (size_t i = 0; i <= foreshadow::limits::kPools; ++i) hello.add_pools();
       }},
  };
  for (const Case& row : cases) {
    v1::Hello hello = agent_.hello().hello();
    row.spoil(hello);
    EXPECT_FALSE(reconciler_->hello(link_, hello)) << row.what;
  }
  EXPECT_TRUE(reconciler_->fleet().connected().empty());
}

TEST_F(ReconcilerTest, ANameTakenElsewhereIsNotAdopted) {
  connect();
  create("data");
  ScriptedAgent other("agent-b");
  v1::Volume twin = agent_.volumes.at(id_);
  twin.set_id("00000000-0000-4000-8000-0000000000cc");
  other.volumes[twin.id()] = twin;
  RecordingLink link;
  ASSERT_TRUE(reconciler_->hello(link, other.hello().hello()));
  EXPECT_EQ(reconciler_->fleet().volumes.size(), 1u);
  EXPECT_EQ(count_events("metrics.refused"), 1u);
}

TEST(LeadTime, ThePriorGivesWayToMeasurements) {
  LeadTime lead;
  EXPECT_DOUBLE_EQ(lead.p99_s(), 0.25);
  lead.record_us(40'000);
  EXPECT_DOUBLE_EQ(lead.p99_s(), 0.2);  // one measurement, widened by 4/1
  lead.record_us(2'500'000);
  EXPECT_DOUBLE_EQ(lead.p99_s(), 7.5);
  for (size_t i = 0; i < limits::kLeadTimes; ++i) lead.record_us(50'000);
  EXPECT_DOUBLE_EQ(lead.p99_s(), 0.05 * (1 + 4.0 / limits::kLeadTimes));
}

}  // namespace
}  // namespace foreshadow::control
