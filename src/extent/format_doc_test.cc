// Decodes the worked example of docs/format.md, so that the page cannot drift from the code.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "extent/checksum_page.h"
#include "extent/container.h"
#include "extent/journal.h"
#include "extent/label.h"
#include "extent/slot_tags.h"
#include "extent/superblock.h"
#include "extent/table_page.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

// The hexadecimal blocks of the page, by the name on their fence: "```hex label". A line is "offset: bytes";
// what no line covers is zero.
std::map<std::string, std::vector<std::byte>> examples() {
  std::ifstream page(FORESHADOW_FORMAT_PAGE);
  std::map<std::string, std::vector<std::byte>> out;
  std::string line;
  std::string name;
  while (std::getline(page, line)) {
    if (line.starts_with("```")) {
      name = line.starts_with("```hex ") ? line.substr(7) : "";
      if (!name.empty()) out[name].resize(name == "superblock" ? kSuperBytes : kMetaBlock);
      continue;
    }
    if (name.empty()) continue;
    std::istringstream in(line);
    size_t offset = 0;
    char colon = 0;
    in >> std::hex >> offset >> colon;
    for (unsigned value = 0; in >> value; ++offset) out[name].at(offset) = static_cast<std::byte>(value);
  }
  return out;
}

Uuid uuid(const char* text) {
  return *Uuid::parse(text);
}
const Uuid kVolume = uuid("6f1a7c2e-0b5d-4e83-9a41-d2c85b7e9f10");
const Uuid kPrimary = uuid("a3c9e4d1-7b26-4f58-8e0d-15b94c6f2a77");

// Clusters 8 and 9 in slots 0 to 4 and 5 to 10.
const TableEntry kContainer{Lcn(8), 0x0065, 0x8000 | 2 | 2 << 2, {Lcn(9), kNoMember}};

TEST(FormatPage, LabelExampleDecodes) {
  const auto all = examples();
  ASSERT_TRUE(all.contains("label"));
  auto label = decode_label(all.at("label"), 0);
  ASSERT_TRUE(label) << label.error().message;
  EXPECT_EQ(label->volume, kVolume);
  EXPECT_EQ(label->segment, kPrimary);
  EXPECT_EQ(label->name, "demo");
  EXPECT_EQ(label->size, 256 * kMiB);
  EXPECT_EQ(label->layout, *make_layout(256 * kMiB, Geometry{}, 1024));
}

TEST(FormatPage, SuperblockExampleDecodes) {
  const auto all = examples();
  ASSERT_TRUE(all.contains("superblock"));
  auto super = decode_superblock(all.at("superblock"), Layout::super_offset(0), kVolume);
  ASSERT_TRUE(super) << super.error().message;
  EXPECT_EQ(super->size, kTiB);
  EXPECT_EQ(super->epoch, Epoch(2));
  EXPECT_EQ(super->segments.size(), 1u);
}

TEST(FormatPage, JournalExampleDecodes) {
  const auto all = examples();
  ASSERT_TRUE(all.contains("journal"));
  // The page does not show the slots that are not used; they have their tags all the same.
  std::vector<std::byte> whole = all.at("journal");
  tag_slots(whole, kVolume, Epoch(2), BlockSeq(1));
  EXPECT_TRUE(std::equal(whole.begin(), whole.begin() + 160, all.at("journal").begin()));
  auto block = decode_block(whole, kVolume);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->header.seq, BlockSeq(1));
  EXPECT_EQ(block->header.count, 3);
  auto first = decode_record(block->records.first(kRecordBytes));
  ASSERT_TRUE(first);
  EXPECT_EQ(std::get<MapRecord>(*first), (MapRecord{Lcn(5), Pcn(kGranuleClusters), Pcn(0), 0x00ff, 0}));
  auto third = decode_record(block->records.subspan(size_t{2} * kRecordBytes));
  ASSERT_TRUE(third);
  EXPECT_EQ(std::get<MapRecord>(*third), (MapRecord{Lcn(9),
                                                    Pcn(kGranuleClusters + 1),
                                                    Pcn(0),
                                                    kFullMask,
                                                    0,
                                                    Pack::make(5, 6, SqueezeCodec::kZstd),
                                                    {}}));
  auto second = decode_record(block->records.subspan(kRecordBytes, kRecordBytes));
  ASSERT_TRUE(second);
  EXPECT_EQ(std::get<UnmapRecord>(*second), (UnmapRecord{Lcn(16), 512}));
}

TEST(FormatPage, TableExampleDecodes) {
  const auto all = examples();
  ASSERT_TRUE(all.contains("table"));
  auto page = decode_page(all.at("table"), kVolume, kPrimary, 0, Pcn(kGranuleClusters));
  ASSERT_TRUE(page) << page.error().message;
  ASSERT_TRUE(page->has_value());
  EXPECT_EQ((*page)->page.entries[0], (TableEntry{Lcn(5), 0x00ff, 0, {}}));
  EXPECT_EQ((*page)->page.entries[1], kContainer);
}

TEST(FormatPage, ChecksumExampleDecodes) {
  const auto all = examples();
  ASSERT_TRUE(all.contains("checksums"));
  auto page = decode_checksum_page(all.at("checksums"), kVolume, kPrimary, 0, Pcn(kGranuleClusters));
  ASSERT_TRUE(page) << page.error().message;
  ASSERT_TRUE(page->has_value());
  const std::vector<std::byte> sub_block(4096, std::byte{0x2a});
  EXPECT_EQ((*page)->page.values[0], data_checksum(sub_block));
  EXPECT_EQ((*page)->page.values[1], kUnknownChecksum);
}

}  // namespace
}  // namespace foreshadow::extent
