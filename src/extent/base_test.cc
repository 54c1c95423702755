// What the format says of a base, of growth and of features.
#include <gtest/gtest.h>

#include <array>

#include "base/limits.h"
#include "extent/allocator.h"
#include "extent/journal.h"
#include "extent/label.h"
#include "extent/map.h"
#include "extent/table_page.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

constexpr uint64_t kImage = 40 * kMiB + 1536;

Label over_label(bool checksums = false) {
  Label label;
  label.volume.bytes[0] = std::byte{1};
  label.segment.bytes[0] = std::byte{2};
  label.size = 64 * kMiB;
  label.layout = *make_layout(label.size, {}, 256, 0, checksums, base_table_pages(kImage, {}));
  label.name = "over";
  label.volume_size = kImage;
  label.base = *make_base_area(label.layout, {}, kImage);
  label.base->uuid.bytes[0] = std::byte{3};
  label.base->path = "/srv/image.raw";
  return label;
}

TEST(Base, ItsLabelRoundTripsAndItsTableLiesBeforeTheData) {
  const io::Buffer block(kMetaBlock);
  for (const bool checksums : {false, true}) {
    const Label label = over_label(checksums);
    encode_label(label, 4096, block.span());
    const auto back = decode_label(block.span(), 4096);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(*back, label);
    EXPECT_EQ(label.base->clusters, 641u);
    EXPECT_EQ(label.base->table_pages, 3u);
    EXPECT_EQ(label.base->table_offset, label.layout.page_offset(label.layout.table_pages, 0));
    const uint64_t end = label.base->table_offset + 3 * kTableSlots * kMetaBlock;
    EXPECT_LE(end, label.layout.data_offset);
    EXPECT_EQ(label.layout.checksum_offset, checksums ? end : 0) << "behind the base's table";
  }
}

TEST(Base, ALabelWhoseNumbersDoNotFitIsRefused) {
  const io::Buffer block(kMetaBlock);
  const auto spoilt = [&](auto spoil) {
    Label label = over_label();
    spoil(label);
    encode_label(label, 0, block.span());
    return !decode_label(block.span(), 0);
  };
  EXPECT_TRUE(spoilt([](Label& label) { label.base->clusters = 640; }));
  EXPECT_TRUE(spoilt([](Label& label) { label.base->table_pages = 4; }));
  EXPECT_TRUE(spoilt([](Label& label) { label.base->table_offset += kMetaBlock; }));
  EXPECT_TRUE(spoilt([](Label& label) { label.base->bytes += 1; }));
  EXPECT_TRUE(spoilt([](Label& label) { label.base->bytes = 512; }));
  EXPECT_TRUE(spoilt([](Label& label) { label.role = SegmentRole::kShadow; }));
  EXPECT_FALSE(spoilt([](Label& label) { label.base->path = std::string(kBasePathBytes, 'x'); }));
}

TEST(Base, AnImageMustBeAClusterOfWholeSectors) {
  const Layout layout = *make_layout(64 * kMiB, {}, 256);
  EXPECT_TRUE(make_base_area(layout, {}, 64 * kKiB));
  for (const uint64_t bytes : {uint64_t{0}, 64 * kKiB - 512, 64 * kKiB + 1, uint64_t{1} << 62})
    EXPECT_FALSE(make_base_area(layout, {}, bytes)) << bytes;
}

TEST(Base, TheLastClusterEndsWhereTheImageEnds) {
  EXPECT_EQ(base_mask(kImage, {}, 639), kFullMask);
  EXPECT_EQ(base_mask(kImage, {}, 640), 0x0001);
  EXPECT_EQ(base_mask(kImage, {}, 641), 0);
  EXPECT_EQ(base_mask(40 * kMiB + 8192, {}, 640), 0x0003);
  EXPECT_EQ(base_mask(40 * kMiB + 8704, {}, 640), 0x0007);
  const auto entries = base_entries(kImage, {}, 2);  // from cluster 504 on
  EXPECT_EQ(entries[0], (TableEntry{Lcn(504), kFullMask}));
  EXPECT_EQ(entries[136], (TableEntry{Lcn(640), 0x0001}));
  EXPECT_EQ(entries[137], TableEntry{});
}

TEST(Base, ItsAllocatorGivesNothingOutAndTakesByNumber) {
  Allocator places = Allocator::by_address(Pcn(kGranuleClusters), 100);
  EXPECT_EQ(places.free(), 0u);
  EXPECT_EQ(places.allocate(1).count, 0u);
  EXPECT_TRUE(places.take(Pcn(kGranuleClusters + 7)));
  EXPECT_FALSE(places.take(Pcn(kGranuleClusters + 7)));
  EXPECT_EQ(places.taken(), 1u);
  places.release(Pcn(kGranuleClusters + 7));
  EXPECT_EQ(places.allocate(1).count, 0u);
}

TEST(Base, AMapOfAnUntouchedImageTakesNoMemory) {
  Map map(1u << 24);  // 1 TiB
  const uint64_t empty = map.memory_bytes();
  ASSERT_TRUE(map.fill_linear(Lcn(0), Pcn(kGranuleClusters), 1u << 24));
  EXPECT_EQ(map.memory_bytes(), empty);
  EXPECT_EQ(map.mapped_clusters(), 1u << 24);
  EXPECT_EQ(map.get(Lcn(12'345'678)).a, Pcn(kGranuleClusters + 12'345'678));
  EXPECT_FALSE(map.fill_linear(Lcn(5), Pcn(900'000'000), 1)) << "taken";
}

TEST(Base, AMapIsFilledInAnyPiecesAndGrows) {
  Map map(3000);
  ASSERT_TRUE(map.fill_linear(Lcn(252), Pcn(20'252), 1000));
  ASSERT_TRUE(map.fill_linear(Lcn(0), Pcn(20'000), 252));
  ASSERT_TRUE(map.fill_linear(Lcn(1252), Pcn(21'252), 1748));
  for (uint32_t i = 0; i < 3000; ++i)
    ASSERT_EQ(map.get(Lcn(i)), (Mapping{Pcn(20'000 + i), Pcn(0), kFullMask, 0})) << i;
  map.grow(5000);
  EXPECT_EQ(map.get(Lcn(4999)), Mapping{});
  EXPECT_EQ(map.next_populated(Lcn(3072)), Lcn(5000));
  EXPECT_EQ(map.mapped_clusters(), 3000u);
}

TEST(Growth, ItsRecordRoundTripsAndRefusesWhatIsNoSize) {
  std::array<std::byte, kRecordBytes> bytes;
  encode_record(GrowRecord{limits::kVolumeSizeMax}, bytes);
  EXPECT_EQ(*decode_record(bytes), Record(GrowRecord{limits::kVolumeSizeMax}));
  for (const uint64_t size : {uint64_t{0}, uint64_t{513}, limits::kVolumeSizeMax + 512}) {
    encode_record(GrowRecord{size}, bytes);
    EXPECT_FALSE(decode_record(bytes)) << size;
  }
}

TEST(Features, AnUnknownOneRefusesTheVolume) {
  const io::Buffer bytes(kSuperBytes);
  Superblock super;
  super.size = kMiB;
  super.segments.push_back(
      {SegmentId(0), {}, SegmentRole::kPrimary, SegmentState::kMerged, Pcn(kGranuleClusters), 9});
  super.features = kFeaturesKnown;
  super.moved_to.bytes[0] = std::byte{1};  // which goes with its feature
  encode_superblock(super, 8192, bytes.span());
  ASSERT_TRUE(decode_superblock(bytes.span(), 8192, super.volume));
  super.moved_to = {};
  super.features = uint64_t{1} << 40;
  encode_superblock(super, 8192, bytes.span());
  const auto refused = decode_superblock(bytes.span(), 8192, super.volume);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
}

}  // namespace
}  // namespace foreshadow::extent
