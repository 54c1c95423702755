// What a volume does inside the call, and what it leaves to submit().
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;
constexpr uint64_t kCluster = 64 * kKiB;
constexpr const char* kMemory = "/dev/shm";

bool write_now(Rig& rig, uint64_t offset, uint64_t length, uint8_t fill) {
  // Not where a disk would want it.
  std::vector<std::byte> memory(length + 1, std::byte{fill});
  return rig.volume().write_now(offset, std::span(memory).subspan(1));
}

bool read_now(Rig& rig, uint64_t offset, uint64_t length, uint8_t expected) {
  std::vector<std::byte> memory(length + 1, std::byte{0xee});
  if (!rig.volume().read_now(offset, std::span(memory).subspan(1))) return false;
  EXPECT_TRUE(
      std::all_of(memory.begin() + 1, memory.end(), [&](auto b) { return b == std::byte{expected}; }));
  return true;
}

TEST(EngineNow, MappedBlocksInMemoryAreReadAndOverwrittenInsideTheCall) {
  Rig rig(kMemory);
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(kMiB, kCluster, 7), Code::kOk);
  EXPECT_TRUE(read_now(rig, kMiB + 4096, 8192, 7));
  EXPECT_TRUE(write_now(rig, kMiB + 8192, 4096, 8));
  EXPECT_TRUE(read_now(rig, kMiB + 8192, 4096, 8));
  EXPECT_TRUE(rig.holds(kMiB + 8192, 4096, 8));
  EXPECT_TRUE(rig.holds(kMiB + 12288, 4096, 7));
  const block::IoStats stats = rig.volume().stats();
  EXPECT_EQ(stats.write_ops, 2u);
  EXPECT_EQ(stats.read_ops, 4u);
  EXPECT_EQ(stats.write_bytes, kCluster + 4096);
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  rig.close();
  ASSERT_TRUE(rig.open());
  EXPECT_TRUE(rig.holds(kMiB + 8192, 4096, 8));
  EXPECT_TRUE(rig.findings().empty());
}

TEST(EngineNow, WhatNeedsMoreThanACopyIsLeftToSubmit) {
  Rig rig(kMemory);
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(0, 2 * kCluster + 4096, 7), Code::kOk);
  const struct {
    const char* what;
    uint64_t offset, length;
  } cases[] = {
      {"never written", kMiB, 4096},
      {"half of it never written", 2 * kCluster, 8192},
      {"less than a block", 0, 512},
      {"not at a block", 512, 4096},
      {"two clusters", kCluster - 4096, 8192},
      {"more than is copied at once", 0, kCluster},
      {"nothing", 0, 0},
      {"past the end", kGiB, 4096},
      {"far past the end", UINT64_MAX - 4095, 4096},
  };
  for (const auto& c : cases) {
    EXPECT_FALSE(read_now(rig, c.offset, c.length, 0)) << c.what;
    EXPECT_FALSE(write_now(rig, c.offset, c.length, 1)) << c.what;
  }
  EXPECT_TRUE(rig.holds(0, 2 * kCluster + 4096, 7));
  EXPECT_TRUE(rig.holds(2 * kCluster + 4096, 4096, 0));
}

TEST(EngineNow, NobodyPassesOneWhoMustBeAlone) {
  Rig rig(kMemory);
  rig.create(kGiB, 16 * kMiB);
  ASSERT_EQ(rig.write(0, kCluster, 7), Code::kOk);
  auto part = rig.start(OpKind::kWrite, 4096 + 100, 200, std::byte{9});
  rig.volume().submit(*part);
  EXPECT_FALSE(write_now(rig, 4096, 4096, 8));
  EXPECT_FALSE(read_now(rig, 4096, 4096, 7));
  EXPECT_TRUE(write_now(rig, 8192, 4096, 8));  // beside it
  ASSERT_EQ(rig.await(*part), Code::kOk);
  EXPECT_TRUE(write_now(rig, 4096, 4096, 8));

  auto trim = rig.start(OpKind::kTrim, 0, 4096);
  rig.volume().submit(*trim);
  if (!trim->outcome) {
    while (!trim->outcome) rig.turn();
  }
  EXPECT_FALSE(read_now(rig, 0, 4096, 0));
  EXPECT_TRUE(read_now(rig, 4096, 4096, 8));
}

TEST(EngineNow, AVolumeThatMovesOverwritesPlansThem) {
  Rig rig(kMemory);
  rig.create(kGiB, 16 * kMiB, Redirect::kAll);
  ASSERT_EQ(rig.write(0, kCluster, 7), Code::kOk);
  EXPECT_FALSE(write_now(rig, 0, 4096, 8));
  EXPECT_TRUE(read_now(rig, 0, 4096, 7));
}

}  // namespace
}  // namespace foreshadow::volume
