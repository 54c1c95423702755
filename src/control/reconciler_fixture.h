#pragma once
// For tests: the core with a store of its own, a scripted policy and an agent without disks.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/types.h"
#include "control/reconciler.h"
#include "control/requests.h"
#include "control/scratch_directory.h"
#include "control/scripted_agent.h"

namespace foreshadow::control {

// Collects what is sent; the test delivers it when it pleases.
class RecordingLink final : public AgentLink {
 public:
  void send(const v1::ControlMessage& message) override { sent.push_back(message); }
  void close(const std::string& reason) override { closed = reason; }
  std::vector<v1::Intent> intents() const {
    std::vector<v1::Intent> out;
    for (const v1::ControlMessage& message : sent) {
      if (message.has_intent()) out.push_back(message.intent());
    }
    return out;
  }
  std::vector<v1::ControlMessage> sent;
  std::string closed;
};

// Virtual time, a scripted policy, and an agent whose answers are delivered by hand.
class ReconcilerTest : public ::testing::Test {
 protected:
  ReconcilerTest() { start(); }

  // As after a crash: nothing survives but the store.
  void start() {
    reconciler_.reset();
    store_.reset();
    auto store = Store::open(dir_, now_);
    ASSERT_TRUE(store) << store.error().message;
    store_ = std::move(*store);
    ReconcilerOptions options;
    options.clock = [this] { return now_; };
    options.reclaim = reclaim_;
    options.make_forecaster = make_forecaster_;
    options.decide = [this](const policy::VolumeView& view, const forecast::Forecaster&,
                            const policy::Config&) {
      view_ = view;
      ++looks_;
      if (script_.empty()) return policy::Decision{};
      policy::Decision next = script_.front();
      script_.erase(script_.begin());
      return next;
    };
    reconciler_ = std::make_unique<Reconciler>(*store_, rng_, options, [] {});
    ASSERT_TRUE(reconciler_->load());
    link_ = RecordingLink();
  }
  void connect() { ASSERT_TRUE(reconciler_->hello(link_, agent_.hello().hello())); }
  void deliver(const v1::AgentMessage& message) {
    if (message.has_ack()) reconciler_->ack("agent-a", message.ack());
    if (message.has_metrics()) reconciler_->metrics("agent-a", message.metrics());
    if (message.has_event()) reconciler_->event("agent-a", message.event());
  }
  // Answers every intent sent since the last call.
  void answer_all() {
    while (answered_ < link_.intents().size()) deliver(agent_.answer(link_.intents()[answered_++]));
  }
  void create(const std::string& name) {
    v1::CreateVolumeRequest request;
    request.set_name(name);
    request.set_size(kGiB);
    request.set_primary_size(64 * kMiB);
    ASSERT_TRUE(
        Requests(*reconciler_).create_volume(request, [](const v1::Ack& ack) { EXPECT_EQ(ack.code(), 0); }));
    answer_all();
    id_ = reconciler_->fleet().volume_named(name)->id();
  }
  VolumeModel& model() { return *reconciler_->fleet().volume(id_); }
  void tick(uint64_t used) {
    now_ += 1000;
    deliver(agent_.metrics(id_, now_, used, 4096));
  }
  static policy::Decision grant_of(uint64_t size) {
    policy::Decision out;
    out.action = policy::Action::kGrant;
    out.size = size;
    out.sentence = "granted, for the test";
    return out;
  }
  static policy::Decision refusal() {
    policy::Decision out;
    out.action = policy::Action::kRefuse;
    out.sentence = "the pool is full";
    return out;
  }
  std::vector<v1::Event> all_events() {
    return store_->events(0, "", 1000).value_or(std::vector<v1::Event>());
  }
  size_t count_events(const std::string& kind) {
    size_t count = 0;
    for (const v1::Event& event : all_events()) count += event.kind() == kind ? 1 : 0;
    return count;
  }
  std::string last_event(const std::string& kind) {
    std::string out;
    for (const v1::Event& event : all_events()) {
      if (event.kind() == kind) out = event.message();
    }
    return out;
  }

  ScratchDirectory scratch_;
  std::string dir_ = scratch_.path("state");
  uint64_t now_ = 1'700'000'000'000;
  SeededRng rng_{11};
  ScriptedAgent agent_{"agent-a"};
  std::unique_ptr<Store> store_;
  std::unique_ptr<Reconciler> reconciler_;
  RecordingLink link_;
  size_t answered_ = 0;
  std::string id_;
  std::vector<policy::Decision> script_;
  policy::VolumeView view_;
  policy::ReclaimConfig reclaim_;
  MakeForecaster make_forecaster_;
  int looks_ = 0;
};

}  // namespace foreshadow::control
