#include "block/file_pool.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/types.h"
#include "io/testing.h"

namespace foreshadow::block {
namespace {

using Mode = io::Directory::Mode;

struct FilePoolTest : testing::Test {
  FilePoolTest() : scratch(io::ScratchDirectory::memory()), loop(io::make_test_loop()) {}
  std::unique_ptr<Pool> open(uint64_t capacity) {
    auto directory = io::open_directory(*loop, scratch.path());
    EXPECT_TRUE(directory) << directory.error().message;
    auto pool = FilePool::open(Name::parse("fast").value(), std::move(*directory), capacity);
    EXPECT_TRUE(pool) << pool.error().message;
    return std::move(*pool);
  }
  io::ScratchDirectory scratch;
  std::unique_ptr<io::Loop> loop;
};

TEST_F(FilePoolTest, HoldsAtItsCapacityAndRefusesPastIt) {
  auto pool = open(24 * kMiB);
  EXPECT_TRUE(pool->create("a", 8 * kMiB));
  EXPECT_TRUE(pool->create("b", 16 * kMiB));  // exactly full
  EXPECT_EQ(pool->usage().value().used, 24 * kMiB);
  EXPECT_EQ(pool->usage().value().capacity, 24 * kMiB);
  auto one_more = pool->create("c", 1);
  ASSERT_FALSE(one_more);
  EXPECT_EQ(one_more.error().code, Code::kNoSpace);
  EXPECT_EQ(pool->list().value(), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(pool->remove("a"));
  EXPECT_TRUE(pool->create("c", 8 * kMiB));
}

TEST_F(FilePoolTest, NoSpaceSaysWhatIsFreeOfWhatAndWhatWasAsked) {
  auto pool = open(24 * kMiB);
  ASSERT_TRUE(pool->create("a", 8 * kMiB));
  auto refused = pool->create("b", 32 * kMiB);
  ASSERT_FALSE(refused);
  for (const char* part : {"fast", "16MiB", "24MiB", "32MiB"}) {
    EXPECT_NE(refused.error().message.find(part), std::string::npos)
        << part << " in " << refused.error().message;
  }
}

TEST_F(FilePoolTest, WhatIsSetAsideForAGrowingBackingIsPromisedToNobodyElse) {
  auto pool = open(24 * kMiB);
  ASSERT_TRUE(pool->create("a", 8 * kMiB));
  const Status past = pool->set_aside("a", 24 * kMiB + 1);
  ASSERT_FALSE(past);
  EXPECT_EQ(past.error().code, Code::kNoSpace);
  for (const char* part : {"fast", "16MiB", "24MiB", "grow"}) {
    EXPECT_NE(past.error().message.find(part), std::string::npos) << past.error().message;
  }
  ASSERT_TRUE(pool->set_aside("a", 24 * kMiB));  // all there is
  EXPECT_EQ(pool->usage().value().used, 24 * kMiB);
  EXPECT_EQ(pool->create("b", 8 * kMiB).error().code, Code::kNoSpace);
  pool->let_go("a");
  EXPECT_EQ(pool->usage().value().used, 8 * kMiB);
  EXPECT_TRUE(pool->create("b", 16 * kMiB));
  EXPECT_EQ(pool->set_aside("c", 1).error().code, Code::kNotFound);
}

TEST_F(FilePoolTest, WhatABackingHasGrownByIsNotCountedTwice) {
  auto pool = open(24 * kMiB);
  auto growing = pool->create("a", 8 * kMiB);
  ASSERT_TRUE(growing);
  ASSERT_TRUE(pool->set_aside("a", 16 * kMiB));
  ASSERT_TRUE((*growing)->resize(12 * kMiB));  // a step of it
  EXPECT_EQ(pool->usage().value().used, 16 * kMiB);
  ASSERT_TRUE((*growing)->resize(16 * kMiB));
  EXPECT_EQ(pool->usage().value().used, 16 * kMiB);
}

// The space itself comes back a moment later, and before anything else that the pool is asked for.
TEST_F(FilePoolTest, ARemovedBackingIsGoneFromTheListAtOnce) {
  auto pool = open(24 * kMiB);
  ASSERT_TRUE(pool->create("a", 8 * kMiB));
  ASSERT_TRUE(pool->remove("a"));
  EXPECT_TRUE(pool->list().value().empty());
  EXPECT_EQ(pool->usage().value().used, 0u);
  EXPECT_EQ(pool->remove("a").error().code, Code::kNotFound);
}

TEST_F(FilePoolTest, ASizeNearTheTopOfItsRangeDoesNotWrapAround) {
  auto pool = open(24 * kMiB);
  ASSERT_TRUE(pool->create("a", 8 * kMiB));
  EXPECT_EQ(pool->create("b", ~0ull - 4 * kMiB).error().code, Code::kNoSpace);
}

TEST_F(FilePoolTest, ForeignFilesAreNeitherListedNorCounted) {
  { std::ofstream(scratch.at("notes.txt")) << "not a segment"; }
  std::filesystem::create_directory(scratch.at("folder.seg"));
  auto pool = open(16 * kMiB);
  ASSERT_TRUE(pool->create("a", 8 * kMiB));
  EXPECT_EQ(pool->list().value(), std::vector<std::string>{"a"});
  EXPECT_EQ(pool->usage().value().used, 8 * kMiB);
  EXPECT_TRUE(std::filesystem::exists(scratch.at("a.seg")));
  EXPECT_TRUE(pool->remove("a"));
  EXPECT_TRUE(std::filesystem::exists(scratch.at("notes.txt")));
}

TEST_F(FilePoolTest, WithoutACapacityItIsWhatTheFileSystemHolds) {
  auto pool = open(0);
  const PoolUsage before = pool->usage().value();
  EXPECT_EQ(before.used, 0u);
  EXPECT_GT(before.capacity, 0u);
  ASSERT_TRUE(pool->create("a", 8 * kMiB));
  EXPECT_EQ(pool->usage().value().used, 8 * kMiB);
  EXPECT_EQ(pool->create("b", 1ull << 60).error().code, Code::kNoSpace);
  EXPECT_EQ(pool->list().value().size(), 1u);
}

TEST_F(FilePoolTest, ABackingIsLockedByWhoHasItAndFoundAgainAfterwards) {
  {
    auto pool = open(16 * kMiB);
    auto file = pool->create("a", 8 * kMiB);
    ASSERT_TRUE(file);
    EXPECT_EQ(pool->open("a", Mode::kReadWriteLocked).error().code, Code::kBusy);
    EXPECT_EQ(pool->create("a", 8 * kMiB).error().code, Code::kAlreadyExists);
  }
  auto pool = open(16 * kMiB);
  EXPECT_EQ(pool->open("none", Mode::kReadOnly).error().code, Code::kNotFound);
  auto file = pool->open("a", Mode::kReadWriteLocked);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ((*file)->size(), 8 * kMiB);
}

}  // namespace
}  // namespace foreshadow::block
