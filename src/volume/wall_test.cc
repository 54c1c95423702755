// The backpressure band, and hold_timeout, on the real loop.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;
using std::chrono::milliseconds;
constexpr uint64_t kCluster = 64 * kKiB;

class Ears final : public Listener {
 public:
  void on_redirected(SegmentId) override {}
  void on_shadow_full(SegmentId) override {}
  void on_hold_began() override { heard += "hold "; }
  void on_hold_ended() override { heard += "held "; }
  void on_pace_began() override { heard += "pace "; }
  void on_pace_ended() override { heard += "paced "; }
  void on_read_only(const std::string&) override {}
  std::string heard;
};

// Leaves `clusters` free.
void fill_up_to(Rig& rig, uint64_t clusters) {
  const Usage usage = rig.volume().usage();
  for (uint64_t at = 0; at + clusters * kCluster < usage.capacity; at += kCluster)
    ASSERT_EQ(rig.write(at, kCluster, 1), Code::kOk);
}

uint64_t paced_us(Rig& rig, uint64_t offset) {
  const uint64_t before = rig.volume().stats().pace_us_total;
  EXPECT_EQ(rig.write(offset, kCluster, 2), Code::kOk);
  return rig.volume().stats().pace_us_total - before;
}

TEST(Wall, PacesFirstTouchesInTheBandAndTheMoreTheLessIsLeft) {
  Rig rig;
  rig.options.band_bytes = 40 * kCluster;
  rig.options.band_percent = 100;
  rig.create(kGiB, 16 * kMiB);
  fill_up_to(rig, 40);
  EXPECT_EQ(rig.volume().stats().paced, 0u);
  const uint64_t first = paced_us(rig, 500 * kMiB);  // at the band's edge
  uint64_t last = 0;
  for (int i = 1; i < 40; ++i) last = paced_us(rig, 500 * kMiB + static_cast<uint64_t>(i) * kCluster);
  const block::IoStats& stats = rig.volume().stats();
  EXPECT_EQ(stats.paced, 39u) << "all but the one that still found the band untouched";
  EXPECT_EQ(first, 0u);
  EXPECT_GE(last, 48'000u);
  EXPECT_GE(stats.pace_us_max, last);
  EXPECT_EQ(stats.paced_now, 0u);
  EXPECT_EQ(stats.holds, 0u);
  EXPECT_TRUE(rig.holds(500 * kMiB, 40 * kCluster, 2));
}

TEST(Wall, NeverPacesReadsOverwritesNorWhatHasItsCluster) {
  Rig rig;
  rig.options.band_bytes = kGiB;
  rig.options.band_percent = 100;
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(50 * kMiB, 4096, 1), Code::kOk);  // at the band's edge
  ASSERT_EQ(rig.write(0, 4096, 1), Code::kOk);
  ASSERT_EQ(rig.volume().stats().paced, 1u);
  ASSERT_EQ(rig.write(0, 4096, 2), Code::kOk);
  ASSERT_EQ(rig.write(8192, 4096, 3), Code::kOk);  // beside it
  ASSERT_EQ(rig.write(100, 100, 4), Code::kOk);
  ASSERT_EQ(rig.write(100 * kMiB, kMiB, 0), Code::kOk);  // zeros onto nothing
  ASSERT_EQ(rig.plain(OpKind::kTrim, 0, kMiB), Code::kOk);
  EXPECT_TRUE(rig.holds(0, kCluster, 0));
  EXPECT_EQ(rig.volume().stats().paced, 1u);
}

TEST(Wall, AMoveIsNotPacedItCouldHaveStayed) {
  Rig rig;
  rig.options.band_bytes = 0;
  rig.create(kGiB, 16 * kMiB, Redirect::kAll);
  ASSERT_EQ(rig.write(0, kMiB, 1), Code::kOk);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig.volume().activate_shadow(shadow));
  rig.volume().set_wall({milliseconds(1000), kGiB, 100});
  ASSERT_EQ(rig.write(0, kMiB, 2), Code::kOk);
  EXPECT_EQ(rig.volume().segments()[1].used, kMiB);
  EXPECT_EQ(rig.volume().stats().paced, 0u);
}

TEST(Wall, NoWriteIsPacedLongerThanTheLimitHoweverManyWait) {
  Rig rig;
  rig.options.band_bytes = kGiB;
  rig.options.band_percent = 100;
  rig.create(kGiB, 16 * kMiB);
  fill_up_to(rig, 100);
  std::vector<std::unique_ptr<Rig::Call>> calls;
  const MonoTime began = rig.loop().now();
  for (uint64_t i = 0; i < 64; ++i) {
    calls.push_back(rig.start(OpKind::kWrite, 600 * kMiB + i * kCluster, kCluster, std::byte{5}));
    rig.volume().submit(*calls.back());
  }
  EXPECT_EQ(rig.volume().stats().paced_now, 64u);
  for (const auto& call : calls) ASSERT_EQ(rig.await(*call), Code::kOk);
  EXPECT_LT(rig.loop().now() - began, 10 * limits::kPaceMax) << "they wait side by side";
  EXPECT_TRUE(rig.holds(600 * kMiB, 64 * kCluster, 5));
}

TEST(Wall, AShadowEndsThePacingAtOnceAndTheListenerHearsOfIt) {
  Rig rig;
  Ears ears;
  rig.options.band_bytes = 20 * kCluster;
  rig.options.band_percent = 100;
  rig.create(kGiB, 8 * kMiB);
  rig.volume().set_listener(&ears);
  fill_up_to(rig, 5);
  EXPECT_EQ(ears.heard, "pace ");
  auto waiting = rig.start(OpKind::kWrite, 600 * kMiB, kCluster, std::byte{5});
  rig.volume().submit(*waiting);
  EXPECT_EQ(rig.volume().stats().paced_now, 1u);
  rig.add_shadow(8 * kMiB);
  ASSERT_EQ(rig.await(*waiting), Code::kOk);
  EXPECT_EQ(ears.heard, "pace paced ");
  const uint64_t paced = rig.volume().stats().paced;
  ASSERT_EQ(rig.write(700 * kMiB, kCluster, 6), Code::kOk);
  EXPECT_EQ(rig.volume().stats().paced, paced);
  rig.volume().set_listener(nullptr);
}

TEST(Wall, PacesFirstThenHoldsInOrderThenSaysNoSpaceAndRecoversWithAShadow) {
  Rig rig;
  Ears ears;
  rig.options.hold_timeout = milliseconds(150);
  rig.options.band_bytes = 4 * kCluster;
  rig.options.band_percent = 100;
  rig.create(kGiB, 8 * kMiB);
  rig.volume().set_listener(&ears);
  rig.fill(1);
  EXPECT_EQ(ears.heard, "pace ");
  EXPECT_EQ(rig.write(600 * kMiB, kCluster, 2), Code::kNoSpace);
  EXPECT_EQ(ears.heard, "pace hold held ");
  EXPECT_GE(rig.volume().stats().hold_us_max, 150'000u);
  rig.volume().set_wall({milliseconds(60'000), 4 * kCluster, 100});
  std::vector<std::unique_ptr<Rig::Call>> calls;
  for (uint64_t i = 0; i < 3; ++i) {
    calls.push_back(rig.start(OpKind::kWrite, 600 * kMiB + i * kCluster, kCluster, std::byte{5}));
    rig.volume().submit(*calls.back());
  }
  EXPECT_EQ(rig.write(0, kCluster, 9), Code::kOk) << "overwrites pass";
  EXPECT_EQ(rig.volume().stats().held_now, 3u);
  const MonoTime began = rig.loop().now();
  rig.add_shadow(16 * kMiB);
  for (const auto& call : calls) ASSERT_EQ(rig.await(*call), Code::kOk);
  EXPECT_LT(rig.loop().now() - began, std::chrono::seconds(5));
  EXPECT_EQ(ears.heard, "pace hold held hold paced held ");
  EXPECT_TRUE(rig.findings().empty());
  rig.volume().set_listener(nullptr);
}

TEST(Wall, WhatWasTrimmedBeforeIsWaitedForWhateverTheTimeout) {
  Rig rig;
  rig.options.band_bytes = 0;
  rig.options.hold_timeout = milliseconds(0);
  rig.create(kGiB, 8 * kMiB);
  rig.fill(1);
  EXPECT_EQ(rig.write(600 * kMiB, kCluster, 2), Code::kNoSpace);
  ASSERT_EQ(rig.plain(OpKind::kTrim, 0, kCluster), Code::kOk);
  // Two want the one cluster, and it becomes free with the next commit.
  auto first = rig.start(OpKind::kWrite, 600 * kMiB, kCluster, std::byte{3});
  auto second = rig.start(OpKind::kWrite, 700 * kMiB, kCluster, std::byte{4});
  rig.volume().submit(*first);
  rig.volume().submit(*second);
  EXPECT_EQ(rig.await(*first), Code::kOk);
  EXPECT_EQ(rig.await(*second), Code::kNoSpace);
  EXPECT_TRUE(rig.holds(600 * kMiB, kCluster, 3));
}

TEST(Wall, AShorterHoldTimeoutCountsForWhatIsHeldAlready) {
  Rig rig;
  rig.options.band_bytes = 0;
  rig.create(kGiB, 8 * kMiB);
  rig.fill(1);
  EXPECT_EQ(rig.volume().stats().paced, 0u) << "no band";
  auto held = rig.start(OpKind::kWrite, 600 * kMiB, kCluster, std::byte{5});
  rig.volume().submit(*held);
  EXPECT_TRUE(rig.holds(0, kCluster, 1));
  EXPECT_EQ(rig.volume().stats().held_now, 1u);
  rig.volume().set_wall({milliseconds(50), 0, 0});
  EXPECT_EQ(rig.volume().wall().hold_timeout, milliseconds(50));
  EXPECT_EQ(rig.await(*held), Code::kNoSpace);
}

TEST(Wall, WhatIsPacedIsDoneBeforeTheVolumeCloses) {
  Rig rig;
  rig.options.band_bytes = kGiB;
  rig.options.band_percent = 100;
  rig.create(kGiB, 8 * kMiB);
  ASSERT_EQ(rig.write(50 * kMiB, 4096, 1), Code::kOk);  // at the band's edge
  auto paced = rig.start(OpKind::kWrite, 0, kCluster, std::byte{5});
  rig.volume().submit(*paced);
  EXPECT_EQ(rig.volume().stats().paced_now, 1u);
  rig.close();
  EXPECT_EQ(paced->outcome, Code::kOk);
  ASSERT_TRUE(rig.open());
  EXPECT_TRUE(rig.holds(0, kCluster, 5));
}

}  // namespace
}  // namespace foreshadow::volume
