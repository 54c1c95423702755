// The whole control plane over real gRPC, with a scripted agent on the other side.
#include <filesystem>
#include <functional>
#include <future>

#include "control/service_fixture.h"

namespace foreshadow::control {
namespace {

TEST_F(ServiceTest, AWholeCycleFromForecastToMerge) {
  agent_.connect(address_);
  const v1::Volume volume = create("data");
  EXPECT_EQ(volume.agent_id(), "agent-a");
  EXPECT_FALSE(volume.uri().empty());
  Follower events(*stub_, "data");
  events.wait_for("volume.created");
  events.wait_for("shadow.granted");
  EXPECT_EQ(events.wait_for("shadow.warm").segment_id(), 1u);
  const std::string id = volume.id();
  uint64_t time_ms = 1'700'000'000'000;
  for (uint64_t used = 4096; used <= 40960; used += 4096) {
    agent_.send(
        agent_.with([&](ScriptedAgent& script) { return script.metrics(id, time_ms += 1000, used, 4096); }));
  }
  const auto report = [&](v1::VolumeEvent::Kind kind, v1::SegmentState state) {
    agent_.send(agent_.with([&](ScriptedAgent& script) { return script.event(id, kind, 1, state); }));
  };
  report(v1::VolumeEvent::KIND_REDIRECTED, v1::SEGMENT_STATE_ACTIVE);
  events.wait_for("redirect");
  report(v1::VolumeEvent::KIND_SHADOW_FULL, v1::SEGMENT_STATE_SEALED);
  events.wait_for("shadow.full");
  EXPECT_EQ(events.wait_for("merge.requested").segment_id(), 1u);
  EXPECT_EQ(events.wait_for("shadow.merged").segment_id(), 1u);

  const v1::VolumeDetail detail = get("data");
  EXPECT_EQ(detail.volume().segments(1).state(), v1::SEGMENT_STATE_MERGED);
  EXPECT_EQ(detail.latest().used(), 40960u);
  EXPECT_EQ(detail.forecast().samples(), 10u);
  EXPECT_GT(detail.forecast().free_bytes(), 0u);
  EXPECT_GT(detail.forecast().lead_time_p99_s(), 0);
  v1::VolumeRequest request;
  request.set_name("data");
  v1::Explanation explanation;
  ASSERT_TRUE(call(&v1::ControlService::Stub::Explain, request, &explanation).ok());
  EXPECT_NE(explanation.sentence().find("data"), std::string::npos) << explanation.sentence();
  std::string actions;
  for (const v1::Decision& decision : explanation.decisions()) actions += decision.action() + " ";
  EXPECT_NE(actions.find("grant"), std::string::npos) << actions;
  EXPECT_NE(actions.find("merge"), std::string::npos) << actions;
}

// A request's answer, and what it should have been.
struct Refusal {
  grpc::Status got;
  grpc::StatusCode code;
  std::string says;
};
void expect_refusals(const std::vector<Refusal>& rows) {
  for (const Refusal& row : rows) {
    const std::string message = row.got.error_message();
    EXPECT_EQ(row.got.error_code(), row.code) << row.says << ": " << message;
    EXPECT_NE(message.find(row.says), std::string::npos) << row.says << ": " << message;
  }
}

TEST_F(ServiceTest, EveryBadVolumeRequestIsRefusedByValue) {
  agent_.connect(address_);
  create("data");
  agent_.wait_for_intents(2);  // the warm shadow's grant
  using Stub = v1::ControlService::Stub;
  const auto spoiled = [&](const std::function<void(v1::CreateVolumeRequest&)>& spoil) {
    v1::CreateVolumeRequest request = volume_request("other");
    spoil(request);
    v1::Volume reply;
    return call(&Stub::CreateVolume, request, &reply);
  };
  const auto named = [&](auto method, auto reply, const std::string& name) {
    v1::VolumeRequest request;
    request.set_name(name);
    return call(method, request, &reply);
  };
  const auto deleted = [&](const std::string& name) {
    v1::DeleteVolumeRequest request;
    request.set_name(name);
    v1::DeleteVolumeResponse reply;
    return call(&Stub::DeleteVolume, request, &reply);
  };
  expect_refusals({
      {spoiled([](auto& r) { r.set_name("Bad/Name"); }), grpc::INVALID_ARGUMENT, "Bad/Name"},
      {spoiled([](auto& r) { r.set_name(""); }), grpc::INVALID_ARGUMENT, "\"\""},
      {spoiled([](auto& r) { r.set_name("data"); }), grpc::ALREADY_EXISTS, "data"},
      {spoiled([](auto& r) { r.set_size(0); }), grpc::INVALID_ARGUMENT, "size 0B"},
      {spoiled([](auto& r) { r.set_size((1ull << 47) + 4096); }), grpc::INVALID_ARGUMENT, "140737488359424"},
      {spoiled([](auto& r) { r.set_size(kGiB + 1); }), grpc::INVALID_ARGUMENT, "1073741825"},
      {spoiled([](auto& r) { r.set_primary_size(8 * kMiB - 4096); }), grpc::INVALID_ARGUMENT, "8384512"},
      {spoiled([](auto& r) { r.set_primary_size(0); }), grpc::INVALID_ARGUMENT, "primary_size 0B"},
      {spoiled([](auto& r) { r.set_primary_size(UINT64_MAX); }), grpc::INVALID_ARGUMENT,
       "18446744073709551615"},
      {spoiled([](auto& r) { r.set_primary_size(4 * kTiB); }), grpc::RESOURCE_EXHAUSTED, "4398046511104"},
      {spoiled([](auto& r) { r.set_pool("nowhere"); }), grpc::NOT_FOUND,
       "nowhere\" does not exist; there are: default"},
      {spoiled([](auto& r) { r.set_pool("../etc"); }), grpc::INVALID_ARGUMENT, "../etc"},
      {spoiled([](auto& r) { r.set_redirect(static_cast<v1::RedirectMode>(9)); }), grpc::INVALID_ARGUMENT,
       "redirect 9"},
      {spoiled([](auto& r) { r.set_hold_timeout_ms(600'001); }), grpc::INVALID_ARGUMENT, "600001"},
      {spoiled([](auto& r) { r.set_name(std::string(5 << 20, 'a')); }), grpc::RESOURCE_EXHAUSTED,
       "larger than max"},
      {named(&Stub::GetVolume, v1::VolumeDetail(), "ghost"), grpc::NOT_FOUND,
       "ghost\" does not exist; there are: data"},
      {named(&Stub::GetVolume, v1::VolumeDetail(), "a b"), grpc::INVALID_ARGUMENT, "a b"},
      {deleted("ghost"), grpc::NOT_FOUND, "ghost"},
      {spoiled([](auto& r) { r.mutable_backpressure()->set_percent(101); }), grpc::INVALID_ARGUMENT, "101 %"},
      {[&] {
         v1::CheckVolumeRequest ghost;
         ghost.set_name("ghost");
         v1::CheckReport reply;
         return call(&Stub::CheckVolume, ghost, &reply);
       }(),
       grpc::NOT_FOUND, "ghost"},
      {named(&Stub::Explain, v1::Explanation(), "ghost"), grpc::NOT_FOUND, "ghost"},
  });
}

TEST_F(ServiceTest, EveryBadPoolOrShadowRequestIsRefusedByValue) {
  agent_.connect(address_);
  create("data");
  using Stub = v1::ControlService::Stub;
  const auto pool = [&](const std::string& name, const std::string& directory, uint64_t capacity,
                        const std::string& agent) {
    v1::AddPoolRequest request;
    request.set_name(name);
    request.set_directory(directory);
    request.set_capacity(capacity);
    request.set_agent_id(agent);
    v1::Pool reply;
    return call(&Stub::AddPool, request, &reply);
  };
  const auto grant = [&](const std::string& volume, uint64_t size, const std::string& from) {
    v1::GrantShadowRequest request;
    request.set_volume(volume);
    request.set_size(size);
    request.set_pool(from);
    v1::Volume reply;
    return call(&Stub::GrantShadow, request, &reply);
  };
  const auto merge = [&](const std::string& volume, uint32_t segment) {
    v1::MergeShadowRequest request;
    request.set_volume(volume);
    request.set_segment_id(segment);
    v1::Volume reply;
    return call(&Stub::MergeShadow, request, &reply);
  };
  const auto shadows = [&](const std::string& volume) {
    v1::ListShadowsRequest request;
    request.set_volume(volume);
    v1::ListShadowsResponse reply;
    return call(&Stub::ListShadows, request, &reply);
  };
  expect_refusals({
      {pool("Upper", "/p", 0, ""), grpc::INVALID_ARGUMENT, "Upper"},
      {pool("p", "relative", 0, ""), grpc::INVALID_ARGUMENT, "relative"},
      {pool("p", "", 0, ""), grpc::INVALID_ARGUMENT, "directory"},
      {pool("p", "/a\nb", 0, ""), grpc::INVALID_ARGUMENT, "\\x0a"},
      {pool("p", "/p", 4096, ""), grpc::INVALID_ARGUMENT, "4096"},
      {pool("p", "/p", 0, "agent-z"), grpc::NOT_FOUND, "agent-z"},
      {pool("default", "/p", 0, ""), grpc::ALREADY_EXISTS, "default"},
      {grant("ghost", 0, ""), grpc::NOT_FOUND, "ghost"},
      {grant("data", 4096, ""), grpc::INVALID_ARGUMENT, "4096"},
      {grant("data", 64 * kMiB + 1, ""), grpc::INVALID_ARGUMENT, "67108865"},
      {grant("data", 2 * kTiB, ""), grpc::RESOURCE_EXHAUSTED, "2199023255552"},
      {grant("data", 64 * kMiB, "nowhere"), grpc::NOT_FOUND, "nowhere"},
      {grant("data", 64 * kMiB, "No"), grpc::INVALID_ARGUMENT, "No"},
      {merge("ghost", 0), grpc::NOT_FOUND, "ghost"},
      {merge("data", 77), grpc::NOT_FOUND, "77"},
      {shadows("ghost"), grpc::NOT_FOUND, "ghost"},
      {shadows("a/b"), grpc::INVALID_ARGUMENT, "a/b"},
  });
}

TEST_F(ServiceTest, WithoutAnAgentRequestsAreUnavailable) {
  v1::Volume volume;
  EXPECT_EQ(call(&v1::ControlService::Stub::CreateVolume, volume_request("data"), &volume).error_code(),
            grpc::UNAVAILABLE);
  agent_.connect(address_);
  create("data");
  agent_.disconnect();
  Follower(*stub_, "").wait_for("agent.disconnected");
  v1::GrantShadowRequest grant;
  grant.set_volume("data");
  grant.set_size(64 * kMiB);
  const grpc::Status status = call(&v1::ControlService::Stub::GrantShadow, grant, &volume);
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("agent-a"), std::string::npos);
  // What is known is still told.
  EXPECT_EQ(get("data").volume().name(), "data");
}

TEST_F(ServiceTest, EveryRequestByHandWorks) {
  using Stub = v1::ControlService::Stub;
  agent_.connect(address_);
  v1::AddPoolRequest add;
  add.set_name("fast");
  add.set_directory("/pools/fast");
  add.set_capacity(kGiB);
  v1::Pool pool;
  ASSERT_TRUE(call(&Stub::AddPool, add, &pool).ok());
  EXPECT_EQ(pool.capacity(), kGiB);
  EXPECT_EQ(pool.agent_id(), "agent-a");
  v1::ListPoolsResponse pools;
  ASSERT_TRUE(call(&Stub::ListPools, v1::ListPoolsRequest(), &pools).ok());
  EXPECT_EQ(pools.pools_size(), 2);
  create("data");
  Follower(*stub_, "data").wait_for("shadow.warm");
  v1::GrantShadowRequest grant;
  grant.set_volume("data");
  grant.set_pool("fast");
  v1::Volume volume;
  grpc::Status status = call(&Stub::GrantShadow, grant, &volume);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(volume.segments(2).pool(), "fast");
  v1::ListShadowsResponse shadows;
  ASSERT_TRUE(call(&Stub::ListShadows, v1::ListShadowsRequest(), &shadows).ok());
  EXPECT_EQ(shadows.shadows_size(), 2);
  v1::MergeShadowRequest merge;
  merge.set_volume("data");
  merge.set_segment_id(2);
  ASSERT_TRUE(call(&Stub::MergeShadow, merge, &volume).ok());
  EXPECT_EQ(volume.segments(2).state(), v1::SEGMENT_STATE_MERGED);
  EXPECT_TRUE(call(&Stub::MergeShadow, merge, &volume).ok()) << "a repeat of what is done succeeds";
  v1::VolumeRequest named;
  named.set_name("data");
  v1::ScrubVolumeRequest scrub;
  scrub.set_name("data");
  scrub.set_rate(1 << 20);
  ASSERT_TRUE(call(&Stub::ScrubVolume, scrub, &volume).ok());
  EXPECT_TRUE(volume.scrub().running());
  scrub.set_stop(true);
  EXPECT_EQ(call(&Stub::ScrubVolume, scrub, &volume).error_code(), grpc::INVALID_ARGUMENT);
  scrub.set_rate(0);
  ASSERT_TRUE(call(&Stub::ScrubVolume, scrub, &volume).ok());
  EXPECT_FALSE(volume.scrub().running());
  scrub.set_rate(~0ull);
  EXPECT_EQ(call(&Stub::ScrubVolume, scrub, &volume).error_code(), grpc::INVALID_ARGUMENT);
  v1::CheckReport check;
  v1::CheckVolumeRequest checked;
  checked.set_name("data");
  ASSERT_TRUE(call(&Stub::CheckVolume, checked, &check).ok());
  EXPECT_EQ(check.clusters_mapped(), 7u);
  v1::DeleteVolumeRequest gone;
  gone.set_name("data");
  v1::DeleteVolumeResponse deleted;
  ASSERT_TRUE(call(&Stub::DeleteVolume, gone, &deleted).ok());
  v1::ListVolumesResponse volumes;
  ASSERT_TRUE(call(&Stub::ListVolumes, v1::ListVolumesRequest(), &volumes).ok());
  EXPECT_EQ(volumes.volumes_size(), 0);
  v1::StatusReport report;
  ASSERT_TRUE(call(&Stub::GetStatus, v1::GetStatusRequest(), &report).ok());
  ASSERT_EQ(report.agents_size(), 1);
  EXPECT_EQ(report.agents(0), "agent-a");
}

TEST_F(ServiceTest, TheAgentsRefusalReachesTheRequester) {
  agent_.connect(address_);
  create("data");
  Follower(*stub_, "data").wait_for("shadow.warm");
  agent_.refuse(grpc::RESOURCE_EXHAUSTED, "pool default: 3 bytes left");
  v1::GrantShadowRequest grant;
  grant.set_volume("data");
  v1::Volume volume;
  const grpc::Status status = call(&v1::ControlService::Stub::GrantShadow, grant, &volume);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "pool default: 3 bytes left");
  Follower(*stub_, "data").wait_for("grant.refused");
}

TEST_F(ServiceTest, ARestartForgetsNothingAndSendsAgainWhatWasNotAnswered) {
  agent_.connect(address_);
  const v1::Volume volume = create("data");
  Follower(*stub_, "data").wait_for("shadow.warm");
  agent_.set_silent(true);
  auto asked = std::async(std::launch::async, [&] {
    v1::GrantShadowRequest grant;
    grant.set_volume("data");
    grant.set_size(64 * kMiB);
    v1::Volume reply;
    return call(&v1::ControlService::Stub::GrantShadow, grant, &reply);
  });
  const v1::Intent before = agent_.wait_for_intents(3);
  // Sent, not answered: the agent has done the work when control goes away.
  agent_.with([&](ScriptedAgent& script) { return script.answer(before); });
  restart();
  EXPECT_EQ(asked.get().error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(get("data").volume().id(), volume.id());
  agent_.set_silent(false);
  agent_.connect(address_);
  const v1::Intent again = agent_.wait_for_intents(4);
  EXPECT_EQ(again.id(), before.id());
  EXPECT_EQ(again.grant_shadow().segment_uuid(), before.grant_shadow().segment_uuid());
  Follower events(*stub_, "data");
  events.wait_for("shadow.warm");
  EXPECT_EQ(events.wait_for("shadow.warm").segment_id(), 2u);
  EXPECT_EQ(get("data").volume().segments_size(), 3);
  EXPECT_EQ(agent_.with([](ScriptedAgent& script) { return script.repeats; }), 1u);
}

TEST_F(ServiceTest, ALostDatabaseIsRebuiltByTheAgentsHello) {
  agent_.connect(address_);
  create("data");
  Follower(*stub_, "data").wait_for("shadow.warm");
  agent_.disconnect();
  server_.reset();
  std::filesystem::remove_all(scratch_.path("state"));
  start();
  agent_.connect(address_);
  const v1::Volume volume = get("data").volume();
  EXPECT_EQ(volume.segments_size(), 2);
  EXPECT_EQ(volume.segments(1).state(), v1::SEGMENT_STATE_WARM);
  Follower(*stub_, "data").wait_for("volume.adopted");
}

TEST_F(ServiceTest, EventsResumeAfterASequenceNumber) {
  agent_.connect(address_);
  create("data");
  const v1::Event warm = Follower(*stub_, "").wait_for("shadow.warm");
  v1::WatchEventsRequest request;
  request.set_after_sequence(warm.sequence() - 1);
  grpc::ClientContext context;
  auto reader = stub_->WatchEvents(&context, request);
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.sequence(), warm.sequence());
  while (reader->Read(&event)) continue;
  EXPECT_TRUE(reader->Finish().ok());
  request.set_volume("No/Name");
  grpc::ClientContext bad;
  auto refused = stub_->WatchEvents(&bad, request);
  EXPECT_FALSE(refused->Read(&event));
  EXPECT_EQ(refused->Finish().error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, NonsenseMetricsOverTheWireAreAnEventAndNoDecision) {
  agent_.connect(address_);
  const v1::Volume volume = create("data");
  Follower events(*stub_, "");
  events.wait_for("shadow.warm");
  agent_.send(agent_.with(
      [&](ScriptedAgent& script) { return script.metrics(volume.id(), 1'700'000'000'000, 1ull << 60, 1); }));
  EXPECT_NE(events.wait_for("metrics.refused").message().find("1152921504606846976"), std::string::npos);
  EXPECT_EQ(get("data").forecast().samples(), 0u);
}

class ImpatientServiceTest : public ServiceTest {
 protected:
  ImpatientServiceTest() {
    server_.reset();
    ack_timeout_ = std::chrono::milliseconds(50);
    start();
  }
};

TEST_F(ImpatientServiceTest, AnUnansweredRequestTimesOutAndIsFinishedLater) {
  agent_.set_silent(true);
  agent_.connect(address_);
  v1::Volume volume;
  EXPECT_EQ(call(&v1::ControlService::Stub::CreateVolume, volume_request("data"), &volume).error_code(),
            grpc::DEADLINE_EXCEEDED);
  EXPECT_EQ(call(&v1::ControlService::Stub::CreateVolume, volume_request("data"), &volume).error_code(),
            grpc::ALREADY_EXISTS);
  agent_.answer(agent_.wait_for_intents(1));
  Follower(*stub_, "data").wait_for("volume.created");
  EXPECT_EQ(get("data").volume().name(), "data");
}

TEST_F(ImpatientServiceTest, WorkThatCopiesIsWaitedForAsLongAsItTakes) {
  agent_.connect(address_);
  agent_.with([](ScriptedAgent& agent) { agent.add_pool("default", 1ull << 40); });
  v1::Volume volume;
  (void)call(&v1::ControlService::Stub::CreateVolume, volume_request("data"), &volume);
  Follower events(*stub_, "data");
  events.wait_for("shadow.warm");
  agent_.send(agent_.with([](ScriptedAgent& agent) {
    return agent.event(agent.volumes.begin()->first, v1::VolumeEvent::KIND_REDIRECTED, 1,
                       v1::SEGMENT_STATE_ACTIVE);
  }));
  events.wait_for("shadow.warm");
  agent_.set_silent(true);
  std::thread agent([&] {
    v1::Intent fold;
    for (size_t count = 4; !fold.has_fold_shadow(); ++count) fold = agent_.wait_for_intents(count);
    std::this_thread::sleep_for(4 * ack_timeout_);
    agent_.answer(fold);
  });
  v1::SegmentRequest request;
  request.set_volume("data");
  const grpc::Status folded = call(&v1::ControlService::Stub::FoldShadow, request, &volume);
  agent.join();
  ASSERT_TRUE(folded.ok()) << folded.error_message();
  ASSERT_GE(volume.segments_size(), 2);
  EXPECT_EQ(volume.segments(1).id(), 2u);
  // The caller's own deadline still counts.
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 4 * ack_timeout_);
  request.set_segment_id(2);
  EXPECT_EQ(stub_->DrainSegment(&context, request, &volume).error_code(), grpc::DEADLINE_EXCEEDED);
}

}  // namespace
}  // namespace foreshadow::control
