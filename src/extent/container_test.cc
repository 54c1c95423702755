#include "extent/container.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "extent/delta.h"
#include "extent/dirty_pages.h"
#include "extent/geometry.h"

namespace foreshadow::extent {
namespace {

constexpr auto kZ = SqueezeCodec::kZstd;

TEST(Container, KeepsItsMembersInPlaceWhenOthersLeave) {
  Containers containers;
  const Pcn pcn(kGranuleClusters + 300);
  ASSERT_TRUE(containers.add(pcn, Lcn(7), Pack::make(0, 5, kZ)));
  ASSERT_TRUE(containers.add(pcn, Lcn(9), Pack::make(5, 4, SqueezeCodec::kLz4)));
  ASSERT_TRUE(containers.add(pcn, Lcn(8), Pack::make(9, 7, kZ)));
  EXPECT_EQ(containers.count(), 1u);
  EXPECT_EQ(containers.members(), 3u);
  EXPECT_EQ(containers.table_entry(pcn),
            (TableEntry{Lcn(7), 0x0745, 0x8000 | 2 | 1 << 2 | 2 << 4, {Lcn(9), Lcn(8)}}));
  containers.remove(pcn, Lcn(9));
  EXPECT_EQ(containers.table_entry(pcn),
            (TableEntry{Lcn(7), 0x0745, 0x8000 | 2 | 2 << 4, {kNoMember, Lcn(8)}}));
  containers.remove(pcn, Lcn(7));
  std::array<Container::Member, kMembers> members;
  ASSERT_EQ(containers.find(pcn)->members(members), 1u);
  EXPECT_EQ(members[0], (Container::Member{Lcn(8), Pack::make(9, 7, kZ)}));
  containers.remove(pcn, Lcn(8));
  EXPECT_EQ(containers.find(pcn), nullptr);
  EXPECT_EQ(containers.table_entry(pcn), TableEntry{});
  EXPECT_EQ(containers.count() + containers.members(), 0u);
}

TEST(Container, RefusesWhatCannotBe) {
  Containers containers;
  const Pcn pcn(kGranuleClusters);
  ASSERT_TRUE(containers.add(pcn, Lcn(1), Pack::make(4, 4, kZ)));
  EXPECT_FALSE(containers.add(pcn, Lcn(2), Pack::make(7, 1, kZ))) << "slots of another member";
  EXPECT_FALSE(containers.add(pcn, Lcn(2), Pack::make(3, 2, kZ)));
  EXPECT_FALSE(containers.add(pcn, Lcn(1), Pack::make(8, 1, kZ))) << "twice";
  EXPECT_FALSE(containers.add(pcn, Lcn(2), Pack::make(9, 1, kZ))) << "two gaps and two members";
  ASSERT_TRUE(containers.add(pcn, Lcn(2), Pack::make(8, 8, kZ)));
  ASSERT_TRUE(containers.add(pcn, Lcn(3), Pack::make(0, 4, kZ)));
  EXPECT_FALSE(containers.add(pcn, Lcn(4), Pack::make(0, 1, kZ)));
  EXPECT_EQ(containers.members(), 3u);
}

TEST(Container, TableEntriesRoundTripAndImpossibleOnesAreRefused) {
  const TableEntry good[] = {{Lcn(7), 0x0745, 0x8000 | 2 | 1 << 2 | 2 << 4, {Lcn(9), Lcn(8)}},
                             {kNoMember, 0x00fe, 0x8000 | 1 << 2, {Lcn(9), kNoMember}},
                             {Lcn(1), 0x0001, 0x8001, {kNoMember, kNoMember}}};
  for (const TableEntry& entry : good) {
    Container container;
    const bool fits = Container::from_table_entry(entry, container);
    EXPECT_EQ(fits, entry.mask != 0x00fe) << "14 and 15 slots are more than there are";
    if (fits) {
      EXPECT_EQ(container.table_entry(), entry);
    }
  }
  const TableEntry bad[] = {
      {Lcn(7), 0x0fff, 0x8000 | 0x2a, {Lcn(9), Lcn(8)}},     // 45 slots
      {Lcn(7), 0x0745, 0x8000 | 0x2b, {Lcn(9), Lcn(8)}},     // codec 3
      {Lcn(7), 0x0745, 0x8000 | 0x28, {Lcn(9), Lcn(8)}},     // codec 0
      {Lcn(7), 0x0705, 0x8000 | 0x2a, {Lcn(9), Lcn(8)}},     // no slots
      {Lcn(7), 0x1745, 0x8000 | 0x2a, {Lcn(9), Lcn(8)}},     // a fourth count
      {Lcn(7), 0x0745, 0x8040 | 0x2a, {Lcn(9), Lcn(8)}},     // an unknown bit
      {Lcn(7), 0x0745, 0x2a, {Lcn(9), Lcn(8)}},              // no container
      {Lcn(7), 0x0745, 0x8000 | 0x2a, {Lcn(7), Lcn(8)}},     // twice the same
      {Lcn(7), 0x0745, 0x8000 | 0x2a, {kNoMember, Lcn(8)}},  // a codec of nobody
      {kNoMember, 0x0745, 0x8000, {kNoMember, kNoMember}},   // nobody at all
  };
  for (const TableEntry& entry : bad) {
    Container container;
    EXPECT_FALSE(Container::from_table_entry(entry, container)) << entry.mask << " " << entry.kind;
  }
}

TEST(Container, NextWalksInOrderAndKeepsToItsRange) {
  Containers containers;
  for (const uint32_t pcn : {20000u, 20255u, 20256u, 60000u, 60001u})
    ASSERT_TRUE(containers.add(Pcn(pcn), Lcn(pcn), Pack::make(0, 3, kZ)));
  std::vector<uint32_t> seen;
  for (Pcn at = containers.next(Pcn(20001), Pcn(60001)); at.v != 0;
       at = containers.next(at.next(), Pcn(60001)))
    seen.push_back(at.v);
  EXPECT_EQ(seen, (std::vector<uint32_t>{20255, 20256, 60000}));
}

TEST(Container, RandomPacksAgreeWithAPlainModelAndMemoryIsSmall) {
  SeededRng rng(5);
  Containers containers;
  std::map<std::pair<uint32_t, uint32_t>, Pack> model;  // (pcn, lcn)
  uint32_t lcn = 0;
  for (int i = 0; i < 40'000; ++i) {
    const auto pcn = static_cast<uint32_t>(kGranuleClusters + rng.below(3000));
    if (rng.chance(2, 3)) {
      const auto slot = static_cast<uint32_t>(rng.below(16));
      const auto count = static_cast<uint32_t>(1 + rng.below(std::min<uint64_t>(15, 16 - slot)));
      const Pack pack = Pack::make(slot, count, kZ);
      if (containers.add(Pcn(pcn), Lcn(++lcn), pack)) model[{pcn, lcn}] = pack;
    } else if (const auto at = model.lower_bound({pcn, 0}); at != model.end()) {
      containers.remove(Pcn(at->first.first), Lcn(at->first.second));
      model.erase(at);
    }
  }
  EXPECT_EQ(containers.members(), model.size());
  for (const auto& [key, pack] : model) {
    std::array<Container::Member, kMembers> members;
    const Container* container = containers.find(Pcn(key.first));
    ASSERT_NE(container, nullptr);
    const uint32_t count = container->members(members);
    EXPECT_NE(std::find(members.begin(), members.begin() + count, Container::Member{Lcn(key.second), pack}),
              members.begin() + count);
    Container again;
    EXPECT_TRUE(Container::from_table_entry(container->table_entry(), again));
  }
  EXPECT_LT(containers.memory_bytes(), containers.count() * 24 + 4096);
}

TEST(Delta, ASqueezedClusterLeavesItsPlaceForASlotAndAnOverlayKeepsIt) {
  Containers containers;
  std::vector<Delta> out;
  const Mapping raw{Pcn(20000), Pcn(0), kFullMask, 0};
  const Mapping packed{Pcn(30000), Pcn(0), kFullMask, 0, Pack::make(2, 6, kZ), {}};
  const Mapping overlaid{Pcn(20001), Pcn(30000), 0x000f, 0xfff0, {}, Pack::make(2, 6, kZ)};
  ASSERT_TRUE(append_deltas(Lcn(3), raw, packed, containers, out));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0], (Delta{Pcn(20000), {}}));
  EXPECT_EQ(out[1].entry, containers.table_entry(Pcn(30000)));
  out.clear();
  ASSERT_TRUE(append_deltas(Lcn(3), packed, overlaid, containers, out));
  EXPECT_EQ(out, (std::vector<Delta>{{Pcn(20001), {Lcn(3), 0x000f, 0, {}}}}));
  out.clear();
  ASSERT_TRUE(append_deltas(Lcn(3), overlaid, {Pcn(20001), Pcn(0), kFullMask, 0}, containers, out));
  EXPECT_EQ(out, (std::vector<Delta>{{Pcn(30000), {}}, {Pcn(20001), {Lcn(3), kFullMask, 0, {}}}}));
  EXPECT_EQ(containers.count(), 0u);
}

TEST(DirtyPages, AContainersEntryComesBackWhole) {
  const TableEntry container{Lcn(7), 0x0745, 0x8000 | 0x2a, {Lcn(9), Lcn(8)}};
  DirtyPages pages;
  pages.add(0, 251, container);
  pages.add(0, 250, container);
  pages.add(0, 250, {Lcn(4), 1, 0, {}});
  std::array<TableEntry, kTableEntries> entries{};
  pages.apply(pages.pages()[0], entries);
  EXPECT_EQ(entries[251], container);
  EXPECT_EQ(entries[250], (TableEntry{Lcn(4), 1, 0, {}}));
}

}  // namespace
}  // namespace foreshadow::extent
