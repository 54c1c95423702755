#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "extent/checksum_page.h"
#include "extent/checksum_table.h"
#include "extent/journal.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

ChecksumPage sample() {
  ChecksumPage page;
  page.volume.bytes[1] = std::byte{1};
  page.segment.bytes[1] = std::byte{2};
  page.checkpoint = CkptSeq(7);
  page.page = 3;
  page.pcn_base = Pcn(kGranuleClusters);
  page.values[0] = 5;
  page.values.back() = 0xffffffff;
  return page;
}

TEST(ChecksumPage, RoundTripsAndIsRefusedAnywhereElse) {
  const io::Buffer block(kMetaBlock);
  const uint32_t crc = encode_checksum_page(sample(), sample().values, block.span());
  const auto decode = [&](uint32_t page, Pcn base) {
    return decode_checksum_page(block.span(), sample().volume, sample().segment, page, base);
  };
  auto back = decode(3, Pcn(kGranuleClusters));
  ASSERT_TRUE(back) << back.error().message;
  ASSERT_TRUE(back->has_value());
  EXPECT_EQ((*back)->crc, crc);
  EXPECT_EQ((*back)->page.checkpoint, CkptSeq(7));
  EXPECT_EQ((*back)->page.values, sample().values);
  EXPECT_FALSE(decode(4, Pcn(kGranuleClusters)));
  EXPECT_FALSE(decode(3, Pcn(2 * kGranuleClusters)));
  for (size_t at = 0; at < kMetaBlock; at += 13) {
    block.span()[at] ^= std::byte{4};
    EXPECT_FALSE(decode(3, Pcn(kGranuleClusters))) << at;
    block.span()[at] ^= std::byte{4};
  }
  std::fill(block.span().begin(), block.span().end(), std::byte{0});
  back = decode(3, Pcn(kGranuleClusters));
  ASSERT_TRUE(back);
  EXPECT_FALSE(back->has_value());
}

TEST(ChecksumPage, AChecksumIsNeverTheMarkOfAnUnknownOne) {
  EXPECT_EQ(data_checksum({}), 1u);  // of nothing it is 0
}

TEST(ChecksumPage, CountsInTheDigestApartFromTheTablePageOfTheSameNumber) {
  const Pcn base(kGranuleClusters);
  EXPECT_NE(checksum_page_digest(base, 0, CkptSeq(1), 9), checksum_page_digest(base, 1, CkptSeq(1), 9));
  EXPECT_NE(checksum_page_digest(base, 0, CkptSeq(1), 9), checksum_page_digest(base, 0, CkptSeq(2), 9));
}

TEST(Record, OfActivityRoundTripsAndRefusesWhatCannotBe) {
  std::array<std::byte, kRecordBytes> bytes;
  ActivityRecord record;
  for (uint8_t count = 1; count <= kActivityRegions; ++count) {
    record.count = count;
    record.regions[count - 1] = Pcn(20000u + count);
    encode_record(record, bytes);
    auto back = decode_record(bytes);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(*back, Record(record));
  }
  ActivityRecord bad[4] = {record, record, record, record};
  bad[0].count = 0;
  bad[1].count = kActivityRegions + 1;
  bad[2].regions[3] = Pcn(0);
  bad[3].regions[3] = Pcn(kPcnEnd);
  for (const ActivityRecord& wrong : bad) {
    encode_record(wrong, bytes);
    EXPECT_FALSE(decode_record(bytes));
  }
}

TEST(ChecksumTable, KnowsWhatWasSetAndNothingElse) {
  ChecksumTable table(2);
  EXPECT_EQ(table.get(0), kUnknownChecksum);
  const uint64_t last = uint64_t{2} * kChecksumClusters * kSubBlocks - 1;
  table.set(5, 77);
  table.set(last, 88);
  EXPECT_EQ(table.get(5), 77u);
  EXPECT_EQ(table.get(last), 88u);
  EXPECT_EQ(table.get(last + 1), kUnknownChecksum);
  table.set(last + 1, 1);  // past its area: not known, not stored
  EXPECT_EQ(table.get(last + 1), kUnknownChecksum);
  table.forget_cluster(0);
  EXPECT_EQ(table.get(5), kUnknownChecksum);
  EXPECT_EQ(ChecksumTable().get(0), kUnknownChecksum);
}

TEST(ChecksumTable, ACheckpointTakesWhatChangedOnceAndTheNextWhatChangedSince) {
  ChecksumTable table(3);
  ChecksumValues values;
  table.set(0, 1);
  table.set(1, 2);
  EXPECT_EQ(table.freeze(), (std::vector<uint32_t>{0}));
  table.set(2, 3);  // between freeze and capture: it is in the page, and not dirty any more
  const auto captured = table.capture(0, values);
  EXPECT_TRUE(captured.write && captured.known);
  EXPECT_EQ(values[2], 3u);
  EXPECT_TRUE(table.freeze().empty());
  table.set(3, 4);
  EXPECT_EQ(table.freeze(), (std::vector<uint32_t>{0}));
}

TEST(ChecksumTable, ARegionMustBeNotedOnceItsPageClaimsAnythingAndAgainAfterEveryFreeze) {
  ChecksumTable table(1);
  ChecksumValues values;
  table.set(0, 1);
  EXPECT_FALSE(table.must_note(0)) << "nothing on disk speaks of it";
  (void)table.freeze();
  (void)table.capture(0, values);
  EXPECT_TRUE(table.must_note(0)) << "the page may be on its way to the disk";
  table.written(0, 0, 99, true);
  table.set_note(0, ChecksumTable::Note::kPending);
  EXPECT_TRUE(table.must_note(0)) << "asked for is not durable";
  (void)table.freeze();
  EXPECT_EQ(table.note(0), ChecksumTable::Note::kPending) << "its record will lie behind the freeze";
  table.set_note(0, ChecksumTable::Note::kDurable);
  EXPECT_FALSE(table.must_note(0));
  (void)table.freeze();
  EXPECT_TRUE(table.must_note(0)) << "its record lies before the new replay position";
}

TEST(ChecksumTable, WhatTheOldPageClaimsCountsUntilTheNewOneIsNamed) {
  ChecksumTable table(1);
  ChecksumValues values;
  table.set(0, 1);
  (void)table.freeze();
  table.written(0, 0, 99, table.capture(0, values).known);
  table.set(0, kUnknownChecksum);
  (void)table.freeze();
  const auto captured = table.capture(0, values);
  EXPECT_TRUE(captured.write) << "or the old page would go on claiming";
  EXPECT_FALSE(captured.known);
  EXPECT_TRUE(table.must_note(0));
  table.written(0, 1, 98, captured.known);
  EXPECT_FALSE(table.must_note(0));
}

TEST(ChecksumTable, ARecoveredActiveRegionIsUnknownAndIsWrittenSo) {
  ChecksumTable table(1);
  ChecksumValues values{};
  values[4] = 9;
  const io::Buffer block(kMetaBlock);
  encode_checksum_page(sample(), values, block.span());
  table.load(0, 1, 99, block.span());
  EXPECT_EQ(table.get(4), 9u);
  EXPECT_TRUE(table.freeze().empty());
  table.forget_region(0);
  EXPECT_EQ(table.get(4), kUnknownChecksum);
  EXPECT_EQ(table.freeze(), (std::vector<uint32_t>{0}));
  EXPECT_TRUE(table.capture(0, values).write);
}

}  // namespace
}  // namespace foreshadow::extent
