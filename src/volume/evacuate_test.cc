// Fold, drain and resize, on real files and with a real loop. The simulator has the crashes.
#include <gtest/gtest.h>

#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

constexpr uint64_t kCluster = 64 * kKiB;

const SegmentInfo* find(const std::vector<SegmentInfo>& segments, const Uuid& uuid) {
  for (const SegmentInfo& segment : segments) {
    if (segment.uuid == uuid) return &segment;
  }
  return nullptr;
}

class Evacuation : public ::testing::Test {
 protected:
  void SetUp() override {
    rig_.options.hold_timeout = std::chrono::milliseconds(20);
    rig_.create(kGiB, 16 * kMiB);
  }
  // 8 MiB in the primary at 0, then a shadow that holds 12 MiB at 100 MiB.
  Uuid with_a_full_shadow(bool merge) {
    EXPECT_EQ(rig_.write(0, 8 * kMiB, 1), Code::kOk);
    const Uuid shadow = rig_.add_shadow(16 * kMiB);
    EXPECT_TRUE(rig_.volume().activate_shadow(shadow));
    EXPECT_EQ(rig_.write(100 * kMiB, 12 * kMiB, 2), Code::kOk);
    if (merge) {
      EXPECT_TRUE(rig_.wait(rig_.volume().merge_shadow(shadow)));
    }
    return shadow;
  }
  void expect_contents() {
    EXPECT_TRUE(rig_.holds(0, 8 * kMiB, 1));
    EXPECT_TRUE(rig_.holds(100 * kMiB, 12 * kMiB, 2));
    EXPECT_TRUE(rig_.findings().empty());
  }
  uint64_t backing_of_primary() { return rig_.volume().segments().front().backing; }
  Status resize_primary(uint64_t bytes) {
    return rig_.wait(rig_.volume().resize_segment(rig_.volume().segments().front().uuid, bytes));
  }
  Rig rig_;
};

TEST_F(Evacuation, FoldCopiesTheShadowIntoTheGrownPrimary) {
  const Uuid shadow = with_a_full_shadow(true);
  const Status small = rig_.wait(rig_.volume().fold_shadow(shadow, 0));
  ASSERT_FALSE(small);
  EXPECT_EQ(small.error().code, Code::kFailedPrecondition);
  EXPECT_EQ(find(rig_.volume().segments(), shadow)->state, SegmentState::kMerged);
  ASSERT_TRUE(resize_primary(backing_of_primary() + 12 * kMiB));
  const Status folded = rig_.wait(rig_.volume().fold_shadow(shadow, 0));
  ASSERT_TRUE(folded) << folded.error().message;
  EXPECT_EQ(rig_.volume().segments().size(), 1u);
  EXPECT_EQ(rig_.volume().usage().used, 20 * kMiB);
  expect_contents();
  rig_.close();
  ASSERT_TRUE(rig_.pool().remove(shadow.str()));  // nothing of it is needed any more
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  expect_contents();
}

TEST_F(Evacuation, FoldGrowsThePrimaryWhileItCopies) {
  const Uuid shadow = with_a_full_shadow(true);
  const uint64_t before = backing_of_primary();
  const uint64_t most = rig_.volume().segments().front().backing_max;
  const Status wide = rig_.wait(rig_.volume().fold_shadow(shadow, most + kMiB));
  EXPECT_EQ(wide.error().code, Code::kInvalidArgument);
  // Room for what is folded and 4 MiB for others.
  const Status folded = rig_.wait(rig_.volume().fold_shadow(shadow, before + 16 * kMiB));
  ASSERT_TRUE(folded) << folded.error().message;
  EXPECT_EQ(backing_of_primary(), before + 16 * kMiB);
  EXPECT_EQ(rig_.volume().segments().size(), 1u);
  expect_contents();
  EXPECT_EQ(rig_.write(200 * kMiB, 4 * kMiB, 3), Code::kOk);  // nothing is set aside any more
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  expect_contents();
}

TEST_F(Evacuation, DrainMovesIntoTheOthersAndGivesTheSegmentBack) {
  const Uuid first = with_a_full_shadow(true);
  const Uuid second = rig_.add_shadow(32 * kMiB);
  ASSERT_TRUE(rig_.wait(rig_.volume().merge_shadow(second)));
  const Status drained = rig_.wait(rig_.volume().drain_segment(first));
  ASSERT_TRUE(drained) << drained.error().message;
  EXPECT_EQ(find(rig_.volume().segments(), first), nullptr);
  EXPECT_EQ(rig_.wait(rig_.volume().drain_segment(first)).error().code, Code::kNotFound);
  expect_contents();
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  ASSERT_EQ(rig_.orphans.size(), 1u);
  EXPECT_EQ(rig_.orphans[0], first);
  expect_contents();
}

TEST_F(Evacuation, DrainIsRefusedWhereTheOthersHaveNoRoom) {
  const Uuid shadow = with_a_full_shadow(true);
  const Status drained = rig_.wait(rig_.volume().drain_segment(shadow));
  ASSERT_FALSE(drained);
  EXPECT_EQ(drained.error().code, Code::kNoSpace);
  EXPECT_NE(drained.error().message.find("12"), std::string::npos) << drained.error().message;
  EXPECT_EQ(find(rig_.volume().segments(), shadow)->state, SegmentState::kMerged);
  ASSERT_EQ(rig_.plain(block::OpKind::kTrim, 100 * kMiB, 8 * kMiB), Code::kOk);
  ASSERT_EQ(rig_.plain(block::OpKind::kFlush), Code::kOk);
  EXPECT_TRUE(rig_.wait(rig_.volume().drain_segment(shadow)));
  EXPECT_TRUE(rig_.holds(108 * kMiB, 4 * kMiB, 2));
}

TEST_F(Evacuation, AWarmShadowNobodyNeededIsGivenBackAtOnce) {
  const Uuid shadow = rig_.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig_.wait(rig_.volume().drain_segment(shadow)));
  EXPECT_EQ(rig_.volume().segments().size(), 1u);
  EXPECT_FALSE(rig_.volume().has_warm_shadow());
}

TEST_F(Evacuation, ThePrimaryIsNotDrained) {
  const Status drained = rig_.wait(rig_.volume().drain_segment(rig_.volume().segments().front().uuid));
  ASSERT_FALSE(drained);
  EXPECT_EQ(drained.error().code, Code::kInvalidArgument);
}

// The same blocks are written again and again while their cluster moves: every write must be answered, and
// the last one must be what is read.
TEST_F(Evacuation, FoldConvergesUnderAWriterThatNeverStops) {
  const Uuid shadow = with_a_full_shadow(true);
  ASSERT_TRUE(resize_primary(backing_of_primary() + 12 * kMiB));
  std::optional<Status> folded;
  io::spawn(rig_.volume().fold_shadow(shadow, 0), [&](Status&& status) { folded = std::move(status); });
  uint64_t writes = 0;
  uint8_t fill = 3;
  while (!folded) {
    const uint64_t at = 100 * kMiB + writes % 192 * kCluster;
    ASSERT_EQ(rig_.write(at + 4096, 4096, fill), Code::kOk);
    ASSERT_EQ(rig_.write(100 * kMiB + 100, 50, fill), Code::kOk);  // one hot block, by read-modify-write
    ASSERT_LT(++writes, 1'000'000u);
    if (writes % 192 == 0) fill = static_cast<uint8_t>(fill + 1);
  }
  ASSERT_TRUE(*folded) << folded->error().message;
  for (uint64_t at = 0; at < 12 * kMiB; at += kCluster) {
    const auto block = rig_.read(100 * kMiB + at, kCluster);
    ASSERT_EQ(block.size(), kCluster);
    EXPECT_EQ(block[0], 2);
    EXPECT_EQ(block[4096 * 2], 2);
    EXPECT_EQ(block[4096], block[8191]);
  }
  EXPECT_EQ(rig_.read(100 * kMiB + 100, 50),
            std::vector<uint8_t>(50, static_cast<uint8_t>(writes % 192 == 0 ? fill - 1 : fill)));
  EXPECT_TRUE(rig_.findings().empty());
}

// What is beside it is not what it was: the segment does not stay half way out for ever.
TEST_F(Evacuation, AFoldOfAnEarlierLifeThatFindsNoRoomIsTakenBack) {
  const Uuid shadow = with_a_full_shadow(true);
  ASSERT_TRUE(resize_primary(backing_of_primary() + 12 * kMiB));
  std::optional<Status> folded;
  io::spawn(rig_.volume().fold_shadow(shadow, 0), [&](Status&& status) { folded = std::move(status); });
  while (find(rig_.volume().segments(), shadow)->state != SegmentState::kFolding) rig_.turn();
  rig_.volume().stop_jobs();
  while (!folded) rig_.turn();
  ASSERT_FALSE(*folded);
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  ASSERT_EQ(find(rig_.volume().segments(), shadow)->state, SegmentState::kFolding);
  const SegmentInfo primary = rig_.volume().segments().front();
  EXPECT_LE(primary.occupied, primary.backing);
  const uint64_t free = primary.capacity - primary.used;
  ASSERT_EQ(rig_.write(300 * kMiB, free - kMiB, 9), Code::kOk);
  const Status again = rig_.wait(rig_.volume().fold_shadow(shadow, 0));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kFailedPrecondition);
  EXPECT_EQ(find(rig_.volume().segments(), shadow)->state, SegmentState::kMerged);
  expect_contents();
  EXPECT_EQ(rig_.write(600 * kMiB, 2 * kMiB, 4), Code::kOk) << "it takes first touches again";
}

TEST_F(Evacuation, FirstTouchesDoNotTakeWhatAFoldHasReserved) {
  const Uuid shadow = with_a_full_shadow(true);
  // Room for the shadow's 12 MiB, and not a cluster more.
  const SegmentInfo before = rig_.volume().segments().front();
  ASSERT_TRUE(resize_primary(before.backing + 12 * kMiB - (before.capacity - before.used)));
  const SegmentInfo primary = rig_.volume().segments().front();
  ASSERT_EQ(primary.capacity - primary.used, 12 * kMiB);
  std::optional<Status> folded;
  io::spawn(rig_.volume().fold_shadow(shadow, 0), [&](Status&& status) { folded = std::move(status); });
  for (uint64_t at = 0; !folded && at < 64; ++at) {
    auto call = rig_.start(block::OpKind::kWrite, 300 * kMiB + at * kCluster, kCluster, std::byte{9});
    rig_.volume().submit(*call);
    while (!call->outcome) rig_.turn();  // it may fail at the wall; the fold may not
  }
  while (!folded) rig_.turn();
  ASSERT_TRUE(*folded) << folded->error().message;
  expect_contents();
}

TEST_F(Evacuation, ASegmentShrinksAtItsEndAndGrowsAgain) {
  ASSERT_EQ(rig_.write(0, 12 * kMiB, 1), Code::kOk);
  ASSERT_EQ(rig_.plain(block::OpKind::kTrim, 0, 8 * kMiB), Code::kOk);
  ASSERT_EQ(rig_.plain(block::OpKind::kFlush), Code::kOk);
  const uint64_t before = backing_of_primary();
  const Status shrunk = resize_primary(before - 8 * kMiB);
  ASSERT_TRUE(shrunk) << shrunk.error().message;
  EXPECT_LE(backing_of_primary(), before - 8 * kMiB + kCluster);
  EXPECT_TRUE(rig_.holds(8 * kMiB, 4 * kMiB, 1));
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_TRUE(rig_.holds(8 * kMiB, 4 * kMiB, 1));
  EXPECT_TRUE(rig_.findings().empty());
  ASSERT_TRUE(resize_primary(4 * before));
  ASSERT_EQ(rig_.write(500 * kMiB, 40 * kMiB, 4), Code::kOk);
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_TRUE(rig_.holds(500 * kMiB, 40 * kMiB, 4));
  EXPECT_TRUE(rig_.findings().empty());
}

TEST_F(Evacuation, ResizeNamesItsBounds) {
  for (const uint64_t bytes : {uint64_t{4096}, 100 * kTiB}) {
    const Status resized = resize_primary(bytes);
    ASSERT_FALSE(resized);
    EXPECT_EQ(resized.error().code, Code::kInvalidArgument);
    EXPECT_NE(resized.error().message.find("it can have"), std::string::npos) << resized.error().message;
  }
  with_a_full_shadow(false);
  const Status shrunk = resize_primary(4 * kMiB);
  ASSERT_FALSE(shrunk);
  EXPECT_EQ(shrunk.error().code, Code::kNoSpace);
  expect_contents();
}

TEST_F(Evacuation, ManySegmentsComeAndGo) {
  for (int round = 0; round < 80; ++round) {  // more than limits::kSegments in all
    const Uuid shadow = rig_.add_shadow(8 * kMiB);
    ASSERT_TRUE(rig_.volume().activate_shadow(shadow));
    ASSERT_EQ(rig_.write(0, kMiB, static_cast<uint8_t>(round + 1)), Code::kOk);
    ASSERT_TRUE(rig_.wait(rig_.volume().drain_segment(shadow)));
    ASSERT_TRUE(rig_.pool().remove(shadow.str()));
  }
  EXPECT_EQ(rig_.volume().segments().size(), 1u);
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_TRUE(rig_.holds(0, kMiB, 80));
}

}  // namespace
}  // namespace foreshadow::volume
