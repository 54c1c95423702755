// The agent on a real loop and real files, told what to do over real gRPC, read and written over real NBD.
#include "agent/agent.h"

#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "agent/agent_fixture.h"

namespace foreshadow::agent {
namespace {

TEST_F(AgentTest, SaysHelloWithItsPoolsAndAnIdThatStays) {
  const v1::Hello first = start_both();
  EXPECT_TRUE(Uuid::parse(first.agent_id()));
  ASSERT_EQ(first.pools_size(), 1);
  EXPECT_EQ(first.pools(0).name(), "default");
  EXPECT_GT(first.pools(0).capacity(), 0u);
  EXPECT_EQ(restart().agent_id(), first.agent_id());
}

TEST_F(AgentTest, CreatesAVolumeAndServesIt) {
  start_both();
  const std::string id = fresh_uuid();
  const v1::Ack ack = control_->ask(create_intent(id, "db"));
  ASSERT_EQ(ack.code(), 0) << ack.message();
  EXPECT_EQ(ack.volume().id(), id);
  EXPECT_EQ(ack.volume().size(), kSize);
  EXPECT_EQ(ack.volume().uri(), "nbd+unix:///db?socket=" + nbd_socket());
  ASSERT_EQ(ack.volume().segments_size(), 1);
  EXPECT_EQ(ack.volume().segments(0).role(), v1::SEGMENT_ROLE_PRIMARY);
  EXPECT_EQ(ack.volume().segments(0).pool(), "default");
  ASSERT_EQ(ack.pools_size(), 1);
  EXPECT_EQ(ack.pools(0).used(), kPrimary);

  Client client(nbd_socket(), "db");
  ASSERT_TRUE(client.connected());
  EXPECT_EQ(client.size(), kSize);
  const std::string data(8192, 'x');
  ASSERT_TRUE(client.write(kMiB, data));
  EXPECT_EQ(client.read(kMiB, data.size()), data);
  EXPECT_EQ(client.read(0, 512), std::string(512, '\0'));
}

TEST_F(AgentTest, ARepeatedIntentGetsItsFirstAnswer) {
  start_both();
  const v1::Intent create = create_intent(fresh_uuid(), "db");
  const v1::Ack first = control_->ask(create);
  const v1::Ack second = control_->ask(create);
  EXPECT_EQ(first.code(), 0);
  EXPECT_EQ(first.SerializeAsString(), second.SerializeAsString());
  EXPECT_EQ(backings().size(), 1u);
}

TEST_F(AgentTest, GrantsActivatesAndMergesOnceEachHoweverOftenAsked) {
  start_both();
  const std::string volume = create("db");
  const std::string shadow = fresh_uuid();
  // With the same intent id, and with a new one for the same effect; state after each step.
  const auto expect_state = [&](const v1::Ack& ack, v1::SegmentState state) {
    ASSERT_EQ(ack.code(), 0) << ack.message();
    ASSERT_EQ(ack.volume().segments_size(), 2);
    EXPECT_EQ(ack.volume().segments(1).uuid(), shadow);
    EXPECT_EQ(ack.volume().segments(1).state(), state);
  };
  const v1::Intent grant = grant_intent(volume, shadow);
  const v1::Ack granted = control_->ask(grant);
  expect_state(granted, v1::SEGMENT_STATE_WARM);
  EXPECT_GT(granted.elapsed_us(), 0u);
  expect_state(control_->ask(grant), v1::SEGMENT_STATE_WARM);
  expect_state(control_->ask(grant_intent(volume, shadow)), v1::SEGMENT_STATE_WARM);
  for (int i = 0; i < 2; ++i) {
    expect_state(control_->ask(activate_intent(volume, shadow)), v1::SEGMENT_STATE_ACTIVE);
  }
  // The outcome of an old intent again, with what the volume looks like now.
  expect_state(control_->ask(grant), v1::SEGMENT_STATE_ACTIVE);
  Client client(nbd_socket(), "db");
  const std::string data(65536, 's');
  ASSERT_TRUE(client.write(0, data));
  for (int i = 0; i < 2; ++i) {
    expect_state(control_->ask(merge_intent(volume, shadow)), v1::SEGMENT_STATE_MERGED);
  }
  EXPECT_EQ(client.read(0, data.size()), data);
  EXPECT_EQ(backings().size(), 2u);
}

// A grant looks at its pool before it answers, and merges end meanwhile: whatever order the answers come in,
// none tells of an older state than the one before it.
TEST_F(AgentTest, NoReportIsOlderThanTheOneBeforeIt) {
  using std::chrono::milliseconds;
  constexpr int kShadows = 16;
  start_both();
  const std::string volume = create("db");
  std::vector<std::string> warm;
  for (int i = 0; i < kShadows; ++i) {
    warm.push_back(fresh_uuid());
    ASSERT_EQ(control_->ask(grant_intent(volume, warm.back())).code(), 0);
  }
  // Every look at a pool takes a while from here on.
  std::atomic<bool> slow = true;
  std::function<void()> slow_down = [&] {
    if (slow) loop_.loop().offload([] { std::this_thread::sleep_for(milliseconds(4)); }, slow_down);
  };
  loop_.call(slow_down);

  std::set<std::string> waiting;
  const auto send = [&](const v1::Intent& wanted) {
    waiting.insert(wanted.id());
    control_->send(wanted);
  };
  send(grant_intent(volume, fresh_uuid()));
  for (const std::string& shadow : warm) {
    send(merge_intent(volume, shadow));
    std::this_thread::sleep_for(milliseconds(2));
  }
  std::map<std::string, v1::SegmentState> newest;
  EXPECT_TRUE(control_->wait_for([&](const v1::AgentMessage& message) {
    if (!message.has_ack()) return false;
    EXPECT_EQ(message.ack().code(), 0) << message.ack().message();
    for (const v1::Segment& segment : message.ack().volume().segments()) {
      v1::SegmentState& state = newest[segment.uuid()];
      EXPECT_GE(segment.state(), state) << segment.uuid();
      state = segment.state();
    }
    waiting.erase(message.ack().intent_id());
    return waiting.empty();
  }));
  EXPECT_EQ(newest.size(), static_cast<size_t>(kShadows) + 2);
  loop_.call([&] { slow = false; });
}

TEST_F(AgentTest, TellsOfARedirectAtOnce) {
  start_both();
  const std::string volume = create("db");
  const std::string shadow = fresh_uuid();
  ASSERT_EQ(control_->ask(grant_intent(volume, shadow)).code(), 0);
  control_->send(activate_intent(volume, shadow));
  const auto redirected = control_->wait_for([](const v1::AgentMessage& m) {
    return m.has_event() && m.event().kind() == v1::VolumeEvent::KIND_REDIRECTED;
  });
  ASSERT_TRUE(redirected);
  EXPECT_EQ(redirected->event().segment_id(), 1u);
  EXPECT_EQ(redirected->event().volume().id(), volume);
  EXPECT_TRUE(control_->wait_for([](const v1::AgentMessage& m) {
    return m.has_event() && m.event().kind() == v1::VolumeEvent::KIND_SHADOW_NEEDED;
  }));
}

TEST_F(AgentTest, ReportsWhatWasWritten) {
  start_both();
  const std::string volume = create("db");
  Client client(nbd_socket(), "db");
  ASSERT_TRUE(client.write(0, std::string(128 * kKiB, 'm')));
  uint64_t written = 0;
  uint64_t allocated = 0;
  const auto enough = control_->wait_for([&](const v1::AgentMessage& m) {
    if (!m.has_metrics()) return false;
    for (const v1::VolumeMetrics& v : m.metrics().volumes()) {
      written += v.write_bytes();
      allocated += v.allocated_bytes();
    }
    return written >= 128 * kKiB;
  });
  ASSERT_TRUE(enough);
  EXPECT_EQ(written, 128 * kKiB);
  EXPECT_EQ(allocated, 128 * kKiB);
  EXPECT_EQ(enough->metrics().volumes(0).used(), 128 * kKiB);
}

TEST_F(AgentTest, KeepsVolumesAndTheirDataOverARestart) {
  start_both();
  const std::string volume = create("db");
  const std::string shadow = fresh_uuid();
  ASSERT_EQ(control_->ask(grant_intent(volume, shadow)).code(), 0);
  const std::string data(4096, 'k');
  {
    Client client(nbd_socket(), "db");
    ASSERT_TRUE(client.write(12 * kMiB, data));
  }
  const v1::Hello hello = restart();
  ASSERT_EQ(hello.volumes_size(), 1);
  EXPECT_EQ(hello.volumes(0).id(), volume);
  EXPECT_EQ(hello.volumes(0).segments_size(), 2);
  EXPECT_EQ(hello.volumes(0).used(), 64 * kKiB);
  Client client(nbd_socket(), "db");
  EXPECT_EQ(client.read(12 * kMiB, data.size()), data);
  // The answers are forgotten, the effect is not.
  EXPECT_EQ(control_->ask(grant_intent(volume, shadow)).code(), 0);
  EXPECT_EQ(backings().size(), 2u);
}

TEST_F(AgentTest, RemovesBackingsThatWereNeverAttached) {
  start_both();
  const std::string volume = create("db");
  ASSERT_TRUE(stop());
  const fs::path orphan = dir_ / "pool" / (volume + "." + fresh_uuid() + ".seg");
  {
    std::ofstream(orphan).put('\0');
  }
  fs::resize_file(orphan, kShadow);
  const fs::path other = dir_ / "pool" / "notes.txt";
  {
    std::ofstream(other) << "not ours";
  }
  ASSERT_TRUE(start(options()));
  EXPECT_EQ(control_->wait_for_hello().volumes_size(), 1);
  EXPECT_FALSE(fs::exists(orphan));
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(AgentTest, RemovesAVolumeWhoseCreationWasInterrupted) {
  const std::string id = fresh_uuid();
  fs::create_directories(dir_ / "state");
  std::ofstream(dir_ / "state" / "agent.json") << fmt::format(
      R"({{"agent_id":"{}","volumes":[{{"id":"{}","name":"half","phase":"VOLUME_PHASE_CREATING"}}]}})",
      fresh_uuid(), id);
  const fs::path backing = dir_ / "pool" / (id + "." + fresh_uuid() + ".seg");
  {
    std::ofstream(backing).put('\0');
  }
  EXPECT_EQ(start_both().volumes_size(), 0);
  EXPECT_FALSE(fs::exists(backing));
  const v1::Ack again = control_->ask(create_intent(id, "half"));
  EXPECT_EQ(again.code(), 0) << again.message();
}

TEST_F(AgentTest, DeletesAVolumeWithAllItsBackings) {
  start_both();
  const std::string volume = create("db");
  ASSERT_EQ(control_->ask(grant_intent(volume, fresh_uuid())).code(), 0);
  Client client(nbd_socket(), "db");
  ASSERT_TRUE(client.connected());
  for (int i = 0; i < 2; ++i) {
    v1::Intent remove = intent();
    remove.mutable_delete_volume()->set_volume_id(volume);
    const v1::Ack ack = control_->ask(remove);
    EXPECT_EQ(ack.code(), 0) << ack.message();
  }
  EXPECT_TRUE(backings().empty());
  EXPECT_FALSE(Client(nbd_socket(), "db").connected());
  EXPECT_EQ(restart().volumes_size(), 0);
}

TEST_F(AgentTest, ChecksAVolumeInService) {
  start_both();
  const std::string volume = create("db");
  ASSERT_TRUE(Client(nbd_socket(), "db").write(0, std::string(4096, 'c')));
  v1::Intent check = intent();
  check.mutable_check_volume()->set_volume_id(volume);
  const v1::Ack ack = control_->ask(check);
  ASSERT_EQ(ack.code(), 0) << ack.message();
  EXPECT_TRUE(ack.check().ok());
  EXPECT_EQ(ack.check().clusters_mapped(), 1u);
}

TEST_F(AgentTest, RefusesWithTheReason) {
  start_both();
  const std::string volume = create("db");
  std::vector<std::pair<v1::Intent, Code>> cases;
  cases.emplace_back(create_intent(fresh_uuid(), "db"), Code::kAlreadyExists);
  cases.emplace_back(create_intent(fresh_uuid(), "Not A Name"), Code::kInvalidArgument);
  cases.emplace_back(create_intent("not a uuid", "db2"), Code::kInvalidArgument);
  v1::Intent small = create_intent(fresh_uuid(), "small");
  small.mutable_create_volume()->set_primary_size(kMiB);
  cases.emplace_back(small, Code::kInvalidArgument);
  v1::Intent nowhere = create_intent(fresh_uuid(), "nowhere");
  nowhere.mutable_create_volume()->set_pool("no-such-pool");
  cases.emplace_back(nowhere, Code::kNotFound);
  cases.emplace_back(grant_intent(fresh_uuid(), fresh_uuid()), Code::kNotFound);
  cases.emplace_back(grant_intent(volume, fresh_uuid(), 1 * kMiB), Code::kInvalidArgument);
  cases.emplace_back(activate_intent(volume, fresh_uuid()), Code::kNotFound);
  cases.emplace_back(merge_intent(volume, fresh_uuid()), Code::kNotFound);
  v1::Intent bad_pool = intent();
  bad_pool.mutable_add_pool()->set_name("other");
  bad_pool.mutable_add_pool()->set_directory((dir_ / "absent").string());
  cases.emplace_back(bad_pool, Code::kNotFound);
  v1::Intent same_directory = intent();
  same_directory.mutable_add_pool()->set_name("other");
  same_directory.mutable_add_pool()->set_directory((dir_ / "pool" / ".").string());
  cases.emplace_back(same_directory, Code::kAlreadyExists);
  v1::Intent in_use = intent();
  in_use.mutable_remove_pool()->set_name("default");
  cases.emplace_back(in_use, Code::kFailedPrecondition);
  cases.emplace_back(intent(), Code::kUnsupported);
  for (const auto& [asked, code] : cases) {
    const v1::Ack ack = control_->ask(asked);
    EXPECT_EQ(ack.code(), row_of(code).grpc_status) << asked.ShortDebugString() << ": " << ack.message();
    EXPECT_FALSE(ack.message().empty());
  }
  EXPECT_EQ(backings().size(), 1u);
}

TEST_F(AgentTest, AFullPoolRefusesAndIsLeftAsItWas) {
  start_both();
  v1::Intent add = intent();
  add.mutable_add_pool()->set_name("tiny");
  add.mutable_add_pool()->set_directory((dir_ / "pool2").string());
  add.mutable_add_pool()->set_capacity(kPrimary + kShadow);
  ASSERT_EQ(control_->ask(add).code(), 0);
  v1::Intent create = create_intent(fresh_uuid(), "db");
  create.mutable_create_volume()->set_pool("tiny");
  const v1::Ack created = control_->ask(create);
  ASSERT_EQ(created.code(), 0) << created.message();
  const std::string volume = created.volume().id();
  v1::Intent grant = grant_intent(volume, fresh_uuid(), 2 * kShadow);
  grant.mutable_grant_shadow()->set_pool("tiny");
  const v1::Ack refused = control_->ask(grant);
  EXPECT_EQ(refused.code(), row_of(Code::kNoSpace).grpc_status);
  EXPECT_EQ(refused.volume().segments_size(), 1);
  grant = grant_intent(volume, fresh_uuid(), kShadow);
  grant.mutable_grant_shadow()->set_pool("tiny");
  EXPECT_EQ(control_->ask(grant).code(), 0);
}

TEST_F(AgentTest, ADamagedVolumeIsToldAndTheOthersAreServed) {
  start_both();
  const std::string bad = create("bad");
  const std::string good = create("good");
  ASSERT_TRUE(Client(nbd_socket(), "good").write(0, std::string(4096, 'g')));
  ASSERT_TRUE(stop());
  for (const std::string& name : backings()) {
    if (!name.starts_with(bad)) continue;
    // Everything but the labels.
    std::fstream file(dir_ / "pool" / name, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(8192);
    file << std::string(32768, '#');
  }
  ASSERT_TRUE(start(options()));
  const auto event = control_->wait_for([](const v1::AgentMessage& m) {
    return m.has_event() && m.event().kind() == v1::VolumeEvent::KIND_READ_ONLY;
  });
  ASSERT_TRUE(event);
  EXPECT_EQ(event->event().volume().id(), bad);
  EXPECT_EQ(event->event().volume().name(), "bad");
  EXPECT_NE(event->event().message().find("cannot be opened"), std::string::npos);
  EXPECT_EQ(Client(nbd_socket(), "good").read(0, 4096), std::string(4096, 'g'));
  EXPECT_FALSE(Client(nbd_socket(), "bad").connected());
  // It is still one that can be removed.
  v1::Intent remove = intent();
  remove.mutable_delete_volume()->set_volume_id(bad);
  EXPECT_EQ(control_->ask(remove).code(), 0);
  EXPECT_EQ(backings().size(), 1u);
}

TEST_F(AgentTest, AVolumeThatMissesASegmentKeepsItsFactsAndComesBackWithIt) {
  start_both();
  const std::string volume = create("db");
  const std::string shadow = fresh_uuid();
  ASSERT_EQ(control_->ask(grant_intent(volume, shadow)).code(), 0);
  ASSERT_TRUE(stop());
  const std::string file = volume + "." + shadow + ".seg";
  fs::rename(dir_ / "pool" / file, dir_ / "pool2" / file);
  ASSERT_TRUE(start(options()));
  const v1::Hello hello = control_->wait_for_hello();
  ASSERT_EQ(hello.volumes_size(), 1);
  EXPECT_EQ(hello.volumes(0).size(), kSize);
  EXPECT_EQ(hello.volumes(0).uri(), "");
  EXPECT_NE(hello.volumes(0).read_only_reason().find(shadow), std::string::npos);
  // The pool that has it brings it back.
  v1::Intent add = intent();
  add.mutable_add_pool()->set_name("second");
  add.mutable_add_pool()->set_directory((dir_ / "pool2").string());
  ASSERT_EQ(control_->ask(add).code(), 0);
  EXPECT_TRUE(Client(nbd_socket(), "db").connected());
}

TEST_F(AgentTest, ServesOnWhileControlIsAwayAndComesBackToIt) {
  start_both();
  create("db");
  control_.reset();
  Client client(nbd_socket(), "db");
  ASSERT_TRUE(client.write(0, std::string(4096, 'a')));
  EXPECT_EQ(client.read(0, 4096), std::string(4096, 'a'));
  start_control();
  const v1::Hello hello = control_->wait_for_hello();
  ASSERT_EQ(hello.volumes_size(), 1);
  EXPECT_EQ(hello.volumes(0).used(), 64 * kKiB);
  EXPECT_EQ(control_->ask(grant_intent(hello.volumes(0).id(), fresh_uuid())).code(), 0);
}

TEST_F(AgentTest, StartsWithoutControl) {
  ASSERT_TRUE(start(options()));
  EXPECT_EQ(agent_->volume_count(), 0u);
  start_control();
  EXPECT_FALSE(control_->wait_for_hello().agent_id().empty());
}

TEST_F(AgentTest, OneAgentForOneStateDirectory) {
  ASSERT_TRUE(start(options()));
  Options second = options();
  second.nbd_socket += "2";
  const auto refused =
      loop_.wait<Result<std::unique_ptr<Agent>>>([&] { return Agent::start(loop_.loop(), second); });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kBusy);
  EXPECT_NE(refused.error().message.find(second.state_dir), std::string::npos);
}

TEST_F(AgentTest, APoolThatIsGoneDoesNotKeepItFromStarting) {
  start_both();
  ASSERT_TRUE(stop());
  fs::remove_all(dir_ / "pool");
  ASSERT_TRUE(start(options()));
  const v1::Hello hello = control_->wait_for_hello();
  ASSERT_EQ(hello.pools_size(), 1);
  EXPECT_EQ(hello.pools(0).capacity(), 0u);
  const v1::Ack ack = control_->ask(create_intent(fresh_uuid(), "db"));
  EXPECT_EQ(ack.code(), row_of(Code::kUnavailable).grpc_status);
  // Once it is there again, adding it again makes it usable.
  fs::create_directories(dir_ / "pool");
  v1::Intent add = intent();
  add.mutable_add_pool()->set_name("default");
  add.mutable_add_pool()->set_directory((dir_ / "pool").string());
  ASSERT_EQ(control_->ask(add).code(), 0);
  EXPECT_EQ(control_->ask(create_intent(fresh_uuid(), "db")).code(), 0);
}

}  // namespace
}  // namespace foreshadow::agent
