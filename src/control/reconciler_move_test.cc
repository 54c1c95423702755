// Volumes that go to another pool, from the request to what is recorded of its end.
#include "control/reconciler_fixture.h"

namespace foreshadow::control {
namespace {

class ReconcilerMoveTest : public ReconcilerTest {
 protected:
  void SetUp() override {
    agent_.add_pool("fast", kGiB);
    agent_.add_pool("small", 32 * kMiB);
    connect();
    create("data");
    sent_before_ = link_.intents().size();
  }
  Status move(const std::string& pool, bool wait = true, const std::string& name = "data") {
    v1::MoveVolumeRequest request;
    request.set_name(name);
    request.set_pool(pool);
    request.set_wait(wait);
    return Requests(*reconciler_).move_volume(request, [this](const v1::Ack& ack) { acks_.push_back(ack); });
  }
  std::vector<v1::Intent> sent() const {
    const std::vector<v1::Intent> all = link_.intents();
    return {all.begin() + static_cast<std::ptrdiff_t>(sent_before_), all.end()};
  }
  size_t sent_before_ = 0;
  std::vector<v1::Ack> acks_;
};

TEST_F(ReconcilerMoveTest, TheIntentIsRecordedSentAndItsEndTold) {
  const std::string from = model().volume().pool();
  ASSERT_TRUE(move("fast"));
  ASSERT_EQ(sent().size(), 1u);
  EXPECT_EQ(sent()[0].move_primary().pool(), "fast");
  EXPECT_GE(sent()[0].move_primary().size(), model().volume().segments(0).backing());
  ASSERT_EQ(store_->unfinished_intents()->size(), 1u);
  EXPECT_EQ(count_events("volume.moving"), 1u);
  // What it will take is promised to nobody else.
  EXPECT_EQ(reconciler_->pool_free(*reconciler_->fleet().pool("agent-a", "fast")),
            kGiB - sent()[0].move_primary().size());
  ASSERT_TRUE(move("fast"));  // waits for the first
  EXPECT_EQ(sent().size(), 1u);
  EXPECT_TRUE(acks_.empty());
  answer_all();
  ASSERT_EQ(acks_.size(), 2u);
  EXPECT_EQ(acks_[1].code(), 0);
  EXPECT_EQ(model().volume().pool(), "fast");
  EXPECT_EQ(count_events("volume.moved"), 1u);
  EXPECT_EQ(count_events("segment.adopted") + count_events("segment.gone"), 0u);
  EXPECT_TRUE(store_->unfinished_intents()->empty());
  EXPECT_TRUE(move(from));  // and back
}

TEST_F(ReconcilerMoveTest, WithoutWaitingTheAnswerComesAtOnceAndTheMoveGoesOn) {
  ASSERT_TRUE(move("fast", false));
  ASSERT_EQ(acks_.size(), 1u);
  EXPECT_EQ(acks_[0].code(), 0);
  EXPECT_EQ(store_->unfinished_intents()->size(), 1u);
  // Not answered, it is sent again after a restart of control.
  start();
  answered_ = 0;
  connect();
  ASSERT_EQ(link_.intents().size(), 1u);
  EXPECT_TRUE(link_.intents()[0].has_move_primary());
  answer_all();
  EXPECT_EQ(model().volume().pool(), "fast");
}

TEST_F(ReconcilerMoveTest, WhatCannotBeIsRefusedBeforeAnythingIsBegun) {
  EXPECT_EQ(move("nowhere").error().code, Code::kNotFound);
  EXPECT_EQ(move("fast", true, "none").error().code, Code::kNotFound);
  EXPECT_EQ(move("No Name").error().code, Code::kInvalidArgument);
  EXPECT_EQ(move(model().volume().pool()).error().code, Code::kInvalidArgument);
  const Status full = move("small");
  EXPECT_EQ(full.error().code, Code::kNoSpace);
  EXPECT_NE(full.error().message.find("small"), std::string::npos) << full.error().message;
  EXPECT_TRUE(sent().empty());
  // Other long work comes first, and nothing begins beside a move.
  ASSERT_TRUE(move("fast"));
  EXPECT_EQ(reconciler_->plan_shrink(model(), 0).error().code, Code::kFailedPrecondition);
  agent_.add_pool("third", kGiB);
  connect();
  EXPECT_EQ(move("third").error().code, Code::kFailedPrecondition);
  EXPECT_EQ(count_events("volume.moving"), 1u);
}

TEST_F(ReconcilerMoveTest, ARefusalOfTheAgentIsTold) {
  agent_.refuse_code = row_of(Code::kNoSpace).grpc_status;
  agent_.refuse_message = "the pool is full";
  ASSERT_TRUE(move("fast"));
  answer_all();
  ASSERT_EQ(acks_.size(), 1u);
  EXPECT_EQ(acks_[0].code(), agent_.refuse_code);
  EXPECT_EQ(last_event("move.refused"), "the pool is full");
  EXPECT_NE(model().volume().pool(), "fast");
}

}  // namespace
}  // namespace foreshadow::control
