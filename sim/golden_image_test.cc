// That each golden image has in it what it is there for: an image that lost it would cover less, unnoticed.
#include "sim/golden_image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "extent/head.h"
#include "extent/recovery.h"
#include "io/task.h"
#include "sim/memory_file.h"
#include "sim/scheduler.h"

namespace foreshadow::sim {
namespace {

using extent::SegmentState;

struct Opened {
  GoldenImage image;
  std::unique_ptr<extent::Recovered> state;

  Opened(Golden what, bool closed) : image(make_golden_image(what, closed)) {
    Scheduler scheduler(1);
    std::vector<std::unique_ptr<MemoryFile>> files;
    std::vector<io::File*> pointers;
    size_t base = extent::kNoBase;
    for (GoldenBacking& backing : image.backings) {
      if (backing.is_base) base = files.size();
      files.push_back(std::make_unique<MemoryFile>(scheduler, std::span(backing.bytes)));
      pointers.push_back(files.back().get());
    }
    std::optional<Result<std::unique_ptr<extent::Recovered>>> recovered;
    io::spawn(extent::recover(pointers, base), [&](auto&& result) { recovered.emplace(std::move(result)); });
    scheduler.run_until_idle();
    EXPECT_TRUE(recovered && *recovered);
    state = std::move(**recovered);
  }

  bool has_row(SegmentState wanted) const {
    const auto& rows = state->super.segments;
    return std::any_of(rows.begin(), rows.end(), [&](const auto& row) { return row.state == wanted; });
  }
  uint32_t overlays() const {
    uint32_t count = 0;
    for (Lcn lcn(0); lcn.v < state->map.clusters(); lcn = lcn.next()) {
      const extent::Mapping mapping = state->map.get(lcn);
      count += mapping.is_squeezed() && mapping.b.v != 0 ? 1 : 0;
    }
    return count;
  }
};

TEST(GoldenImage, ClosedHasAnEmptyJournalAndDiedHasNot) {
  for (const Golden what : {Golden::kPlain, Golden::kSqueezed, Golden::kOver, Golden::kMoved}) {
    EXPECT_EQ(Opened(what, true).state->journal_records, 0u);
    EXPECT_GT(Opened(what, false).state->journal_records, 3u);
  }
}

TEST(GoldenImage, TheSqueezedOneHasContainersInTablesAndJournal) {
  const Opened closed(Golden::kSqueezed, true);
  EXPECT_GE(closed.state->containers.count(), 3u);
  EXPECT_GE(closed.overlays(), 3u);
  const Opened died(Golden::kSqueezed, false);
  EXPECT_GE(died.overlays(), 3u);
  const auto& deltas = died.state->deltas;
  EXPECT_TRUE(std::any_of(deltas.begin(), deltas.end(), [](const auto& delta) {
    return delta.entry.is_container();
  })) << "the journal has none";
  const auto in_journal = [&](Pcn pcn) {
    return std::any_of(deltas.begin(), deltas.end(), [&](const auto& delta) { return delta.pcn == pcn; });
  };
  const extent::Containers& all = died.state->containers;
  const Pcn end(UINT32_MAX);
  Pcn other = all.next(Pcn(1), end);
  while (other.v != 0 && in_journal(other)) other = all.next(other.next(), end);
  EXPECT_NE(other.v, 0u) << "the tables have none that the journal does not speak of";
}

TEST(GoldenImage, TheSqueezedOneHasSegmentsOnTheirWayOut) {
  for (const bool closed : {true, false}) {
    const Opened opened(Golden::kSqueezed, closed);
    EXPECT_TRUE(opened.has_row(SegmentState::kFolding));
    EXPECT_TRUE(opened.has_row(SegmentState::kDraining));
    EXPECT_EQ(opened.has_row(SegmentState::kReleased), !closed);
  }
  const auto& rows = Opened(Golden::kSqueezed, false).state->stored.segments;
  EXPECT_EQ(rows.size(), 4u) << "the superblock still has the one that is released";
}

TEST(GoldenImage, TheOneOverAnImageHasItsTableAndHasGrown) {
  for (const bool closed : {true, false}) {
    const Opened opened(Golden::kOver, closed);
    const extent::Recovered& state = *opened.state;
    ASSERT_TRUE(state.label.base);
    EXPECT_GT(state.super.size, state.label.base->bytes);
    EXPECT_TRUE(opened.has_row(SegmentState::kFolding));
    const auto base = std::find_if(state.segments.begin(), state.segments.end(), [](const auto& segment) {
      return segment.row.role == extent::SegmentRole::kBase;
    });
    ASSERT_NE(base, state.segments.end());
    EXPECT_NE(base->places.front(), extent::kNoPlace) << "its table was never written";
  }
}

TEST(GoldenImage, TheMovedOneHasItsFirstPrimaryHalfWayOut) {
  for (const bool closed : {true, false}) {
    const Opened opened(Golden::kMoved, closed);
    EXPECT_TRUE(opened.has_row(SegmentState::kDraining));
    EXPECT_EQ(opened.state->segments.front().row.uuid, opened.image.backings.front().uuid);
    GoldenImage image = make_golden_image(Golden::kMoved, closed);
    Scheduler scheduler(1);
    MemoryFile first(scheduler, std::span(image.backings.back().bytes));
    std::optional<Result<extent::HeadArea>> area;
    io::spawn(extent::read_head_area(first, opened.state->label.volume, image.backings.back().uuid),
              [&](auto&& result) { area.emplace(std::move(result)); });
    scheduler.run_until_idle();
    ASSERT_TRUE(area && *area);
    EXPECT_EQ((*area)->super.moved_to, image.backings.front().uuid);
  }
}

TEST(GoldenImage, EveryOneHasChecksumPages) {
  for (const Golden what : {Golden::kPlain, Golden::kSqueezed, Golden::kOver, Golden::kMoved}) {
    const Opened opened(what, true);
    EXPECT_NE(opened.state->segments.front().checksums.place(0), extent::kNoPlace);
  }
}

}  // namespace
}  // namespace foreshadow::sim
