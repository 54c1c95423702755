#include "extent/superblock.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "extent/label.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

Superblock sample(uint64_t sequence) {
  Superblock super;
  super.volume.bytes[3] = std::byte{7};
  super.sequence = sequence;
  super.epoch = Epoch(4);
  super.size = kTiB;
  super.checkpoint = CkptSeq(9);
  super.replay_from = BlockSeq(100);
  super.replay_prev_crc = 0x12345678;
  super.epoch_start = BlockSeq(90);
  super.redirect = Redirect::kAll;
  super.table_digest = 42;
  super.next_segment = SegmentId(2);
  super.segments.push_back(
      {SegmentId(0), {}, SegmentRole::kPrimary, SegmentState::kMerged, Pcn(kGranuleClusters), 4000});
  super.segments.push_back(
      {SegmentId(1), {}, SegmentRole::kShadow, SegmentState::kActive, Pcn(2 * kGranuleClusters), 8000});
  return super;
}

// Four copies with the given sequences; 0 is a torn one.
Result<Superblock> chosen(std::array<uint64_t, kSuperCopies> sequences, uint64_t* highest) {
  const io::Buffer bytes(size_t{kSuperCopies} * kSuperBytes);
  for (uint32_t i = 0; i < kSuperCopies; ++i) {
    const auto copy = bytes.span().subspan(size_t{i} * kSuperBytes, kSuperBytes);
    encode_superblock(sample(sequences[i] == 0 ? 1 : sequences[i]), Layout::super_offset(i), copy);
    if (sequences[i] == 0) copy[5000] ^= std::byte{1};
  }
  return choose_superblock(bytes.span(), sample(1).volume, highest);
}

TEST(Superblock, RoundTrips) {
  const io::Buffer bytes(kSuperBytes);
  encode_superblock(sample(3), 8192, bytes.span());
  auto back = decode_superblock(bytes.span(), 8192, sample(3).volume);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, sample(3));
}

TEST(Superblock, RefusesAWrongPlaceAndAWrongVolume) {
  const io::Buffer bytes(kSuperBytes);
  encode_superblock(sample(3), 8192, bytes.span());
  EXPECT_FALSE(decode_superblock(bytes.span(), 16384, sample(3).volume));
  EXPECT_FALSE(decode_superblock(bytes.span(), 8192, Uuid{}));
}

TEST(Superblock, TheQuorumDecides) {
  struct Case {
    std::array<uint64_t, kSuperCopies> copies;
    uint64_t expected;  // 0: refused
  };
  const Case cases[] = {{{5, 5, 5, 5}, 5}, {{6, 0, 5, 5}, 5}, {{6, 6, 5, 5}, 6}, {{6, 6, 0, 5}, 6},
                        {{0, 0, 5, 5}, 5}, {{9, 5, 0, 5}, 5}, {{0, 0, 0, 5}, 0}, {{6, 0, 0, 5}, 0}};
  for (const Case& c : cases) {
    uint64_t highest = 0;
    auto super = chosen(c.copies, &highest);
    EXPECT_EQ(super ? super->sequence : 0, c.expected);
    EXPECT_EQ(highest, *std::max_element(c.copies.begin(), c.copies.end()));
  }
}

TEST(Label, RoundTripsAndKnowsItsPlace) {
  Label label;
  label.volume.bytes[0] = std::byte{1};
  label.segment.bytes[0] = std::byte{2};
  label.size = 64 * kMiB;
  label.layout = *make_layout(label.size, label.geometry, 256);
  label.name = "demo";
  const io::Buffer block(kMetaBlock);
  encode_label(label, 4096, block.span());
  auto back = decode_label(block.span(), 4096);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, label);
  EXPECT_EQ(decode_label(block.span(), 0).error().code, Code::kCorrupt);
  for (size_t at = 0; at < kMetaBlock; at += 7) {
    block.span()[at] ^= std::byte{0x40};
    EXPECT_FALSE(decode_label(block.span(), 4096)) << at;
    block.span()[at] ^= std::byte{0x40};
  }
}

TEST(Layout, FitsAndDoesNotOverlap) {
  for (const uint64_t bytes : {8 * kMiB, 8 * kMiB + 4096, 256 * kMiB, 4 * kGiB, kTiB}) {
    for (const uint32_t journal : {0u, 256u}) {
      auto layout = make_layout(bytes, Geometry{}, journal);
      ASSERT_TRUE(layout);
      EXPECT_GE(layout->data_offset, layout->page_offset(layout->table_pages, 0));
      EXPECT_LE(layout->data_offset + uint64_t{layout->clusters} * 64 * kKiB, bytes);
      const uint64_t used = layout->data_offset + uint64_t{layout->clusters} * 64 * kKiB;
      EXPECT_LT(bytes - used, 2 * 64 * kKiB + bytes / 100'000);
    }
  }
  EXPECT_FALSE(make_layout(64 * kKiB, Geometry{}, 256));
}

}  // namespace
}  // namespace foreshadow::extent
