// Volumes with data checksums: nothing is served that was not written, and nothing good is refused.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "extent/label.h"
#include "extent/recovery.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;

struct Heard : Listener {
  void on_redirected(SegmentId) override {}
  void on_shadow_full(SegmentId) override {}
  void on_hold_began() override {}
  void on_hold_ended() override {}
  void on_read_only(const std::string&) override {}
  void on_corrupt_data(const CorruptData& where) override { corrupt.push_back(where); }
  std::vector<CorruptData> corrupt;
};

struct ChecksumRig : Rig {
  explicit ChecksumRig(Redirect redirect = Redirect::kAllocating) {
    create(kGiB, 16 * kMiB, redirect, true);
    volume().set_listener(&heard);
  }
  // Where the data of the primary begins.
  uint64_t data_offset() const {
    std::ifstream backing(std::filesystem::directory_iterator(directory())->path(), std::ios::binary);
    std::vector<char> block(extent::kMetaBlock);
    backing.read(block.data(), static_cast<std::streamsize>(block.size()));
    return extent::decode_label(std::as_bytes(std::span(block)), 0)->layout.data_offset;
  }
  // Changes one byte of the only backing, behind the volume's back.
  void rot(uint64_t offset) {
    const std::string path = std::filesystem::directory_iterator(directory())->path();
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    char byte = 0;
    ASSERT_EQ(::pread(fd, &byte, 1, static_cast<off_t>(offset)), 1);
    byte = static_cast<char>(byte ^ 0x10);
    ASSERT_EQ(::pwrite(fd, &byte, 1, static_cast<off_t>(offset)), 1);
    ::close(fd);
  }
  Code read_code(uint64_t offset, uint64_t length) {
    auto call = start(OpKind::kRead, offset, length);
    return finish(*call);
  }
  Heard heard;
};

TEST(Checksums, WhatRotsIsNeverServedAndIsNamed) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, 64 * kKiB, 0x11), Code::kOk);
  rig.rot(rig.data_offset() + 5 * 4096 + 77);
  EXPECT_EQ(rig.read_code(0, 64 * kKiB), Code::kCorrupt);
  EXPECT_EQ(rig.read_code(5 * 4096 + 512, 512), Code::kCorrupt)
      << "a part of the sub-block, the rot elsewhere";
  EXPECT_TRUE(rig.holds(0, 5 * 4096, 0x11));
  EXPECT_TRUE(rig.holds(6 * 4096, 10 * 4096, 0x11));
  EXPECT_EQ(rig.volume().stats().checksum_errors, 2u);
  ASSERT_EQ(rig.heard.corrupt.size(), 2u);
  EXPECT_EQ(rig.heard.corrupt[0].segment, SegmentId(0));
  EXPECT_EQ(rig.heard.corrupt[0].offset, rig.data_offset() + 5 * 4096);
  EXPECT_EQ(rig.heard.corrupt[0].cluster, Lcn(0));
  // A write of a part would have to read the rest; one of the whole makes it good.
  EXPECT_EQ(rig.write(5 * 4096 + 512, 512, 0x22), Code::kCorrupt);
  EXPECT_EQ(rig.write(5 * 4096, 4096, 0x22), Code::kOk);
  EXPECT_TRUE(rig.holds(5 * 4096, 4096, 0x22));
}

TEST(Checksums, ArePartOfTheVolumeAcrossACleanReopen) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(3 * kMiB, kMiB, 0x33), Code::kOk);
  rig.close();
  rig.rot(rig.data_offset() + 100'000);
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_TRUE(rig.volume().checksums());
  EXPECT_EQ(rig.read_code(3 * kMiB, kMiB), Code::kCorrupt);
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Checksums, AnOverwriteAfterACheckpointIsNotedFirstAndReadsBack) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), Code::kOk);
  for (uint8_t round = 2; round < 6; ++round) {
    ASSERT_TRUE(rig.wait(rig.volume().checkpoint()));
    ASSERT_EQ(rig.write(8192, 4096, round), Code::kOk);
    EXPECT_TRUE(rig.holds(8192, 4096, round));
    EXPECT_TRUE(rig.holds(12288, 4096, 1));
    EXPECT_EQ(rig.findings(), std::vector<std::string>{});
  }
}

TEST(Checksums, HoldForPartialWritesMovesTrimsAndReuse) {
  for (const Redirect redirect : {Redirect::kAllocating, Redirect::kAll}) {
    ChecksumRig rig(redirect);
    ASSERT_EQ(rig.write(1000, 200'000, 7), Code::kOk);
    rig.add_shadow(16 * kMiB);
    ASSERT_EQ(rig.write(5000, 3000, 8), Code::kOk);
    EXPECT_TRUE(rig.holds(5000, 3000, 8));
    EXPECT_TRUE(rig.holds(8000, 100'000, 7));
    ASSERT_EQ(rig.plain(OpKind::kTrim, 0, 128 * kKiB), Code::kOk);
    ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
    ASSERT_EQ(rig.write(10 * kMiB, 300 * kKiB, 9), Code::kOk);
    EXPECT_TRUE(rig.holds(10 * kMiB, 300 * kKiB, 9));
    EXPECT_TRUE(rig.holds(0, 128 * kKiB, 0));
    rig.close();
    ASSERT_TRUE(rig.open()) << rig.error.message;
    EXPECT_TRUE(rig.holds(10 * kMiB, 300 * kKiB, 9));
    EXPECT_TRUE(rig.holds(128 * kKiB, 60'000, 7));
    EXPECT_EQ(rig.volume().stats().checksum_errors, 0u);
  }
}

TEST(Checksums, AShadowWithoutThemIsRefusedByAVolumeThatHasThem) {
  ChecksumRig rig;
  const Uuid segment = *Uuid::parse("6f1a7c2e-0b5d-4e83-9a41-d2c85b7e9f10");
  auto file = rig.pool().create(segment.str(), 16 * kMiB);
  ASSERT_TRUE(file);
  ASSERT_TRUE(rig.wait(Volume::format_shadow(**file, rig.id(), segment, {}, false)));
  auto attached = rig.wait(rig.volume().attach_shadow({segment, std::move(*file)}));
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code, Code::kInvalidArgument);
}

// ---- scrub

TEST(Scrub, VerifiesWhatIsKnownAndFillsWhatIsNot) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), Code::kOk);
  ASSERT_EQ(rig.write(512 * kMiB, 300 * kKiB, 2), Code::kOk);
  auto scrubbed = rig.wait(rig.volume().scrub({}));
  ASSERT_TRUE(scrubbed) << scrubbed.error().message;
  EXPECT_EQ(scrubbed->now.counts.read, (kMiB + 300 * kKiB) / 4096);
  EXPECT_EQ(scrubbed->now.counts.verified, scrubbed->now.counts.read);
  EXPECT_EQ(scrubbed->total, scrubbed->now.counts.read);
  EXPECT_FALSE(scrubbed->running);
  EXPECT_EQ(rig.volume().stats().read_ops, 0u) << "its reads are nobody's requests";
}

TEST(Scrub, FindsRotCountsItAndGoesOn) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), Code::kOk);
  rig.rot(rig.data_offset() + 3 * 4096);
  rig.rot(rig.data_offset() + 200 * 4096 + 17);
  auto scrubbed = rig.wait(rig.volume().scrub({}));
  ASSERT_TRUE(scrubbed) << scrubbed.error().message;
  EXPECT_EQ(scrubbed->now.counts.corrupt, 2u);
  EXPECT_EQ(scrubbed->now.counts.verified, 254u);
  EXPECT_EQ(scrubbed->now.counts.filled, 0u);
  ASSERT_EQ(rig.heard.corrupt.size(), 2u);
  EXPECT_EQ(rig.heard.corrupt[1].cluster, Lcn(12));
}

TEST(Scrub, GoesOnWhereItWasToldTo) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, 2 * kMiB, 1), Code::kOk);
  ScrubOptions options;
  options.from.cursor = Lcn(16);
  options.from.counts.read = 256;
  auto scrubbed = rig.wait(rig.volume().scrub(options));
  ASSERT_TRUE(scrubbed);
  EXPECT_EQ(scrubbed->now.counts.read, 512u);
  EXPECT_EQ(scrubbed->now.counts.verified, 256u);
  EXPECT_EQ(scrubbed->resume.cursor, Lcn(kGiB / (64 * kKiB)));
}

TEST(Scrub, KeepsToItsRateAndStopsWhenTold) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, 4 * kMiB, 1), Code::kOk);
  ScrubOptions options;
  options.bytes_per_s = kMiB;  // four seconds, if it were let
  std::optional<Result<ScrubProgress>> out;
  io::spawn(rig.volume().scrub(options),
            [&](Result<ScrubProgress>&& result) { out.emplace(std::move(result)); });
  EXPECT_EQ(rig.wait(rig.volume().scrub({})).error().code, Code::kBusy);
  const MonoTime began = rig.loop().now();
  while (rig.loop().now() - began < std::chrono::milliseconds(600)) EXPECT_TRUE(rig.holds(0, 4096, 1));
  ASSERT_FALSE(out);
  const uint64_t read = rig.volume().scrub_progress().now.counts.read * 4096;
  EXPECT_GE(read, 256 * kKiB);
  EXPECT_LE(read, 1200 * kKiB);
  rig.volume().stop_scrub();
  while (!out) EXPECT_TRUE(rig.holds(0, 4096, 1));
  ASSERT_TRUE(*out);
  EXPECT_LT((*out)->resume.cursor, Lcn(64));
  EXPECT_GT((*out)->resume.cursor, Lcn(0));
}

TEST(Scrub, EndsWhenTheVolumeCloses) {
  ChecksumRig rig;
  ASSERT_EQ(rig.write(0, 4 * kMiB, 1), Code::kOk);
  ScrubOptions options;
  options.bytes_per_s = 64 * kKiB;
  bool ended = false;
  io::spawn(rig.volume().scrub(options), [&](Result<ScrubProgress>&&) { ended = true; });
  rig.close();
  EXPECT_TRUE(ended);
}

TEST(Scrub, ReadsAVolumeWithoutChecksumsToo) {
  Rig rig;
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(0, kMiB, 1), Code::kOk);
  auto scrubbed = rig.wait(rig.volume().scrub({}));
  ASSERT_TRUE(scrubbed);
  EXPECT_EQ(scrubbed->now.counts.read, 256u);
  EXPECT_EQ(scrubbed->now.counts.verified + scrubbed->now.counts.filled + scrubbed->now.counts.unreadable,
            0u);
}

}  // namespace
}  // namespace foreshadow::volume
