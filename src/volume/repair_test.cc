// check --repair on damaged images: what can be proven is made good, and nothing else is touched.
#include "extent/repair.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "extent/label.h"
#include "extent/recovery.h"
#include "extent/rescue.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using extent::kMetaBlock;
using extent::Layout;

// A closed volume with some history, whose only backing can be damaged and put right.
struct DamagedRig : Rig {
  explicit DamagedRig(bool checksums = false) {
    create(kGiB, 16 * kMiB, Redirect::kAllocating, checksums);
    for (uint64_t i = 0; i < 40; ++i) EXPECT_EQ(write(i * 128 * kKiB, 20'000, 5), Code::kOk);
    EXPECT_TRUE(wait(volume().checkpoint()));
    for (uint64_t i = 0; i < 40; ++i) EXPECT_EQ(write(100 * kMiB + i * 64 * kKiB, 64 * kKiB, 6), Code::kOk);
    EXPECT_EQ(plain(block::OpKind::kTrim, 0, kMiB), Code::kOk);
    close();
    path = std::filesystem::directory_iterator(directory())->path();
    layout = read_label_of_file().layout;
  }
  extent::Label read_label_of_file() {
    const auto block = bytes(0, kMetaBlock);
    return *extent::decode_label(block, 0);
  }
  std::vector<std::byte> bytes(uint64_t offset, size_t length) const {
    std::vector<std::byte> out(length);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(::pread(fd, out.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
    ::close(fd);
    return out;
  }
  void put(uint64_t offset, const std::vector<std::byte>& what) const {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_EQ(::pwrite(fd, what.data(), what.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(what.size()));
    ::close(fd);
  }
  void flip(uint64_t offset) const {
    auto one = bytes(offset, 1);
    one[0] ^= std::byte{0x20};
    put(offset, one);
  }
  void trash(uint64_t offset, size_t length) const {
    put(offset, std::vector<std::byte>(length, std::byte{0x5a}));
  }
  // The place in use of that table page: the one with the higher checkpoint.
  uint64_t page_in_use(uint32_t page) const {
    const auto sequence = [&](uint32_t place) {
      const auto field = bytes(layout.page_offset(page, place) + 40, 8);
      uint64_t out = 0;
      std::memcpy(&out, field.data(), sizeof out);
      return out;
    };
    return layout.page_offset(page, sequence(0) > sequence(1) ? 0 : 1);
  }
  // All backings, opened for as long as it lives.
  struct OpenBackings {
    explicit OpenBackings(Rig& rig) {
      const std::vector<std::string> backings = *rig.pool().list();
      for (const std::string& backing : backings) {
        files.push_back(*rig.pool().open(backing, io::Directory::Mode::kReadWriteLocked));
        pointers.push_back(files.back().get());
      }
    }
    std::vector<std::unique_ptr<io::File>> files;
    std::vector<io::File*> pointers;
  };
  extent::RepairReport repair(bool apply = true) {
    const OpenBackings opened(*this);
    auto report = wait(extent::repair_segments(opened.pointers, apply));
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : extent::RepairReport();
  }
  // The backing that the label names.
  std::string primary_name() {
    for (const auto& entry : std::filesystem::directory_iterator(directory())) {
      path = entry.path();
      if (read_label_of_file().role == SegmentRole::kPrimary) return entry.path().filename();
    }
    return {};
  }
  void expect_whole() {
    ASSERT_TRUE(open()) << error.message;
    EXPECT_EQ(findings(), std::vector<std::string>{});
    EXPECT_TRUE(holds(0, kMiB, 0));
    EXPECT_TRUE(holds(10 * 128 * kKiB, 20'000, 5));
    EXPECT_TRUE(holds(100 * kMiB, 40 * 64 * kKiB, 6));
  }
  std::filesystem::path path;
  Layout layout;
};

TEST(Repair, HasNothingToDoOnAGoodVolume) {
  DamagedRig rig;
  const auto report = rig.repair();
  EXPECT_TRUE(report.repaired.empty() && report.refused.empty() && report.orphans.empty());
  rig.expect_whole();
}

TEST(Repair, ALostLabelComesFromTheOther) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{kMetaBlock}}) {
    DamagedRig rig;
    rig.trash(offset, kMetaBlock);
    const auto before = rig.bytes(offset, kMetaBlock);
    EXPECT_EQ(rig.repair(false).repaired.size(), 1u);
    EXPECT_EQ(rig.bytes(offset, kMetaBlock), before) << "without apply, nothing is written";
    EXPECT_EQ(rig.repair().repaired.size(), 1u);
    EXPECT_TRUE(rig.repair().repaired.empty());
    rig.expect_whole();
  }
}

TEST(Repair, BothLabelsWithAFlippedBitEachAreMended) {
  DamagedRig rig;
  rig.flip(100);
  rig.flip(kMetaBlock + 700);
  EXPECT_FALSE(rig.open());
  EXPECT_EQ(rig.repair().repaired.size(), 2u);
  rig.expect_whole();
}

TEST(Repair, SuperblockCopiesComeFromTheQuorumOrFromOneFlippedBitEach) {
  {
    DamagedRig rig;
    rig.trash(Layout::super_offset(0), extent::kSuperBytes);
    rig.trash(Layout::super_offset(3), 512);
    EXPECT_EQ(rig.repair().repaired.size(), 2u);
    rig.expect_whole();
  }
  {
    DamagedRig rig;
    for (uint32_t copy = 0; copy < extent::kSuperCopies; ++copy)
      rig.flip(Layout::super_offset(copy) + 60 + copy);
    EXPECT_FALSE(rig.open());
    EXPECT_FALSE(rig.repair().repaired.empty());
    rig.expect_whole();
  }
  DamagedRig rig;
  for (uint32_t copy = 0; copy < extent::kSuperCopies; ++copy) rig.trash(Layout::super_offset(copy), 4096);
  const auto report = rig.repair();
  EXPECT_TRUE(report.repaired.empty());
  ASSERT_EQ(report.refused.size(), 1u);
  EXPECT_NE(report.refused[0].find("rescue"), std::string::npos);
}

TEST(Repair, AFlippedBitInATableOrChecksumPageIsMended) {
  for (const bool of_checksums : {false, true}) {
    DamagedRig rig(true);
    const uint64_t at = of_checksums ? rig.layout.checksum_page_offset(1, 0) : rig.page_in_use(0);
    rig.flip(at + 64 + 33);
    const bool opens = rig.open();
    if (opens) rig.close();  // that place of the checksum page is not the one in use
    EXPECT_TRUE(of_checksums || !opens);
    const auto report = rig.repair();
    EXPECT_EQ(report.refused, std::vector<std::string>{});
    EXPECT_TRUE(opens || report.repaired.size() == 1);
    rig.expect_whole();
  }
}

TEST(Repair, ALostTablePageComesFromThePageBeforeAndTheJournal) {
  DamagedRig rig;
  rig.trash(rig.page_in_use(0), kMetaBlock);
  ASSERT_FALSE(rig.open());
  const auto report = rig.repair();
  ASSERT_EQ(report.repaired.size(), 1u);
  EXPECT_NE(report.repaired[0].find("journal"), std::string::npos) << report.repaired[0];
  rig.expect_whole();
}

TEST(Repair, ALostTablePageWhoseHistoryIsGoneIsRefusedAndLeftAlone) {
  DamagedRig rig;
  const uint64_t at = rig.page_in_use(0);
  rig.trash(at, kMetaBlock);
  // The journal that told of it is gone as well: its blocks chain no more.
  rig.trash(rig.layout.journal_offset + kMetaBlock, 8 * kMetaBlock);
  const auto report = rig.repair();
  EXPECT_TRUE(report.repaired.empty());
  EXPECT_EQ(report.refused.size(), 1u);
  EXPECT_EQ(rig.bytes(at, 16), std::vector<std::byte>(16, std::byte{0x5a}));
}

TEST(Repair, AFlippedBitInDurableHistoryIsMended) {
  DamagedRig rig;
  ASSERT_TRUE(rig.open());
  for (uint8_t i = 0; i < 5; ++i) {
    ASSERT_EQ(rig.write(200 * kMiB + i * kMiB, 4096, i), Code::kOk);
    ASSERT_EQ(rig.plain(block::OpKind::kFlush), Code::kOk);
  }
  // As after kill -9: a copy of the file while the volume is open, in place of what close() leaves.
  const auto journal = rig.bytes(0, static_cast<size_t>(rig.layout.data_offset));
  rig.close();
  rig.put(0, journal);
  // The first block after the replay position whose successor says that it was durable.
  uint64_t newest = 0;
  uint64_t at = 0;
  for (uint32_t i = 0; i < rig.layout.journal_blocks; ++i) {
    const uint64_t offset = rig.layout.journal_offset + uint64_t{i} * kMetaBlock;
    const auto field = rig.bytes(offset + 32, 8);
    uint64_t sequence = 0;
    std::memcpy(&sequence, field.data(), sizeof sequence);
    if (sequence > newest) newest = sequence, at = offset;
  }
  rig.flip(at - kMetaBlock + 70);
  ASSERT_FALSE(rig.open());
  EXPECT_NE(rig.error.message.find("hole"), std::string::npos);
  const auto report = rig.repair();
  ASSERT_EQ(report.repaired.size(), 1u);
  ASSERT_TRUE(rig.open()) << rig.error.message;
  for (uint8_t i = 0; i < 5; ++i) EXPECT_TRUE(rig.holds(200 * kMiB + i * kMiB, 4096, i));
}

TEST(Repair, NamesOrphans) {
  DamagedRig rig;
  ASSERT_TRUE(rig.open());
  rig.add_shadow(16 * kMiB, false);
  rig.close();
  EXPECT_EQ(rig.repair().orphans.size(), 1u);
}

// ---- rescue

struct LostRig : DamagedRig {
  explicit LostRig(bool checksums = false) : DamagedRig(checksums) {}
  void lose_superblock() {
    for (uint32_t copy = 0; copy < extent::kSuperCopies; ++copy)
      trash(Layout::super_offset(copy), extent::kSuperBytes);
  }
  Result<extent::Rebuilt> rebuild(bool write) {
    const OpenBackings opened(*this);
    auto rebuilt = wait(extent::rebuild_superblock(opened.pointers));
    if (rebuilt && write) {
      EXPECT_TRUE(wait(extent::write_superblock(*opened.pointers[rebuilt->primary], rebuilt->super)));
    }
    return rebuilt;
  }
};

TEST(Rescue, AllFourSuperblockCopiesAreRebuiltFromTablesAndJournal) {
  for (const bool checksums : {false, true}) {
    LostRig rig(checksums);
    rig.lose_superblock();
    ASSERT_FALSE(rig.open());
    auto rebuilt = rig.rebuild(true);
    ASSERT_TRUE(rebuilt) << rebuilt.error().message;
    EXPECT_EQ(rebuilt->super.size, kGiB) << "the label tells";
    rig.expect_whole();
    EXPECT_EQ(rig.volume().checksums(), checksums);
  }
}

TEST(Rescue, ShadowsComeBackWithTheirDataMergedOrNot) {
  LostRig rig;
  ASSERT_TRUE(rig.open());
  const Uuid first = rig.add_shadow(16 * kMiB);
  ASSERT_EQ(rig.write(400 * kMiB, 20 * kMiB, 7), Code::kOk);
  const Uuid second = rig.add_shadow(16 * kMiB);
  ASSERT_EQ(rig.write(500 * kMiB, 12 * kMiB, 8), Code::kOk);
  rig.close();
  rig.path = rig.directory() + "/" + rig.primary_name();
  rig.lose_superblock();
  ASSERT_FALSE(rig.open());
  auto rebuilt = rig.rebuild(true);
  ASSERT_TRUE(rebuilt) << rebuilt.error().message;
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_EQ(rig.volume().segments().size(), 3u);
  EXPECT_EQ(rig.volume().segments()[1].uuid, first);
  EXPECT_EQ(rig.volume().segments()[2].uuid, second);
  EXPECT_TRUE(rig.holds(400 * kMiB, 20 * kMiB, 7));
  EXPECT_TRUE(rig.holds(500 * kMiB, 12 * kMiB, 8));
  EXPECT_EQ(rig.findings(), std::vector<std::string>{});
}

TEST(Rescue, SqueezedClustersComeBackToo) {
  LostRig rig(true);
  ASSERT_TRUE(rig.open());
  const Uuid primary = rig.volume().segments().front().uuid;
  auto squeezed = rig.wait(rig.volume().squeeze_segment(primary, {}));
  ASSERT_TRUE(squeezed) << squeezed.error().message;
  ASSERT_GT(squeezed->squeezed, 0u);
  auto scrubbed = rig.wait(rig.volume().scrub({}));
  ASSERT_TRUE(scrubbed) << scrubbed.error().message;
  EXPECT_EQ(scrubbed->now.counts.verified, scrubbed->now.counts.read);
  rig.close();
  rig.lose_superblock();
  auto rebuilt = rig.rebuild(true);
  ASSERT_TRUE(rebuilt) << rebuilt.error().message;
  rig.expect_whole();
}

// What is left of a superblock tells more than tables and journal do: the record of a growth is gone from the
// ring long before.
TEST(Rescue, ALoneGoodCopyIsBelievedAndNotGuessed) {
  LostRig rig;
  ASSERT_TRUE(rig.open());
  ASSERT_TRUE(rig.wait(rig.volume().grow(2 * kGiB)));
  rig.close();
  for (uint32_t copy = 0; copy + 1 < extent::kSuperCopies; ++copy)
    rig.trash(Layout::super_offset(copy), extent::kSuperBytes);
  ASSERT_FALSE(rig.open());
  auto rebuilt = rig.rebuild(true);
  ASSERT_TRUE(rebuilt) << rebuilt.error().message;
  EXPECT_FALSE(rebuilt->stands);
  EXPECT_EQ(rebuilt->super.size, 2 * kGiB);
  EXPECT_TRUE(rebuilt->assumptions.empty());
  EXPECT_NE(rebuilt->from.find("1 of 4 copies"), std::string::npos) << rebuilt->from;
  rig.expect_whole();
  rig.close();
  rebuilt = rig.rebuild(false);
  ASSERT_TRUE(rebuilt) << rebuilt.error().message;
  EXPECT_TRUE(rebuilt->stands);
  EXPECT_NE(rebuilt->from.find("4 of 4 copies"), std::string::npos) << rebuilt->from;
}

TEST(Rescue, AReleasedSegmentIsNotMissed) {
  for (const bool gone : {true, false}) {
    LostRig rig;
    ASSERT_TRUE(rig.open());
    const Uuid shadow = rig.add_shadow(16 * kMiB);
    ASSERT_EQ(rig.write(400 * kMiB, kMiB, 7), Code::kOk);
    ASSERT_TRUE(rig.wait(rig.volume().drain_segment(shadow)));
    ASSERT_EQ(rig.write(500 * kMiB, kMiB, 8), Code::kOk);
    rig.close();
    rig.path = rig.directory() + "/" + rig.primary_name();
    if (gone) {
      ASSERT_TRUE(rig.pool().remove(shadow.str()));
    }
    rig.lose_superblock();
    auto rebuilt = rig.rebuild(true);
    ASSERT_TRUE(rebuilt) << rebuilt.error().message;
    EXPECT_EQ(rebuilt->state->segments.size(), gone ? 1u : 2u) << "the record of its release is replayed";
    rig.expect_whole();
    EXPECT_EQ(rig.volume().segments().size(), gone ? 1u : 2u);
    EXPECT_TRUE(rig.holds(400 * kMiB, kMiB, 7));
    EXPECT_TRUE(rig.holds(500 * kMiB, kMiB, 8));
  }
}

TEST(Rescue, AnEmptyJournalBesideUsedTablesProvesNothing) {
  LostRig rig;
  rig.lose_superblock();
  rig.put(rig.layout.journal_offset,
          std::vector<std::byte>(size_t{rig.layout.journal_blocks} * kMetaBlock, std::byte{0}));
  const auto rebuilt = rig.rebuild(false);
  ASSERT_FALSE(rebuilt);
  EXPECT_NE(rebuilt.error().message.find("the journal is empty"), std::string::npos)
      << rebuilt.error().message;
}

// An older copy of a backing must not stand in for the newer.
TEST(Repair, ASegmentThatIsThereTwiceIsRefused) {
  LostRig rig;
  ASSERT_TRUE(rig.open());
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  rig.close();
  std::filesystem::copy_file(rig.directory() + "/" + shadow.str() + ".seg", rig.directory() + "/copy.seg");
  const DamagedRig::OpenBackings opened(rig);
  const auto state = rig.wait(extent::recover(opened.pointers));
  ASSERT_FALSE(state);
  EXPECT_NE(state.error().message.find("is there twice"), std::string::npos) << state.error().message;
  const auto report = rig.wait(extent::repair_segments(opened.pointers, true));
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->orphans.empty());
  ASSERT_EQ(report->refused.size(), 1u);
  EXPECT_FALSE(rig.wait(extent::rebuild_superblock(opened.pointers)));
}

TEST(Rescue, AGapInHistoryOrADamagedPageProvesNothing) {
  {
    LostRig rig;
    ASSERT_TRUE(rig.open());
    for (uint8_t i = 0; i < 4; ++i) {
      ASSERT_EQ(rig.write(200 * kMiB + i * kMiB, 4096, i), Code::kOk);
      ASSERT_EQ(rig.plain(block::OpKind::kFlush), Code::kOk);
    }
    rig.close();
    rig.lose_superblock();
    // The journal's second block of three or more: what comes before it does not chain any more.
    const uint64_t at = rig.layout.block_offset(2);
    ASSERT_NE(rig.bytes(at, 4)[0], std::byte{0});
    rig.trash(at + 100, 8);
    auto rebuilt = rig.rebuild(false);
    ASSERT_FALSE(rebuilt);
    EXPECT_NE(rebuilt.error().message.find("block"), std::string::npos);
  }
  LostRig rig;
  rig.lose_superblock();
  rig.trash(rig.page_in_use(0) + 70, 8);
  auto rebuilt = rig.rebuild(false);
  ASSERT_FALSE(rebuilt);
  EXPECT_NE(rebuilt.error().message.find("table page 0"), std::string::npos);
}

TEST(Rescue, WritesThatWereFlushedAndNeverCheckpointedComeBackToo) {
  LostRig rig;
  ASSERT_TRUE(rig.open());
  ASSERT_EQ(rig.write(300 * kMiB, 4096, 9), Code::kOk);
  ASSERT_EQ(rig.plain(block::OpKind::kFlush), Code::kOk);
  const auto as_killed = rig.bytes(0, static_cast<size_t>(rig.layout.data_offset));
  rig.close();
  rig.put(0, as_killed);
  rig.lose_superblock();
  auto rebuilt = rig.rebuild(true);
  ASSERT_TRUE(rebuilt) << rebuilt.error().message;
  rig.expect_whole();
  EXPECT_TRUE(rig.holds(300 * kMiB, 4096, 9));
}

}  // namespace
}  // namespace foreshadow::volume
