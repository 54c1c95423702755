#include "extent/map.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "extent/allocator.h"
#include "extent/delta.h"
#include "extent/dirty_pages.h"

namespace foreshadow::extent {
namespace {

Mapping full(uint32_t pcn) {
  return {Pcn(pcn), Pcn(0), kFullMask, 0};
}

constexpr Pack kPack = Pack::make(3, 5, SqueezeCodec::kZstd);

TEST(Map, ARunTakesNoMemoryAndComesApartWhenWrittenTo) {
  Map map(2048);
  const uint64_t empty = map.memory_bytes();
  for (uint32_t i = 0; i < 512; ++i) map.set(Lcn(512 + i), full(20000 + i));
  EXPECT_EQ(map.memory_bytes(), empty);
  EXPECT_EQ(map.get(Lcn(600)), full(20088));
  map.set(Lcn(600), {});
  EXPECT_GT(map.memory_bytes(), empty);
  EXPECT_EQ(map.get(Lcn(600)), Mapping{});
  EXPECT_EQ(map.get(Lcn(601)), full(20089));
  EXPECT_EQ(map.mapped_clusters(), 511u);
}

TEST(Map, AgreesWithAPlainMapUnderRandomChanges) {
  SeededRng rng(11);
  Map map(4096);
  std::map<uint32_t, Mapping> expected;
  for (int i = 0; i < 100'000; ++i) {
    const auto lcn = static_cast<uint32_t>(rng.below(1024));
    Mapping mapping;
    if (!rng.chance(1, 3)) {
      mapping.a = Pcn(static_cast<uint32_t>(20000 + lcn));
      mapping.mask_a = rng.chance(1, 2) ? kFullMask : static_cast<uint16_t>(rng.next());
      if (mapping.mask_a != kFullMask && rng.chance(1, 4)) {
        mapping.b = Pcn(static_cast<uint32_t>(60000 + lcn));
        mapping.mask_b = static_cast<uint16_t>(~mapping.mask_a);
        if (rng.chance(1, 2)) mapping.pack_b = kPack;
      } else if (mapping.mask_a == kFullMask && rng.chance(1, 8)) {
        mapping.pack_a = kPack;
      }
    }
    map.set(Lcn(lcn), mapping);
    expected[lcn] = mapping;
  }
  uint64_t clusters = 0;
  for (const auto& [lcn, mapping] : expected) {
    EXPECT_EQ(map.get(Lcn(lcn)), mapping);
    clusters += mapping.mask() != 0 ? 1 : 0;
  }
  EXPECT_EQ(map.mapped_clusters(), clusters);
  std::map<uint32_t, Mapping> visited;
  map.each([&](Lcn lcn, const Mapping& mapping) { return visited.emplace(lcn.v, mapping).second; });
  std::erase_if(expected, [](const auto& entry) { return entry.second.a.v == 0; });
  EXPECT_EQ(visited, expected);
  for (const auto& [lcn, mapping] : expected) map.set(Lcn(lcn), {});
  EXPECT_EQ(map.memory_bytes() > 0 ? map.mapped_sub_blocks() : 1, 0u);
  EXPECT_EQ(map.multi_nodes(), 0u);
  EXPECT_EQ(map.next_populated(Lcn(0)), Lcn(4096));
}

TEST(Map, ALeafHasPacksOnlyWhileItHasSqueezedClusters) {
  Map map(1024);
  map.set(Lcn(1), full(20000));
  const uint64_t raw = map.memory_bytes();
  map.set(Lcn(2), {Pcn(30000), Pcn(0), kFullMask, 0, kPack, Pack{}});
  map.set(Lcn(3), {Pcn(30000), Pcn(0), kFullMask, 0, Pack::make(8, 2, SqueezeCodec::kLz4), Pack{}});
  EXPECT_EQ(map.memory_bytes(), raw + 1024);
  EXPECT_EQ(map.get(Lcn(2)).pack_a, kPack);
  map.set(Lcn(2), full(20001));
  EXPECT_EQ(map.get(Lcn(3)).pack_a, Pack::make(8, 2, SqueezeCodec::kLz4));
  EXPECT_EQ(map.get(Lcn(1)), full(20000));
  map.set(Lcn(3), {});
  EXPECT_EQ(map.memory_bytes(), raw);
  EXPECT_EQ(map.get(Lcn(2)), full(20001));
}

TEST(Map, SkipsWhatIsNotPopulated) {
  Map map(1u << 24);
  map.set(Lcn(10'000'000), full(20000));
  EXPECT_EQ(map.next_populated(Lcn(0)).v / 512, 10'000'000u / 512);
  EXPECT_EQ(map.next_populated(Lcn(10'000'384)), Lcn(1u << 24));
  uint32_t visits = 0;
  map.each([&](Lcn lcn, const Mapping&) { return ++visits > 1 || lcn != Lcn(10'000'000); });
  EXPECT_EQ(visits, 1u) << "until the visitor has seen enough";
}

TEST(Allocator, HandsOutEachClusterOnceAndTakesItBack) {
  Allocator allocator(Pcn(kGranuleClusters), 100);
  std::vector<bool> seen(100, false);
  uint32_t total = 0;
  while (allocator.free() > 0) {
    const auto run = allocator.allocate(7);
    ASSERT_GT(run.count, 0u);
    for (uint32_t i = 0; i < run.count; ++i) {
      const uint32_t local = run.first.v + i - kGranuleClusters;
      ASSERT_LT(local, 100u);
      EXPECT_FALSE(seen[local]);
      seen[local] = true;
    }
    total += run.count;
  }
  EXPECT_EQ(total, 100u);
  EXPECT_EQ(allocator.allocate(1).count, 0u);
  allocator.release(Pcn(kGranuleClusters + 63));
  const auto again = allocator.allocate(5);
  EXPECT_EQ(again.count, 1u);
  EXPECT_EQ(again.first, Pcn(kGranuleClusters + 63));
}

TEST(Allocator, TakesEachClusterOnlyOnceWhileRebuilding) {
  Allocator allocator(Pcn(kGranuleClusters), 10);
  EXPECT_TRUE(allocator.take(Pcn(kGranuleClusters + 9)));
  EXPECT_FALSE(allocator.take(Pcn(kGranuleClusters + 9)));
  EXPECT_FALSE(allocator.take(Pcn(kGranuleClusters + 10)));
  EXPECT_FALSE(allocator.take(Pcn(kGranuleClusters - 1)));
  EXPECT_EQ(allocator.free(), 9u);
}

TEST(Delta, AMoveGivesUpBeforeItClaims) {
  std::vector<Delta> out;
  Containers containers;
  EXPECT_TRUE(append_deltas(Lcn(3), full(100), full(200), containers, out));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0], (Delta{Pcn(100), {}}));
  EXPECT_EQ(out[1], (Delta{Pcn(200), {Lcn(3), kFullMask, 0, {}}}));
}

TEST(Delta, APlaceTakenButNotWrittenIsNobodys) {
  std::vector<Delta> out;
  Containers containers;
  EXPECT_TRUE(append_deltas(Lcn(3), {}, {Pcn(200), Pcn(0), 0, 0}, containers, out));
  EXPECT_TRUE(out.empty());
}

TEST(DirtyPages, TheNewestChangeOfAnEntryWins) {
  DirtyPages pages;
  pages.add(1, 5, {Lcn(7), 1});
  pages.add(1, 5, {Lcn(8), 3});
  pages.add(1, 6, {Lcn(9), 1});
  pages.add(1, 6, {Lcn(9), 0});
  ASSERT_EQ(pages.pages().size(), 1u);
  std::array<TableEntry, kTableEntries> entries{};
  entries[6] = {Lcn(9), 1};
  pages.apply(pages.pages()[0], entries);
  EXPECT_EQ(entries[5], (TableEntry{Lcn(8), 3}));
  EXPECT_EQ(entries[6], (TableEntry{Lcn(0), 0}));
}

}  // namespace
}  // namespace foreshadow::extent
