// A primary that is replaced, on real files and with a real loop. The simulator has the crashes at every
// step.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "extent/head.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

// Tells before each write and sync.
class WatchedFile final : public io::File {
 public:
  WatchedFile(std::unique_ptr<io::File> inner, std::function<void()> before)
      : inner_(std::move(inner)), before_(std::move(before)) {}
  void read(io::Op& op, uint64_t offset, std::span<std::byte> into) override {
    inner_->read(op, offset, into);
  }
  void write(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    before_();
    inner_->write(op, offset, from);
  }
  void write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    before_();
    inner_->write_durable(op, offset, from);
  }
  void sync(io::Op& op) override {
    before_();
    inner_->sync(op);
  }
  uint64_t size() const override { return inner_->size(); }
  uint32_t alignment() const override { return inner_->alignment(); }
  Status resize(uint64_t bytes) override { return inner_->resize(bytes); }

 private:
  std::unique_ptr<io::File> inner_;
  std::function<void()> before_;
};

class HeadMove : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { rig_.create(kGiB, 16 * kMiB, Redirect::kAllocating, GetParam()); }

  CreateOptions options() {
    CreateOptions out;
    out.id = rig_.id();
    out.name = "test";
    out.size = kGiB;
    out.checksums = GetParam();
    return out;
  }
  SegmentFile next_primary(uint64_t bytes = 24 * kMiB) {
    SystemRng rng;
    const Uuid segment = Uuid::random(rng);
    auto file = rig_.pool().create(segment.str(), bytes);
    EXPECT_TRUE(file) << file.error().message;
    const Status formatted = rig_.wait(Volume::format_next_primary(**file, options(), segment));
    EXPECT_TRUE(formatted) << formatted.error().message;
    return {segment, std::move(*file)};
  }
  Uuid primary() { return rig_.volume().segments().front().uuid; }
  // What lies at the front of a backing's superblock area.
  extent::HeadArea area_of(const Uuid& segment, const std::string& directory = {}) {
    const auto pool = directory.empty() ? nullptr : pool_of(directory);
    auto file = (pool ? *pool : rig_.pool()).open(segment.str(), io::Directory::Mode::kReadOnly);
    EXPECT_TRUE(file);
    auto area = rig_.wait(extent::read_head_area(**file, rig_.id(), segment));
    EXPECT_TRUE(area);
    return *area;
  }
  void overwrite(const Uuid& segment, uint64_t offset, const std::string& bytes) {
    std::fstream file(rig_.directory() + "/" + segment.str() + ".seg",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << bytes;
    ASSERT_TRUE(file.good());
  }
  std::unique_ptr<block::Pool> pool_of(const std::string& directory) {
    return *block::FilePool::open(*Name::parse("copy"), *io::open_directory(rig_.loop(), directory), 0);
  }
  std::unique_ptr<Volume> open_copy(const std::string& directory) {
    const auto pool = pool_of(directory);
    std::vector<SegmentFile> files;
    const std::vector<std::string> backings = *pool->list();
    for (const std::string& backing : backings)
      files.push_back({*Uuid::parse(backing), *pool->open(backing, io::Directory::Mode::kReadWriteLocked)});
    auto opened = rig_.wait(Volume::open(rig_.loop(), std::move(files), rig_.options));
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? std::move(opened->volume) : nullptr;
  }
  io::Task<Status> move_and_drain(SegmentFile next, Uuid old) {
    auto replaced = co_await rig_.volume().replace_primary(std::move(next));
    if (!replaced) co_return replaced;
    auto drained = co_await rig_.volume().drain_segment(old);
    co_return drained;
  }
  Rig rig_;
};

TEST_P(HeadMove, TheNewPrimaryTakesOverAndTheOldOneIsEmptiedAndReleased) {
  ASSERT_EQ(rig_.write(0, 8 * kMiB, 1), Code::kOk);
  const Uuid old = primary();
  SegmentFile next = next_primary();
  const Uuid uuid = next.uuid;
  const Status replaced = rig_.wait(rig_.volume().replace_primary(std::move(next)));
  ASSERT_TRUE(replaced) << replaced.error().message;
  auto segments = rig_.volume().segments();
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].uuid, uuid);
  EXPECT_EQ(segments[0].id.v, 0u);
  EXPECT_EQ(segments[0].role, SegmentRole::kPrimary);
  EXPECT_EQ(segments[1].uuid, old);
  EXPECT_EQ(segments[1].role, SegmentRole::kShadow);
  EXPECT_EQ(segments[1].state, SegmentState::kDraining);
  EXPECT_TRUE(rig_.wait(rig_.volume().replace_primary({uuid, nullptr})));  // a repeat
  ASSERT_EQ(rig_.write(8 * kMiB, kMiB, 2), Code::kOk);
  EXPECT_TRUE(rig_.findings().empty());

  const Status drained = rig_.wait(rig_.volume().drain_segment(old));
  ASSERT_TRUE(drained) << drained.error().message;
  EXPECT_EQ(rig_.volume().segments().size(), 1u);
  EXPECT_TRUE(rig_.findings().empty());
  rig_.close();
  ASSERT_TRUE(rig_.pool().remove(old.str()));  // nothing of it is needed any more
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_EQ(primary(), uuid);
  EXPECT_TRUE(rig_.holds(0, 8 * kMiB, 1));
  EXPECT_TRUE(rig_.holds(8 * kMiB, kMiB, 2));
  EXPECT_TRUE(rig_.findings().empty());
}

TEST_P(HeadMove, OpeningInTheMiddleFindsTheNewPrimaryAndGoesOn) {
  ASSERT_EQ(rig_.write(0, 4 * kMiB, 1), Code::kOk);
  const Uuid old = primary();
  SegmentFile next = next_primary();
  const Uuid uuid = next.uuid;
  ASSERT_TRUE(rig_.wait(rig_.volume().replace_primary(std::move(next))));
  ASSERT_EQ(rig_.write(4 * kMiB, kMiB, 2), Code::kOk);
  rig_.close();
  EXPECT_TRUE(area_of(uuid).is_claim());
  EXPECT_TRUE(area_of(old).is_mark());
  EXPECT_EQ(area_of(old).super.moved_to, uuid);
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_EQ(primary(), uuid);
  EXPECT_EQ(rig_.volume().segments()[1].state, SegmentState::kDraining);
  EXPECT_TRUE(rig_.holds(0, 4 * kMiB, 1));
  ASSERT_TRUE(rig_.wait(rig_.volume().drain_segment(old)));
  EXPECT_TRUE(rig_.holds(0, 4 * kMiB, 1));
  EXPECT_TRUE(rig_.holds(4 * kMiB, kMiB, 2));
  // And on to a third.
  SegmentFile third = next_primary(20 * kMiB);
  const Uuid last = third.uuid;
  ASSERT_TRUE(rig_.wait(rig_.volume().replace_primary(std::move(third))));
  ASSERT_TRUE(rig_.wait(rig_.volume().drain_segment(uuid)));
  rig_.close();
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_EQ(primary(), last);
  EXPECT_EQ(rig_.orphans.size(), 2u);  // both backings are there still
  EXPECT_TRUE(rig_.holds(0, 4 * kMiB, 1));
  EXPECT_TRUE(rig_.findings().empty());
}

TEST_P(HeadMove, TheOldPrimaryAloneIsRefusedAndSaysWhereTheNewOneIs) {
  const Uuid old = primary();
  SegmentFile next = next_primary();
  const Uuid uuid = next.uuid;
  ASSERT_TRUE(rig_.wait(rig_.volume().replace_primary(std::move(next))));
  rig_.close();
  const std::string path = rig_.directory() + "/" + uuid.str() + ".seg";
  std::filesystem::rename(path, path + ".away");
  ASSERT_FALSE(rig_.open());
  EXPECT_EQ(rig_.error.code, Code::kNotFound);
  EXPECT_NE(rig_.error.message.find(uuid.str()), std::string::npos) << rig_.error.message;
  std::filesystem::rename(path + ".away", path);
  ASSERT_TRUE(rig_.open()) << rig_.error.message;
  EXPECT_EQ(primary(), uuid);
  EXPECT_NE(primary(), old);
}

// Opens a copy of the volume as the files were at some instant, and looks.
TEST_P(HeadMove, AKillAtAnyStepLeavesOneHeadWithEverything) {
  ASSERT_EQ(rig_.write(0, 4 * kMiB, 1), Code::kOk);
  const Uuid old = primary();
  SegmentFile next = next_primary();
  const Uuid uuid = next.uuid;
  auto copies_made = std::make_shared<std::vector<std::string>>();
  auto over = std::make_shared<bool>(false);
  const auto snapshot = [copies_made, over, from = rig_.directory()] {
    if (*over) return;
    copies_made->push_back(from + "-" + std::to_string(copies_made->size()));
    std::filesystem::copy(from, copies_made->back());
  };
  next.file = std::make_unique<WatchedFile>(std::move(next.file), snapshot);
  ASSERT_TRUE(rig_.wait(rig_.volume().replace_primary(std::move(next))));
  *over = true;
  const std::vector<std::string> copies = *copies_made;
  ASSERT_GE(copies.size(), 7u);  // four copies, two syncs, the first block of the journal
  size_t of_the_old = 0;
  for (const std::string& copy : copies) {
    auto volume = open_copy(copy);
    ASSERT_NE(volume, nullptr) << copy;
    EXPECT_EQ(volume->segments().size(), 2u);
    EXPECT_TRUE(rig_.wait(volume->check())->ok());
    const Uuid head = volume->segments().front().uuid;
    of_the_old += head == old ? 1 : 0;
    EXPECT_TRUE(head == uuid || of_the_old == static_cast<size_t>(&copy - copies.data()) + 1)
        << "an older head after a newer one";
    EXPECT_EQ(volume->usage().used, 4 * kMiB);
    ASSERT_TRUE(rig_.wait(volume->close()));
    volume.reset();
    EXPECT_TRUE(head == old || area_of(old, copy).is_mark());
    std::filesystem::remove_all(copy);
  }
  EXPECT_GT(of_the_old, 0u);
  EXPECT_LT(of_the_old, copies.size());
}

// The mark names a head that cannot be told any more: an older history must not stand in for it.
TEST_P(HeadMove, ALostNewPrimaryIsNotReplacedByTheOldOne) {
  const Uuid old = primary();
  SegmentFile next = next_primary();
  const Uuid uuid = next.uuid;
  ASSERT_TRUE(rig_.wait(rig_.volume().replace_primary(std::move(next))));
  rig_.close();
  constexpr size_t kArea = size_t{extent::kSuperCopies} * extent::kSuperBytes;
  for (const char fill : {'\0', 'x'}) {
    overwrite(uuid, extent::Layout::super_offset(0), std::string(kArea, fill));
    ASSERT_FALSE(rig_.open());
    EXPECT_EQ(rig_.error.code, Code::kCorrupt);
    EXPECT_NE(rig_.error.message.find("superblock copies are good"), std::string::npos) << rig_.error.message;
  }
  EXPECT_TRUE(area_of(old).is_mark());
}

TEST_P(HeadMove, WhatWouldFindNoRoomIsRefused) {
  ASSERT_EQ(rig_.write(0, 12 * kMiB, 1), Code::kOk);
  const Uuid old = primary();
  SegmentFile next = next_primary(8 * kMiB);
  const Uuid uuid = next.uuid;
  const Status refused = rig_.wait(rig_.volume().replace_primary(std::move(next)));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kNoSpace);
  EXPECT_EQ(primary(), old);
  EXPECT_TRUE(rig_.wait(rig_.volume().drain_segment(uuid)));  // it is a segment like others
  EXPECT_TRUE(rig_.holds(0, 12 * kMiB, 1));
  const Uuid shadow = rig_.add_shadow(16 * kMiB);
  EXPECT_EQ(rig_.wait(rig_.volume().replace_primary({shadow, nullptr})).error().code,
            Code::kFailedPrecondition);
  EXPECT_EQ(rig_.wait(rig_.volume().replace_primary({uuid, nullptr})).error().code, Code::kNotFound);
}

TEST_P(HeadMove, WritersAreServedWhileItMoves) {
  ASSERT_EQ(rig_.write(0, 8 * kMiB, 1), Code::kOk);
  const Uuid old = primary();
  std::optional<Status> done;
  io::spawn(move_and_drain(next_primary(), old), [&](Status&& status) { done = std::move(status); });
  uint64_t writes = 0;
  while (!done) {
    ASSERT_EQ(rig_.write(writes % 128 * 64 * kKiB + 4096, 4096, 2), Code::kOk);
    if (++writes % 16 == 0) {
      ASSERT_EQ(rig_.plain(block::OpKind::kFlush), Code::kOk);
    }
    ASSERT_LT(writes, 1'000'000u);
  }
  ASSERT_TRUE(*done) << done->error().message;
  for (uint64_t at = 0; at < 128; ++at) {
    EXPECT_TRUE(rig_.holds(at * 64 * kKiB, 4096, 1));
    EXPECT_TRUE(rig_.holds(at * 64 * kKiB + 4096, 4096, at < writes ? 2 : 1));
  }
  EXPECT_TRUE(rig_.findings().empty());
}

INSTANTIATE_TEST_SUITE_P(Checksums, HeadMove, ::testing::Bool());

}  // namespace
}  // namespace foreshadow::volume
