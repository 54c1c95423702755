// Volumes over an image when something of them is damaged: data with checksums, and what extent/repair.h and
// extent/rescue.h make of tables that lie in the head.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "base/size.h"
#include "extent/label.h"
#include "extent/recovery.h"
#include "extent/repair.h"
#include "extent/rescue.h"
#include "extent/sealed_block.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using extent::kMetaBlock;
using extent::Layout;

constexpr uint64_t kSize = 8 * kMiB + 1536;

// Closed, with a shadow, into which some of the image has moved.
struct OverRig : Rig {
  explicit OverRig(bool checksums = false) : expected(kSize, 7) {
    create_over(expected, 16 * kMiB, Redirect::kAll, checksums);
    head = directory() + "/" + pool().list()->front() + ".seg";
    shadow = add_shadow(16 * kMiB);
    EXPECT_TRUE(volume().activate_shadow(shadow));
    EXPECT_EQ(write(kMiB, kMiB, 0xaa), Code::kOk);
    std::fill_n(expected.begin() + kMiB, kMiB, 0xaa);
    close();
    label = label_of(head);
  }
  static std::vector<std::byte> bytes(const std::string& path, uint64_t offset, size_t length) {
    std::vector<std::byte> out(length);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(::pread(fd, out.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
    ::close(fd);
    return out;
  }
  static void trash(const std::string& path, uint64_t offset, size_t length) {
    const std::vector<std::byte> what(length, std::byte{0x5a});
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_EQ(::pwrite(fd, what.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
    ::close(fd);
  }
  static extent::Label label_of(const std::string& path) {
    const auto block = bytes(path, 0, kMetaBlock);
    return *extent::decode_label(block, 0);
  }
  std::string shadow_path() { return directory() + "/" + shadow.str() + ".seg"; }

  // Everything, the image last, for as long as the files live.
  struct Files {
    std::vector<std::unique_ptr<io::File>> owned;
    std::vector<io::File*> pointers;
    size_t base = 0;
  };
  Files open_files() {
    Files out;
    const std::vector<std::string> backings = *pool().list();
    for (const std::string& backing : backings)
      out.owned.push_back(*pool().open(backing, io::Directory::Mode::kReadWriteLocked));
    out.base = out.owned.size();
    out.owned.push_back(*io::open_device(loop(), image_path(), io::Directory::Mode::kReadWriteLocked));
    for (const auto& file : out.owned) out.pointers.push_back(file.get());
    return out;
  }
  extent::RepairReport repair() {
    const Files files = open_files();
    auto report = wait(extent::repair_segments(files.pointers, true, files.base));
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : extent::RepairReport();
  }
  void expect_whole() {
    ASSERT_TRUE(open()) << error.message;
    EXPECT_EQ(findings(), std::vector<std::string>{});
    EXPECT_EQ(read(0, kSize), expected);
  }

  std::vector<uint8_t> expected;
  std::string head;
  Uuid shadow;
  extent::Label label;
};

TEST(OverChecksums, HeadAndShadowsHaveThemAndTheImageHasNone) {
  OverRig rig(true);
  rig.expect_whole();
  auto scrubbed = rig.wait(rig.volume().scrub({}));
  ASSERT_TRUE(scrubbed) << scrubbed.error().message;
  const ScrubCounts& counts = scrubbed->now.counts;
  EXPECT_EQ(counts.read, kSize / 4096 + 1);
  EXPECT_EQ(counts.verified, kMiB / 4096);
  EXPECT_EQ(counts.filled + counts.corrupt + counts.unreadable, 0u);
  EXPECT_TRUE(rig.wait(rig.volume().grow(16 * kMiB))) << "the cut tail moves into the head";
  ASSERT_EQ(rig.write(12 * kMiB, kMiB, 3), Code::kOk);
  rig.close();
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_EQ(rig.read(0, kSize), rig.expected);
  EXPECT_TRUE(rig.holds(12 * kMiB, kMiB, 3));
  const Status folded = rig.wait(rig.volume().fold_shadow(rig.shadow, 0));
  ASSERT_TRUE(folded) << folded.error().message;
  EXPECT_EQ(rig.read(0, kSize), rig.expected);
}

TEST(OverChecksums, WhatHasRottedIsNotFoldedIntoTheImage) {
  OverRig rig(true);
  rig.trash(rig.shadow_path(), rig.label_of(rig.shadow_path()).layout.data_offset + 5 * 4096 + 9, 1);
  ASSERT_TRUE(rig.open()) << rig.error.message;
  const Status folded = rig.wait(rig.volume().fold_shadow(rig.shadow, 0));
  ASSERT_FALSE(folded) << "nothing could ever tell that it is not what was written";
  EXPECT_EQ(folded.error().code, Code::kCorrupt);
  for (const uint8_t byte : rig.image()) ASSERT_TRUE(byte == 7 || byte == 0xaa);
  uint64_t refused = 0;
  for (uint64_t at = kMiB; at < 2 * kMiB; at += 4096) refused += rig.holds(at, 4096, 0xaa) ? 0 : 1;
  EXPECT_EQ(refused, 1u);
  rig.close();
}

TEST(OverRepair, LooksForNothingOfItsOwnInTheImage) {
  OverRig rig;
  EXPECT_TRUE(rig.repair().repaired.empty());
  rig.trash(rig.head, 0, kMetaBlock);
  rig.trash(rig.head, Layout::super_offset(2), kMetaBlock);
  const auto report = rig.repair();
  EXPECT_EQ(report.repaired.size(), 2u);
  EXPECT_TRUE(report.refused.empty() && report.orphans.empty());
  rig.expect_whole();
}

TEST(OverRepair, ALostPageOfTheImagesTableIsWhereEverythingBeganAndTheJournal) {
  OverRig rig;
  const Layout layout = rig.label.base->layout();
  // The first one that was ever written: in the second place there is none.
  const uint32_t place = extent::all_zero(rig.bytes(rig.head, layout.page_offset(0, 0), kMetaBlock)) ? 1 : 0;
  ASSERT_TRUE(extent::all_zero(rig.bytes(rig.head, layout.page_offset(0, 1 - place), kMetaBlock)));
  rig.trash(rig.head, layout.page_offset(0, place), kMetaBlock);
  ASSERT_FALSE(rig.open());
  EXPECT_EQ(rig.repair().repaired.size(), 1u);
  rig.expect_whole();
}

TEST(OverRescue, ASuperblockIsRebuiltWithTheImageAndTheSizeThatTheVolumeGrewTo) {
  for (const bool grown : {false, true}) {
    OverRig rig(true);
    if (grown) {
      ASSERT_TRUE(rig.open()) << rig.error.message;
      ASSERT_TRUE(rig.wait(rig.volume().grow(20 * kMiB)));
      rig.close();
    }
    for (uint32_t copy = 0; copy < extent::kSuperCopies; ++copy)
      rig.trash(rig.head, Layout::super_offset(copy), extent::kSuperBytes);
    ASSERT_FALSE(rig.open());
    {
      const OverRig::Files files = rig.open_files();
      auto rebuilt = rig.wait(extent::rebuild_superblock(files.pointers, files.base));
      ASSERT_TRUE(rebuilt) << rebuilt.error().message;
      EXPECT_EQ(rebuilt->super.size, grown ? 20 * kMiB : kSize);
      EXPECT_EQ(rebuilt->super.features, extent::kFeatureChecksums | extent::kFeatureBase);
      ASSERT_TRUE(rig.wait(extent::write_superblock(*files.pointers[rebuilt->primary], rebuilt->super)));
    }
    rig.expect_whole();
  }
}

// A guest may write what it likes into the image, the beginning of another volume's primary included.
TEST(OverRescue, WhatLooksLikeALabelInTheImageIsNotRead) {
  OverRig rig(true);
  const auto label = OverRig::bytes(rig.head, 0, 2 * kMetaBlock);
  const int fd = ::open(rig.image_path().c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::pwrite(fd, label.data(), label.size(), 0), static_cast<ssize_t>(label.size()));
  ::close(fd);
  for (uint32_t copy = 0; copy < extent::kSuperCopies; ++copy)
    OverRig::trash(rig.head, Layout::super_offset(copy), extent::kSuperBytes);
  const OverRig::Files files = rig.open_files();
  const auto rebuilt = rig.wait(extent::rebuild_superblock(files.pointers, files.base));
  ASSERT_TRUE(rebuilt) << rebuilt.error().message;
  EXPECT_NE(rebuilt->primary, files.base);
  EXPECT_TRUE(rebuilt->to_mark.empty());
}

TEST(OverRepair, AVolumeSmallerThanItsImageIsRefused) {
  OverRig rig;
  std::vector<std::byte> copy = OverRig::bytes(rig.head, Layout::super_offset(0), extent::kSuperBytes);
  auto super = extent::decode_superblock(copy, Layout::super_offset(0), rig.label.volume);
  ASSERT_TRUE(super);
  super->size = kMiB;
  {
    const OverRig::Files files = rig.open_files();
    const std::vector<std::string> names = *rig.pool().list();
    size_t index = 0;
    while (rig.directory() + "/" + names[index] + ".seg" != rig.head) ++index;
    ASSERT_TRUE(rig.wait(extent::write_superblock(*files.pointers[index], *super)));
  }
  EXPECT_FALSE(rig.open());
  EXPECT_NE(rig.error.message.find("the image that it lies over"), std::string::npos) << rig.error.message;
}

}  // namespace
}  // namespace foreshadow::volume
