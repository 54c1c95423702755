#include "volume/volume.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/limits.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;
constexpr uint64_t kCluster = 64 * kKiB;

TEST(Volume, ReadsZeroWhereNothingWasWritten) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  EXPECT_TRUE(rig.holds(0, kMiB, 0));
  EXPECT_TRUE(rig.holds(kGiB - 4096, 4096, 0));
  EXPECT_EQ(rig.volume().usage().used, 0u);
}

TEST(Volume, ReadsBackWhatWasWrittenAtAnyAlignment) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  const std::pair<uint64_t, uint64_t> cases[] = {
      {0, 4096},        {kCluster - 4096, 8192},      {5 * kMiB + 1, 3}, {6 * kMiB + 511, 5000},
      {7 * kMiB, kMiB}, {9 * kMiB + 100, 200 * kKiB}, {kGiB - 512, 512}};
  uint8_t fill = 1;
  for (const auto& [offset, length] : cases) {
    ASSERT_EQ(rig.write(offset, length, fill), Code::kOk);
    EXPECT_TRUE(rig.holds(offset, length, fill)) << offset << "+" << length;
    ++fill;
  }
  EXPECT_TRUE(rig.holds(5 * kMiB, 1, 0));
  EXPECT_TRUE(rig.holds(5 * kMiB + 4, 4092, 0));
  EXPECT_EQ(rig.write(0, 100, 9), Code::kOk);  // read-modify-write of what is there
  EXPECT_TRUE(rig.holds(0, 100, 9));
  EXPECT_TRUE(rig.holds(100, 3996, 1));
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Volume, TakesTheLargestRequestsAtAnyAlignment) {
  Rig rig;
  rig.create(kGiB, 160 * kMiB);
  uint8_t fill = 1;
  for (const uint64_t offset : {uint64_t{0}, 4 * kMiB + 1}) {
    ASSERT_EQ(rig.write(offset, limits::kNbdRequestBytes, fill), Code::kOk);
    EXPECT_TRUE(rig.holds(offset, limits::kNbdRequestBytes, fill));
    ++fill;
  }
  EXPECT_TRUE(rig.holds(4 * kMiB, 1, 1));
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Volume, KeepsEverythingAcrossAReopen) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(kMiB, kMiB, 7), Code::kOk);
  rig.add_shadow(16 * kMiB);
  ASSERT_EQ(rig.write(100 * kMiB, 12 * kMiB, 8), Code::kOk);
  const Usage before = rig.volume().usage();
  rig.close();
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_TRUE(rig.holds(kMiB, kMiB, 7));
  EXPECT_TRUE(rig.holds(100 * kMiB, 12 * kMiB, 8));
  EXPECT_EQ(rig.volume().usage().used, before.used);
  EXPECT_EQ(rig.volume().usage().data, before.data);
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Volume, ZerosOntoNothingTakeNoSpace) {
  Rig rig;
  rig.create(kTiB, 16 * kMiB);
  for (uint64_t offset = 0; offset < 64 * kMiB; offset += kMiB)
    ASSERT_EQ(rig.write(offset, kMiB, 0), Code::kOk);
  ASSERT_EQ(rig.plain(OpKind::kZero, 0, kTiB), Code::kOk);
  EXPECT_EQ(rig.volume().usage().used, 0u);
}

TEST(Volume, TrimAndZeroGiveSpaceBack) {
  for (const OpKind kind : {OpKind::kTrim, OpKind::kZero}) {
    Rig rig;
    rig.create(kGiB, 16 * kMiB);
    ASSERT_EQ(rig.write(0, 4 * kMiB, 5), Code::kOk);
    ASSERT_EQ(rig.plain(kind, kMiB, 2 * kMiB), Code::kOk);
    EXPECT_TRUE(rig.holds(0, kMiB, 5));
    EXPECT_TRUE(rig.holds(kMiB, 2 * kMiB, 0));
    EXPECT_TRUE(rig.holds(3 * kMiB, kMiB, 5));
    ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
    EXPECT_EQ(rig.volume().usage().used, 2 * kMiB);
    EXPECT_TRUE(rig.findings().empty());
  }
}

TEST(Volume, ZeroIsExactAtItsEdges) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(0, 256 * kKiB, 5), Code::kOk);
  ASSERT_EQ(rig.plain(OpKind::kZero, 1000, 100'000), Code::kOk);
  EXPECT_TRUE(rig.holds(0, 1000, 5));
  EXPECT_TRUE(rig.holds(1000, 100'000, 0));
  EXPECT_TRUE(rig.holds(101'000, 1000, 5));
}

TEST(Volume, ZeroWithNoHoleStaysAllocated) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  auto call = rig.start(OpKind::kZero, 0, 3 * kMiB + 4096);
  call->no_hole = true;
  ASSERT_EQ(rig.finish(*call), Code::kOk);
  EXPECT_EQ(rig.volume().usage().data, 3 * kMiB + 4096);
  EXPECT_TRUE(rig.holds(0, 3 * kMiB + 4096, 0));
  auto fast = rig.start(OpKind::kZero, 0, 4096);
  fast->no_hole = fast->fast_zero = true;
  EXPECT_EQ(rig.finish(*fast), Code::kUnsupported);
}

TEST(Volume, ExtentsTellDataFromHoles) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(kMiB, 8192, 5), Code::kOk);
  const auto extents = rig.volume().extents(0, 2 * kMiB, 100);
  ASSERT_EQ(extents.size(), 3u);
  EXPECT_TRUE(extents[0].hole);
  EXPECT_EQ(extents[0].length, kMiB);
  EXPECT_FALSE(extents[1].hole);
  EXPECT_EQ(extents[1].length, 8192u);
  EXPECT_EQ(extents[2].length, kMiB - 8192);
  EXPECT_EQ(rig.volume().extents(0, kGiB, 2).size(), 2u);
}

TEST(Volume, RedirectsIntoTheWarmShadowWhenFullAndMergesIt) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  EXPECT_TRUE(rig.volume().has_warm_shadow());
  const uint64_t capacity = rig.volume().usage().capacity;
  for (uint64_t at = 0; at + kMiB <= capacity; at += kMiB) ASSERT_EQ(rig.write(at, kMiB, 3), Code::kOk);
  EXPECT_FALSE(rig.volume().has_warm_shadow());
  EXPECT_EQ(rig.volume().segments()[1].state, SegmentState::kActive);
  EXPECT_EQ(rig.volume().stats().holds, 0u);
  ASSERT_TRUE(rig.wait(rig.volume().merge_shadow(shadow)));
  EXPECT_EQ(rig.volume().segments()[1].state, SegmentState::kMerged);
  ASSERT_TRUE(rig.wait(rig.volume().merge_shadow(shadow))) << "a repeat is harmless";
  EXPECT_TRUE(rig.holds(0, kMiB, 3));
  EXPECT_TRUE(rig.holds(align_down(capacity, kMiB) - kMiB, kMiB, 3));
  rig.close();
  ASSERT_TRUE(rig.open());
  EXPECT_EQ(rig.volume().segments()[1].state, SegmentState::kMerged);
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Volume, FallsBackToThePrimaryWhenTheShadowIsFull) {
  Rig rig;
  rig.create(kGiB, 32 * kMiB);
  const Uuid shadow = rig.add_shadow(8 * kMiB);
  ASSERT_TRUE(rig.volume().activate_shadow(shadow));
  for (uint64_t at = 0; at < 20 * kMiB; at += kMiB) ASSERT_EQ(rig.write(at, kMiB, 4), Code::kOk);
  const auto segments = rig.volume().segments();
  EXPECT_EQ(segments[1].used, segments[1].capacity);
  EXPECT_EQ(segments[0].used + segments[1].used, 20 * kMiB);
}

TEST(Volume, RedirectAllMovesOverwritesWithoutCopyingTheRest) {
  Rig rig;
  rig.create(kGiB, 32 * kMiB, Redirect::kAll);
  ASSERT_EQ(rig.write(0, 4 * kMiB, 1), Code::kOk);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig.volume().activate_shadow(shadow));
  ASSERT_EQ(rig.write(4096, 8192, 2), Code::kOk);  // part of a cluster: two owners now
  ASSERT_EQ(rig.write(kMiB, kMiB, 3), Code::kOk);  // whole clusters: they move
  EXPECT_EQ(rig.volume().segments()[1].used, kMiB + kCluster);
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_EQ(rig.volume().segments()[0].used, 3 * kMiB);
  for (int pass = 0; pass < 2; ++pass) {
    EXPECT_TRUE(rig.holds(0, 4096, 1));
    EXPECT_TRUE(rig.holds(4096, 8192, 2));
    EXPECT_TRUE(rig.holds(12288, kMiB - 12288, 1));
    EXPECT_TRUE(rig.holds(kMiB, kMiB, 3));
    EXPECT_TRUE(rig.findings().empty());
    rig.close();
    ASSERT_TRUE(rig.open()) << rig.error.message;
  }
}

TEST(Volume, HoldsAtTheWallInOrderUntilAShadowArrives) {
  Rig rig;
  rig.create(kGiB, 8 * kMiB);
  rig.fill(6);
  auto first = rig.start(OpKind::kWrite, 100 * kMiB, kCluster, std::byte{1});
  auto second = rig.start(OpKind::kWrite, 200 * kMiB, kCluster, std::byte{2});
  rig.volume().submit(*first);
  rig.volume().submit(*second);
  EXPECT_TRUE(rig.holds(0, kCluster, 6)) << "reads pass";
  EXPECT_EQ(rig.write(0, kCluster, 7), Code::kOk) << "overwrites pass";
  EXPECT_FALSE(first->outcome || second->outcome);
  EXPECT_EQ(rig.volume().stats().held_now, 2u);
  rig.add_shadow(8 * kMiB);
  EXPECT_EQ(rig.await(*first), Code::kOk);
  EXPECT_EQ(rig.await(*second), Code::kOk);
  EXPECT_EQ(rig.volume().stats().held_now, 0u);
  EXPECT_EQ(rig.volume().stats().holds, 2u);
  EXPECT_TRUE(rig.holds(200 * kMiB, kCluster, 2));
}

TEST(Volume, TrimLetsAHeldWriteGoOn) {
  Rig rig;
  rig.create(kGiB, 8 * kMiB);
  rig.fill(6);
  auto held = rig.start(OpKind::kWrite, 100 * kMiB, kCluster, std::byte{1});
  rig.volume().submit(*held);
  ASSERT_EQ(rig.plain(OpKind::kTrim, 0, kCluster), Code::kOk);
  EXPECT_EQ(rig.await(*held), Code::kOk);
  EXPECT_TRUE(rig.holds(0, kCluster, 0));
}

TEST(Volume, AHoldEndsInACleanNoSpace) {
  Rig rig;
  rig.options.hold_timeout = std::chrono::milliseconds(50);
  rig.create(kGiB, 8 * kMiB);
  rig.fill(6);
  EXPECT_EQ(rig.write(100 * kMiB, kCluster, 1), Code::kNoSpace);
  EXPECT_EQ(rig.volume().stats().failed_writes, 1u);
  EXPECT_TRUE(rig.holds(100 * kMiB, kCluster, 0));
}

TEST(Volume, AHeldWriteThatNeedsNoClusterAnyMoreGoesOn) {
  Rig rig;
  rig.create(kGiB, 8 * kMiB);
  rig.fill(6);
  auto first = rig.start(OpKind::kWrite, 100 * kMiB, 4096, std::byte{1});
  auto second = rig.start(OpKind::kWrite, 100 * kMiB + 4096, 4096, std::byte{2});
  rig.volume().submit(*first);
  rig.volume().submit(*second);
  ASSERT_EQ(rig.plain(OpKind::kTrim, 0, kCluster), Code::kOk);  // one cluster, which both fit into
  EXPECT_EQ(rig.await(*first), Code::kOk);
  EXPECT_EQ(rig.await(*second), Code::kOk);
}

TEST(Volume, ABackingWhoseCreationWasCutShortIsAnOrphan) {
  Rig rig;
  rig.create(kGiB, 8 * kMiB);
  rig.close();
  const std::string path = rig.directory() + "/" + Uuid{}.str() + ".seg";
  std::ofstream(path).close();
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_EQ(rig.orphans, std::vector<Uuid>{Uuid{}});
}

TEST(Volume, ManyWaitersOnOneClusterDoNotDeepenTheStack) {
  Rig rig;
  rig.create(kGiB, 8 * kMiB);
  ASSERT_EQ(rig.write(0, 4096, 1), Code::kOk);
  auto write = rig.start(OpKind::kWrite, 0, 4096, std::byte{2});
  rig.volume().submit(*write);
  std::vector<std::unique_ptr<Rig::Call>> trims;
  for (int i = 0; i < 20'000; ++i) {
    trims.push_back(rig.start(OpKind::kTrim, 0, 4096));
    rig.volume().submit(*trims.back());
  }
  for (auto& trim : trims) EXPECT_EQ(rig.await(*trim), Code::kOk);
  EXPECT_EQ(rig.await(*write), Code::kOk);
}

TEST(Volume, CloseDoesNotWaitForTheWall) {
  Rig rig;
  rig.create(kGiB, 8 * kMiB);
  rig.fill(6);
  auto held = rig.start(OpKind::kWrite, 100 * kMiB, 4096, std::byte{1});
  rig.volume().submit(*held);
  rig.close();
  EXPECT_EQ(held->outcome, Code::kShutdown);
}

TEST(Volume, RefusesRangesPastTheEnd) {
  Rig rig;
  rig.create(64 * kMiB, 8 * kMiB);
  EXPECT_EQ(rig.write(64 * kMiB - 4096, 8192, 1), Code::kNoSpace);
  EXPECT_EQ(rig.plain(OpKind::kRead, 64 * kMiB, 1), Code::kInvalidArgument);
  EXPECT_EQ(rig.plain(OpKind::kTrim, UINT64_MAX - 1, 2), Code::kNoSpace);
}

TEST(Volume, ReportsWhatWasNeverAttachedAsAnOrphan) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  const Uuid orphan = rig.add_shadow(8 * kMiB, false);
  rig.close();
  ASSERT_TRUE(rig.open());
  EXPECT_EQ(rig.orphans, std::vector<Uuid>{orphan});
}

TEST(Volume, RefusesToOpenWithASegmentMissing) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  const Uuid shadow = rig.add_shadow(8 * kMiB);
  rig.close();
  ASSERT_TRUE(rig.pool().remove(shadow.str()));
  EXPECT_FALSE(rig.open());
  EXPECT_EQ(rig.error.code, Code::kNotFound);
  EXPECT_NE(rig.error.message.find(shadow.str()), std::string::npos);
}

void flip(const std::string& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

TEST(Volume, ABitFlipIsDetectedOrHarmless) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  for (int i = 0; i < 200; ++i)
    ASSERT_EQ(rig.write(static_cast<uint64_t>(i) * 3 * kMiB, 4096, static_cast<uint8_t>(i)), Code::kOk);
  rig.close();
  const std::string path = rig.directory() + "/" + rig.pool().list()->front() + ".seg";
  // Label, superblock, journal and table all lie below this; the data starts behind.
  for (uint64_t offset = 0; offset < 2 * kMiB; offset += 3967) {
    flip(path, offset);
    if (rig.open()) {
      for (int i = 0; i < 200; i += 20) {
        ASSERT_TRUE(rig.holds(static_cast<uint64_t>(i) * 3 * kMiB, 4096, static_cast<uint8_t>(i)))
            << "flip at " << offset;
      }
      rig.close();
    } else {
      EXPECT_FALSE(rig.error.message.empty());
      flip(path, offset);
      ASSERT_TRUE(rig.open()) << "flip at " << offset << " undone: " << rig.error.message;
      rig.close();
    }
  }
}

TEST(Volume, ATruncatedSegmentIsRefusedByName) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  rig.close();
  const std::string path = rig.directory() + "/" + rig.pool().list()->front() + ".seg";
  std::filesystem::resize_file(path, 12 * kMiB);
  EXPECT_FALSE(rig.open());
  EXPECT_EQ(rig.error.code, Code::kCorrupt);
  EXPECT_NE(rig.error.message.find("truncated"), std::string::npos) << rig.error.message;
}

TEST(Volume, FirstTouchesWithoutEndPassThroughASmallJournal) {
  Rig rig;
  rig.create(4 * kGiB, 64 * kMiB);
  // 900 clusters, trimmed and written again and again: many times the journal's records.
  for (int round = 0; round < 20; ++round) {
    for (uint64_t i = 0; i < 900; ++i)
      ASSERT_EQ(rig.write(i * 4 * kMiB, 4096, static_cast<uint8_t>(round + 1)), Code::kOk);
    ASSERT_EQ(rig.plain(OpKind::kTrim, 0, 4 * kGiB), Code::kOk);
  }
  EXPECT_EQ(rig.volume().usage().data, 0u);
  EXPECT_TRUE(rig.findings().empty());
}

}  // namespace
}  // namespace foreshadow::volume
