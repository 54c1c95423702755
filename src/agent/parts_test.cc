// The agent's small parts, each alone.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "agent/answers.h"
#include "agent/catalog.h"
#include "agent/send_queue.h"
#include "agent/state_dir.h"
#include "agent/telemetry.h"
#include "agent/volume_report.h"

namespace foreshadow::agent {
namespace {

v1::AgentMessage ack_message(const std::string& id) {
  v1::AgentMessage out;
  out.mutable_ack()->set_intent_id(id);
  return out;
}

TEST(SendQueue, KeepsTheNewestMetricsAndEveryReportUpToItsBound) {
  SendQueue queue(2, 2);
  for (uint64_t i = 1; i <= 3; ++i) {
    v1::Metrics metrics;
    metrics.set_time_ms(i);
    queue.push_metrics(metrics);
  }
  EXPECT_TRUE(queue.push(ack_message("a")));
  EXPECT_TRUE(queue.push(ack_message("b")));
  EXPECT_EQ(queue.pop()->ack().intent_id(), "a");
  queue.put_back(ack_message("a"));
  EXPECT_EQ(queue.pop()->ack().intent_id(), "a");
  EXPECT_EQ(queue.pop()->ack().intent_id(), "b");
  EXPECT_EQ(queue.pop()->metrics().time_ms(), 2u);
  EXPECT_EQ(queue.pop()->metrics().time_ms(), 3u);
  EXPECT_FALSE(queue.pop());
}

TEST(SendQueue, PastItsBoundItStartsAnew) {
  SendQueue queue(2, 2);
  EXPECT_TRUE(queue.push(ack_message("a")));
  EXPECT_TRUE(queue.push(ack_message("b")));
  EXPECT_FALSE(queue.push(ack_message("c")));
  EXPECT_TRUE(queue.empty());
}

TEST(SendQueue, WhatWasQueuedIsNoOlderThanTheHello) {
  SendQueue queue(8, 8);
  v1::AgentMessage event;
  event.mutable_event()->set_message("kept");
  event.mutable_event()->mutable_volume()->set_id("v");
  event.mutable_event()->mutable_volume()->set_used(1);
  queue.push(event);
  queue.push_metrics({});
  v1::Hello hello;
  hello.add_volumes()->set_id("v");
  hello.mutable_volumes(0)->set_used(7);
  queue.prepare_for(hello);
  const auto sent = queue.pop();
  EXPECT_EQ(sent->event().message(), "kept");
  EXPECT_EQ(sent->event().volume().used(), 7u);
  EXPECT_TRUE(queue.empty());
}

TEST(Answers, ForgetsTheOldestPastItsBound) {
  Answers answers(2);
  for (const char* id : {"a", "b", "c"}) {
    v1::Ack ack;
    ack.set_intent_id(id);
    answers.add(ack);
  }
  EXPECT_EQ(answers.find("a"), nullptr);
  EXPECT_NE(answers.find("b"), nullptr);
  EXPECT_NE(answers.find("c"), nullptr);
  EXPECT_EQ(answers.size(), 2u);
}

TEST(Backing, NamesAreParsedAndNothingElseIs) {
  SeededRng rng(1);
  const Backing backing{Uuid::random(rng), Uuid::random(rng), "p"};
  const auto parsed = Backing::parse(backing.name(), "p");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->volume, backing.volume);
  EXPECT_EQ(parsed->segment, backing.segment);
  for (const std::string& bad :
       {std::string(), std::string("x"), backing.name() + "x", backing.name().substr(1),
        std::string(36, '0') + "." + std::string(36, 'z')}) {
    EXPECT_FALSE(Backing::parse(bad, "p")) << bad;
  }
}

TEST(NbdUri, EncodesThePath) {
  EXPECT_EQ(nbd_unix_uri("db", {"/run/nbd.sock"}), "nbd+unix:///db?socket=/run/nbd.sock");
  EXPECT_EQ(nbd_unix_uri("db", {"/a b&c%"}), "nbd+unix:///db?socket=/a%20b%26c%25");
  EXPECT_EQ(nbd_unix_uri("db", {"/run/nbd.sock", true}), "nbds+unix:///db?socket=/run/nbd.sock");
}

TEST(Metrics, AreTheDifferenceOfTwoCounts) {
  block::IoStats before;
  before.write_ops = 5;
  before.write_latency_us.add(100);
  block::IoStats now = before;
  now.write_ops = 9;
  now.read_ops = 4;
  now.sequential_ops = 6;
  now.holds = 2;
  now.hold_us_max = 77;
  now.write_latency_us.add(3);
  const v1::VolumeMetrics metrics = make_metrics(Uuid{}, {}, before, now);
  EXPECT_EQ(metrics.write_ops(), 4u);
  EXPECT_EQ(metrics.holds(), 2u);
  EXPECT_EQ(metrics.hold_us_max(), 77u);
  EXPECT_DOUBLE_EQ(metrics.sequential_share(), 0.75);
  ASSERT_EQ(metrics.write_latency_us_histogram_size(), 2);
  EXPECT_EQ(metrics.write_latency_us_histogram(1), 1u);
  EXPECT_EQ(metrics.read_latency_us_histogram_size(), 0);
}

class StateDirTest : public ::testing::Test {
 protected:
  StateDirTest() : dir_(std::filesystem::current_path() / fmt::format("s.{}", ::getpid())) {}
  ~StateDirTest() override { std::filesystem::remove_all(dir_); }
  std::filesystem::path dir_;
};

TEST_F(StateDirTest, GivesBackWhatWasSaved) {
  auto dir = StateDir::open(dir_.string());
  ASSERT_TRUE(dir);
  EXPECT_EQ(dir->load()->agent_id(), "");
  state::AgentState state;
  state.set_agent_id("a");
  state.add_volumes()->set_phase(state::VOLUME_PHASE_DELETING);
  ASSERT_TRUE(dir->save(state));
  EXPECT_EQ(StateDir::load_state(dir_.string())->SerializeAsString(), state.SerializeAsString());
  EXPECT_FALSE(std::filesystem::exists(dir_ / "agent.json.new"));
  const auto second = StateDir::open(dir_.string());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kBusy);
}

TEST_F(StateDirTest, RefusesWhatItCannotUnderstand) {
  auto dir = StateDir::open(dir_.string());
  ASSERT_TRUE(dir);
  for (const std::string& text :
       {std::string("not json"), std::string("{\"pools\": 3}"), std::string(5u << 20, ' ')}) {
    {
      std::ofstream(dir_ / "agent.json") << text;
    }
    const auto loaded = dir->load();
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, Code::kCorrupt);
    EXPECT_NE(loaded.error().message.find("agent.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace foreshadow::agent
