// Fold, drain and resize as an agent does them: pools that are asked first, backings that go back, restarts
// in the middle, and everything else going on meanwhile.
#include <chrono>
#include <thread>

#include "agent/agent_fixture.h"

namespace foreshadow::agent {
namespace {

constexpr uint64_t kPiece = kMiB;

class AgentJobsTest : public AgentTest {
 protected:
  static std::string piece(uint64_t number) {
    return std::string(kPiece, static_cast<char>('a' + number % 26));
  }
  // A volume whose shadow has `pieces` of 1 MiB, from offset 0 on, and is merged.
  void make(uint64_t shadow_size, uint64_t pieces) {
    volume_ = create("db");
    shadow_ = fresh_uuid();
    ASSERT_EQ(control_->ask(grant_intent(volume_, shadow_, shadow_size)).code(), 0);
    ASSERT_EQ(control_->ask(activate_intent(volume_, shadow_)).code(), 0);
    Client client(nbd_socket(), "db");
    for (uint64_t i = 0; i < pieces; ++i) ASSERT_TRUE(client.write(i * kPiece, piece(i)));
    const v1::Ack merged = control_->ask(merge_intent(volume_, shadow_));
    ASSERT_EQ(merged.volume().segments(1).used(), pieces * kPiece) << merged.ShortDebugString();
    pieces_ = pieces;
  }
  void expect_contents() {
    Client client(nbd_socket(), "db");
    for (uint64_t i = 0; i < pieces_; ++i) ASSERT_EQ(client.read(i * kPiece, kPiece), piece(i)) << i;
    v1::Intent check = intent();
    check.mutable_check_volume()->set_volume_id(volume_);
    const v1::Ack ack = control_->ask(check);
    EXPECT_TRUE(ack.check().ok()) << ack.ShortDebugString();
  }
  // A pool of its own for the volume, with so many bytes to spare beside the primary.
  void add_tiny(uint64_t spare) {
    v1::Intent add = intent();
    add.mutable_add_pool()->set_name("tiny");
    add.mutable_add_pool()->set_directory((dir_ / "pool2").string());
    add.mutable_add_pool()->set_capacity(kPrimary + spare);
    ASSERT_EQ(control_->ask(add).code(), 0);
  }
  std::string volume_;
  std::string shadow_;
  uint64_t pieces_ = 0;
};

TEST_F(AgentJobsTest, FoldGrowsThePrimaryAndGivesTheShadowBack) {
  start_both();
  make(32 * kMiB, 24);
  const v1::Intent fold = fold_intent(volume_, shadow_);
  const v1::Ack folded = control_->ask(fold);
  ASSERT_EQ(folded.code(), 0) << folded.message();
  ASSERT_EQ(folded.volume().segments_size(), 1);
  // There is nothing beside it, so it has room for new writes as well.
  EXPECT_GE(folded.volume().segments(0).capacity(), (24 + 64) * kMiB);
  EXPECT_EQ(backings().size(), 1u);
  // The pool counts what the primary has grown by, and the shadow no more.
  ASSERT_EQ(folded.pools_size(), 1);
  EXPECT_EQ(folded.pools(0).used(), folded.volume().segments(0).backing());
  EXPECT_LT(folded.pools(0).used(), kPrimary + (24 + 64) * kMiB);
  expect_contents();
  // Asked again: with the same id, and with another one for the same effect.
  EXPECT_EQ(control_->ask(fold).code(), 0);
  EXPECT_EQ(control_->ask(fold_intent(volume_, shadow_)).code(), 0);
  EXPECT_EQ(restart().volumes(0).segments_size(), 1);
  expect_contents();
}

TEST_F(AgentJobsTest, DrainGivesTheSegmentBack) {
  start_both();
  make(32 * kMiB, 6);
  const v1::Ack drained = control_->ask(drain_intent(volume_, shadow_));
  ASSERT_EQ(drained.code(), 0) << drained.message();
  EXPECT_EQ(drained.volume().segments_size(), 1);
  EXPECT_EQ(drained.volume().used(), 6 * kMiB);
  EXPECT_EQ(drained.pools(0).used(), kPrimary);
  EXPECT_EQ(backings().size(), 1u);
  expect_contents();
  EXPECT_EQ(control_->ask(drain_intent(volume_, shadow_)).code(), 0);
}

TEST_F(AgentJobsTest, WhatThePoolDoesNotHaveIsNotFoldedInto) {
  start_both();
  add_tiny(4 * kMiB);
  v1::Intent create = create_intent(fresh_uuid(), "db");
  create.mutable_create_volume()->set_pool("tiny");
  ASSERT_EQ(control_->ask(create).code(), 0);
  volume_ = create.create_volume().volume_id();
  shadow_ = fresh_uuid();
  ASSERT_EQ(control_->ask(grant_intent(volume_, shadow_, 32 * kMiB)).code(), 0);
  ASSERT_EQ(control_->ask(activate_intent(volume_, shadow_)).code(), 0);
  {
    Client client(nbd_socket(), "db");
    for (pieces_ = 0; pieces_ < 24; ++pieces_) ASSERT_TRUE(client.write(pieces_ * kPiece, piece(pieces_)));
  }
  const v1::Ack refused = control_->ask(fold_intent(volume_, shadow_));
  EXPECT_EQ(refused.code(), row_of(Code::kNoSpace).grpc_status) << refused.message();
  for (const char* part : {"pool tiny", "4MiB free of 20MiB", "grow"}) {
    EXPECT_NE(refused.message().find(part), std::string::npos) << refused.message();
  }
  EXPECT_EQ(refused.volume().segments(0).backing(), kPrimary);
  ASSERT_EQ(refused.volume().segments_size(), 2);
  EXPECT_EQ(refused.volume().segments(1).state(), v1::SEGMENT_STATE_ACTIVE);
  // Nothing stays set aside.
  for (const v1::Pool& pool : refused.pools()) {
    EXPECT_EQ(pool.used(), pool.name() == "tiny" ? kPrimary : 32 * kMiB) << pool.name();
  }
  expect_contents();
}

TEST_F(AgentJobsTest, ResizeCutsAndGrowsTheBacking) {
  start_both();
  make(32 * kMiB, 6);
  v1::Intent resize = intent();
  resize.mutable_resize_segment()->set_volume_id(volume_);
  resize.mutable_resize_segment()->set_segment_uuid(shadow_);
  resize.mutable_resize_segment()->set_size(12 * kMiB);
  const v1::Ack cut = control_->ask(resize);
  ASSERT_EQ(cut.code(), 0) << cut.message();
  const v1::Segment& shadow = cut.volume().segments(1);
  EXPECT_LE(shadow.backing(), 12 * kMiB);
  EXPECT_GT(shadow.backing(), 11 * kMiB);
  EXPECT_EQ(cut.pools(0).used(), kPrimary + shadow.backing());
  expect_contents();
  resize.set_id(fresh_uuid());
  resize.mutable_resize_segment()->set_segment_uuid(fresh_uuid());
  EXPECT_EQ(control_->ask(resize).code(), row_of(Code::kNotFound).grpc_status);
}

TEST_F(AgentJobsTest, AMovePutsThePrimaryIntoTheOtherPoolAndGivesTheOldOneBack) {
  start_both();
  make(32 * kMiB, 6);
  add_tiny(8 * kMiB);
  const std::string segment = fresh_uuid();
  const v1::Intent move = move_intent(volume_, segment, "tiny", kPrimary + 8 * kMiB);
  const v1::Ack moved = control_->ask(move);
  ASSERT_EQ(moved.code(), 0) << moved.message();
  EXPECT_EQ(moved.volume().pool(), "tiny");
  ASSERT_EQ(moved.volume().segments_size(), 2);  // the shadow stays where it is
  EXPECT_EQ(moved.volume().segments(0).uuid(), segment);
  EXPECT_EQ(moved.volume().segments(0).role(), v1::SEGMENT_ROLE_PRIMARY);
  EXPECT_EQ(moved.volume().segments(1).uuid(), shadow_);
  for (const v1::Pool& pool : moved.pools()) {
    EXPECT_EQ(pool.used(), pool.name() == "tiny" ? kPrimary + 8 * kMiB : 32 * kMiB) << pool.name();
  }
  expect_contents();
  // Asked again: with the same id, and with another one for the same effect.
  EXPECT_EQ(control_->ask(move).code(), 0);
  EXPECT_EQ(control_->ask(move_intent(volume_, segment, "tiny", kPrimary + 8 * kMiB)).code(), 0);
  const v1::Hello again = restart();
  EXPECT_EQ(again.volumes(0).pool(), "tiny");
  EXPECT_EQ(again.volumes(0).segments_size(), 2);
  expect_contents();
}

TEST_F(AgentJobsTest, AMoveThatFindsNoRoomLeavesNothingBehind) {
  start_both();
  make(32 * kMiB, 6);
  add_tiny(0);
  const v1::Ack refused = control_->ask(move_intent(volume_, fresh_uuid(), "tiny", 2 * kPrimary));
  EXPECT_EQ(refused.code(), row_of(Code::kNoSpace).grpc_status) << refused.message();
  EXPECT_EQ(control_->ask(move_intent(volume_, fresh_uuid(), "nowhere", kPrimary)).code(),
            row_of(Code::kNotFound).grpc_status);
  EXPECT_EQ(control_->ask(move_intent(volume_, fresh_uuid(), "tiny", 4096)).code(),
            row_of(Code::kInvalidArgument).grpc_status);
  ASSERT_EQ(refused.volume().segments_size(), 2);
  EXPECT_NE(refused.volume().pool(), "tiny");
  for (const v1::Pool& pool : refused.pools()) {
    EXPECT_EQ(pool.used(), pool.name() == "tiny" ? 0 : kPrimary + 32 * kMiB) << pool.name();
  }
  expect_contents();
}

TEST_F(AgentJobsTest, GrantsAndMergesGoOnDuringAFold) {
  start_both();
  make(128 * kMiB, 120);
  const v1::Intent fold = fold_intent(volume_, shadow_);
  const v1::Intent grant = grant_intent(volume_, fresh_uuid());
  control_->send(fold);
  control_->send(grant);
  std::vector<std::string> order;
  ASSERT_TRUE(control_->wait_for([&](const v1::AgentMessage& m) {
    const bool told = m.has_metrics() && m.metrics().volumes_size() == 1 && m.metrics().volumes(0).has_job();
    if (told) {
      const v1::Job& job = m.metrics().volumes(0).job();
      EXPECT_EQ(job.segment_id(), job.kind() == v1::JOB_KIND_FOLD ? 1u : 0u);
      EXPECT_LE(job.moved(), job.total());
    }
    if (m.has_ack()) {
      EXPECT_EQ(m.ack().code(), 0) << m.ack().message();
      order.push_back(m.ack().intent_id());
    }
    return order.size() == 2;
  }));
  EXPECT_EQ(order, (std::vector<std::string>{grant.id(), fold.id()}));
  expect_contents();
}

TEST_F(AgentJobsTest, AStopInTheMiddleOfAFoldDoesNotWaitForItAndTheNextStartGoesOn) {
  start_both();
  make(128 * kMiB, 120);
  control_->send(fold_intent(volume_, shadow_));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  const auto began = std::chrono::steady_clock::now();
  ASSERT_TRUE(stop());
  EXPECT_LT(std::chrono::steady_clock::now() - began, testing::kPatience);
  ASSERT_TRUE(start(options()));
  const v1::Hello hello = control_->wait_for_hello();
  ASSERT_EQ(hello.volumes_size(), 1);
  // Stopped after the fold, or before it had begun (the primary grows first): then there is nothing to go on
  // with. Else it goes on without a word of control.
  const bool whole = hello.volumes(0).segments_size() == 1;
  if (!whole && hello.volumes(0).segments(1).state() != v1::SEGMENT_STATE_MERGED) {
    EXPECT_EQ(hello.volumes(0).segments(1).state(), v1::SEGMENT_STATE_FOLDING);
    const auto released = control_->wait_for([](const v1::AgentMessage& m) {
      return m.has_event() && m.event().kind() == v1::VolumeEvent::KIND_SEGMENT_RELEASED;
    });
    ASSERT_TRUE(released);
    EXPECT_EQ(released->event().segment_id(), 1u);
    EXPECT_EQ(released->event().volume().segments_size(), 1);
  }
  // A repeat of what was not answered succeeds, whether anything is left to do or not.
  EXPECT_EQ(control_->ask(fold_intent(volume_, shadow_)).code(), 0);
  EXPECT_EQ(backings().size(), 1u);
  expect_contents();
}

TEST_F(AgentJobsTest, AVolumeIsRemovedInTheMiddleOfAFold) {
  start_both();
  make(128 * kMiB, 100);
  control_->send(fold_intent(volume_, shadow_));
  v1::Intent remove = intent();
  remove.mutable_delete_volume()->set_volume_id(volume_);
  EXPECT_EQ(control_->ask(remove).code(), 0);
  EXPECT_TRUE(backings().empty());
}

TEST_F(AgentJobsTest, AVolumesPolicyIsKept) {
  start_both();
  v1::Intent create = create_intent(fresh_uuid(), "db");
  create.mutable_create_volume()->mutable_policy()->set_merge(v1::MERGE_MODE_FOLD);
  const v1::Ack made = control_->ask(create);
  ASSERT_EQ(made.code(), 0) << made.message();
  EXPECT_EQ(made.volume().policy().merge(), v1::MERGE_MODE_FOLD);
  EXPECT_FALSE(made.volume().policy().reclaim());
  v1::Intent set = intent();
  set.mutable_set_volume()->set_volume_id(made.volume().id());
  set.mutable_set_volume()->mutable_policy()->set_reclaim(true);
  set.mutable_set_volume()->mutable_policy()->set_reclaim_hold_s(7);
  EXPECT_EQ(control_->ask(set).volume().policy().reclaim_hold_s(), 7u);
  const v1::Volume kept = restart().volumes(0);
  EXPECT_EQ(kept.policy().merge(), v1::MERGE_MODE_ADOPT);
  EXPECT_TRUE(kept.policy().reclaim());
  EXPECT_EQ(kept.policy().reclaim_hold_s(), 7u);
}

}  // namespace
}  // namespace foreshadow::agent
