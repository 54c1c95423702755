// Growth of the size that clients see.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;
constexpr uint64_t kCluster = 64 * kKiB;

TEST(Grow, ShowsAtOnceAndSurvivesAReopen) {
  for (const bool checkpointed : {false, true}) {
    Rig rig;
    rig.create(16 * kMiB, 32 * kMiB);
    ASSERT_EQ(rig.write(16 * kMiB - 4096, 4096, 1), Code::kOk);
    EXPECT_EQ(rig.write(16 * kMiB, 4096, 1), Code::kNoSpace);
    ASSERT_TRUE(rig.wait(rig.volume().grow(kGiB)));
    EXPECT_EQ(rig.volume().info().size, kGiB);
    EXPECT_TRUE(rig.holds(16 * kMiB, kMiB, 0)) << "what is new reads as zero";
    ASSERT_EQ(rig.write(kGiB - 4096, 4096, 2), Code::kOk);
    if (checkpointed) {
      ASSERT_TRUE(rig.wait(rig.volume().checkpoint()));
    }
    EXPECT_TRUE(rig.findings().empty());
    rig.close();
    ASSERT_TRUE(rig.open()) << rig.error.message;
    EXPECT_EQ(rig.volume().info().size, kGiB);
    EXPECT_EQ(rig.volume().usage().size, kGiB);
    EXPECT_TRUE(rig.holds(16 * kMiB - 4096, 4096, 1));
    EXPECT_TRUE(rig.holds(kGiB - 4096, 4096, 2));
  }
}

TEST(Grow, NeverShrinksAndRepeatsChangeNothing) {
  Rig rig;
  rig.create(16 * kMiB, 16 * kMiB);
  ASSERT_TRUE(rig.wait(rig.volume().grow(32 * kMiB)));
  ASSERT_TRUE(rig.wait(rig.volume().grow(32 * kMiB)));
  const auto smaller = rig.wait(rig.volume().grow(16 * kMiB));
  ASSERT_FALSE(smaller);
  EXPECT_EQ(smaller.error().code, Code::kInvalidArgument);
  EXPECT_NE(smaller.error().message.find("never shrinks"), std::string::npos) << smaller.error().message;
  EXPECT_EQ(rig.volume().info().size, 32 * kMiB);
}

TEST(Grow, RefusesSizesThatCannotBe) {
  Rig rig;
  rig.create(16 * kMiB, 16 * kMiB);
  for (const uint64_t size : {16 * kMiB + 512, limits::kVolumeSizeMax + 4096, UINT64_MAX}) {
    const auto grown = rig.wait(rig.volume().grow(size));
    ASSERT_FALSE(grown) << size;
    EXPECT_EQ(grown.error().code, Code::kInvalidArgument);
  }
  ASSERT_TRUE(rig.wait(rig.volume().grow(limits::kVolumeSizeMax))) << "the limit itself";
  EXPECT_EQ(rig.volume().info().size, limits::kVolumeSizeMax);
}

TEST(Grow, GoesOnBesideWritesAndLeavesThemAlone) {
  Rig rig;
  rig.create(16 * kMiB, 64 * kMiB);
  std::vector<std::unique_ptr<Rig::Call>> calls;
  for (uint64_t i = 0; i < 16; ++i) {
    calls.push_back(rig.start(OpKind::kWrite, i * kMiB, kMiB, std::byte{7}));
    rig.volume().submit(*calls.back());
  }
  ASSERT_TRUE(rig.wait(rig.volume().grow(48 * kMiB)));
  for (const auto& call : calls) ASSERT_EQ(rig.await(*call), Code::kOk);
  EXPECT_TRUE(rig.holds(0, 16 * kMiB, 7));
  EXPECT_EQ(rig.plain(OpKind::kTrim, 0, 48 * kMiB), Code::kOk);
  EXPECT_TRUE(rig.holds(0, 48 * kMiB, 0));
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Grow, TwoAtOnceTakeTurns) {
  Rig rig;
  rig.create(16 * kMiB, 16 * kMiB);
  std::optional<Status> first, second;
  io::spawn(rig.volume().grow(32 * kMiB), [&](Status&& status) { first = std::move(status); });
  io::spawn(rig.volume().grow(48 * kMiB), [&](Status&& status) { second = std::move(status); });
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  while (!second) ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_TRUE(first && *first && *second);
  EXPECT_EQ(rig.volume().info().size, 48 * kMiB);
}

}  // namespace
}  // namespace foreshadow::volume
