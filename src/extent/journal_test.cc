#include "extent/journal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

constexpr uint32_t kBlocks = 8;
constexpr Pack kPack = Pack::make(3, 7, SqueezeCodec::kLz4);

Uuid volume_id(uint8_t n = 1) {
  Uuid id;
  id.bytes[0] = std::byte{n};
  return id;
}

// A ring that a writer has filled block by block, each a commit of its own.
struct Ring {
  io::Buffer bytes{size_t{kBlocks} * kMetaBlock};
  std::vector<uint32_t> crcs{0};  // by sequence; [0] is what block 1 chains to
  Ring() { std::fill(bytes.span().begin(), bytes.span().end(), std::byte{0}); }
  std::span<std::byte> block(uint64_t seq) {
    return bytes.span().subspan(seq % kBlocks * kMetaBlock, kMetaBlock);
  }
  void write(uint64_t seq, uint64_t epoch, uint64_t durable, uint32_t prev) {
    std::array<std::byte, kRecordBytes> record;
    encode_record(UnmapRecord{Lcn(static_cast<uint32_t>(seq)), 1}, record);
    crcs.resize(seq + 1);
    crcs[seq] = encode_block(volume_id(), {Epoch(epoch), BlockSeq(seq), BlockSeq(durable), prev, 1}, record,
                             block(seq));
  }
  Ring copy() const {
    Ring out;
    std::copy(bytes.span().begin(), bytes.span().end(), out.bytes.span().begin());
    out.crcs = crcs;
    out.fence = fence;
    return out;
  }
  void append(uint64_t seq, uint64_t epoch = 1) { write(seq, epoch, seq - 1, crcs[seq - 1]); }
  // A power cut in the middle of a write: this sector is as it was before.
  void tear(uint64_t seq, size_t sector) {
    const auto bytes_of = block(seq).subspan(sector * 512, 512);
    std::fill(bytes_of.begin(), bytes_of.end(), std::byte{0});
  }
  Fence fence{Epoch(1), BlockSeq(1)};
  Result<Replay> replay(uint64_t from = 1) {
    return replay_ring(bytes.span(), volume_id(), BlockSeq(from), crcs[from - 1], fence);
  }
};

TEST(Record, RoundTrips) {
  SegmentRow row{
      SegmentId(3), volume_id(9), SegmentRole::kShadow, SegmentState::kSealed, Pcn(2 * kGranuleClusters), 77};
  const Record records[] = {MapRecord{Lcn(5), Pcn(20000), Pcn(0), 0x0ff0, 0},
                            MapRecord{Lcn(5), Pcn(20000), Pcn(40000), 0x0ff0, 0x000f},
                            MapRecord{Lcn(5), Pcn(20000), Pcn(0), kFullMask, 0, kPack, {}},
                            MapRecord{Lcn(5), Pcn(20000), Pcn(40000), 0x0ff0, 0xf00f, {}, kPack},
                            UnmapRecord{Lcn(7), 500},
                            row};
  for (const Record& record : records) {
    std::array<std::byte, kRecordBytes> bytes;
    encode_record(record, bytes);
    auto back = decode_record(bytes);
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, record);
  }
}

TEST(Record, RefusesWhatCannotBe) {
  const MapRecord bad[] = {{Lcn(1), Pcn(0), Pcn(0), 0, 0},
                           {Lcn(1), Pcn(5), Pcn(6), 3, 1},
                           {Lcn(1), Pcn(kPcnEnd), Pcn(0), 1, 0},
                           {Lcn(1), Pcn(0), Pcn(5), 0, 1},
                           {Lcn(1), Pcn(5), Pcn(6), 1, 0},
                           {Lcn(1), Pcn(5), Pcn(0), 0x00ff, 0, kPack, {}},
                           {Lcn(1), Pcn(5), Pcn(6), 0x00ff, 0xff00, kPack, {}},
                           {Lcn(1), Pcn(5), Pcn(6), 0x00ff, 0xff00, kPack, kPack},
                           {Lcn(1), Pcn(5), Pcn(6), 0x00ff, 0x0f00, {}, kPack},
                           {Lcn(1), Pcn(5), Pcn(0), kFullMask, 0, Pack{1}, {}},
                           {Lcn(1), Pcn(5), Pcn(0), kFullMask, 0, Pack::make(14, 3, SqueezeCodec::kZstd), {}},
                           {Lcn(1), Pcn(5), Pcn(0), kFullMask, 0, Pack::make(3, 0, SqueezeCodec::kLz4), {}}};
  std::array<std::byte, kRecordBytes> bytes;
  for (const MapRecord& record : bad) {
    encode_record(record, bytes);
    EXPECT_FALSE(decode_record(bytes));
  }
  encode_record(UnmapRecord{Lcn(1), 0}, bytes);
  EXPECT_FALSE(decode_record(bytes));
  bytes.fill(std::byte{0xff});
  EXPECT_FALSE(decode_record(bytes));
}

TEST(Replay, EndsQuietlyAtATornTail) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 5; ++seq) ring.append(seq);
  for (size_t sector = 0; sector < kMetaBlock / 512; ++sector) {
    Ring torn = ring.copy();
    torn.tear(5, sector);
    auto replay = torn.replay();
    ASSERT_TRUE(replay) << replay.error().message;
    EXPECT_EQ(replay->blocks.size(), 4u);
    EXPECT_EQ(replay->next, BlockSeq(5));
  }
}

TEST(Replay, RefusesADamagedLastBlockWhicheverBitItIs) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 5; ++seq) ring.append(seq);
  for (size_t bit = 0; bit < kMetaBlock * 8; ++bit) {
    ring.block(5)[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    auto replay = ring.replay();
    ASSERT_FALSE(replay) << "bit " << bit;
    EXPECT_NE(replay.error().message.find("block 5"), std::string::npos) << replay.error().message;
    ring.block(5)[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  }
  EXPECT_TRUE(ring.replay());
}

TEST(Replay, ATornBlockOverAnOlderOneIsATornTail) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 12; ++seq) ring.append(seq);
  Ring before = ring.copy();
  ring.append(13);
  for (size_t sector = 0; sector < kMetaBlock / 512; ++sector) {
    Ring torn = ring.copy();
    const auto old = before.block(13).subspan(sector * 512, 512);
    std::copy(old.begin(), old.end(), torn.block(13).begin() + static_cast<ptrdiff_t>(sector * 512));
    auto replay = torn.replay(8);
    ASSERT_TRUE(replay) << replay.error().message;
    EXPECT_EQ(replay->next, BlockSeq(13));
  }
}

TEST(Replay, RefusesWhatWasThereWhenTheEpochBegan) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 4; ++seq) ring.append(seq);
  ring.fence = {Epoch(2), BlockSeq(5)};
  EXPECT_TRUE(ring.replay());
  ring.tear(4, 0);
  auto replay = ring.replay();
  ASSERT_FALSE(replay);
  EXPECT_EQ(replay.error().code, Code::kCorrupt);
}

TEST(Replay, RefusesAHoleInDurableHistory) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 5; ++seq) ring.append(seq);
  ring.block(3)[100] ^= std::byte{1};
  auto replay = ring.replay();
  ASSERT_FALSE(replay);
  EXPECT_EQ(replay.error().code, Code::kCorrupt);
  EXPECT_NE(replay.error().message.find("block 3"), std::string::npos) << replay.error().message;
}

TEST(Replay, ADamagedBlockStillTellsWhatWasDurable) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 5; ++seq) ring.append(seq);
  for (uint64_t seq = 1; seq <= 5; ++seq) ring.block(seq)[2000] ^= std::byte{1};  // not one can be read
  auto replay = ring.replay();
  ASSERT_FALSE(replay);
  EXPECT_EQ(replay.error().code, Code::kCorrupt);
}

TEST(Replay, LaterBlocksOfATornCommitAreNoHole) {
  Ring ring;
  ring.append(1);
  ring.write(2, 1, 1, ring.crcs[1]);  // blocks 2 and 3 are one commit: both say that 1 was durable
  ring.write(3, 1, 1, ring.crcs[2]);
  ring.tear(2, 3);
  auto replay = ring.replay();
  ASSERT_TRUE(replay) << replay.error().message;
  EXPECT_EQ(replay->next, BlockSeq(2));
}

TEST(Replay, AStaleOwnersBlocksAreNotTaken) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 3; ++seq) ring.append(seq, 5);
  ring.fence = {Epoch(5), BlockSeq(1)};
  ring.append(4, 4);  // chains well, but an older epoch wrote it
  auto replay = ring.replay();
  ASSERT_TRUE(replay);
  EXPECT_EQ(replay->next, BlockSeq(4));
}

TEST(Replay, WhatAnEarlierOwnerLeftPastTheFenceNeverBecomesHistory) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 4; ++seq) ring.append(seq, 5);
  ring.fence = {Epoch(6),
                BlockSeq(4)};  // when block 4 was torn, epoch 6 began; now it is whole, by another torn write
  auto replay = ring.replay();
  ASSERT_TRUE(replay);
  EXPECT_EQ(replay->next, BlockSeq(4));
  ring.append(4, 6);
  EXPECT_EQ(ring.replay()->next, BlockSeq(5));
}

TEST(Replay, RefusesABlockThatDoesNotChain) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 3; ++seq) ring.append(seq);
  ring.write(4, 1, 3, ring.crcs[3] ^ 1);  // right epoch and place, but it follows some other block 3
  auto replay = ring.replay();
  ASSERT_FALSE(replay) << "within one epoch no sequence is written twice";
  EXPECT_EQ(replay.error().code, Code::kCorrupt);
}

TEST(Replay, FollowsTheRingAroundItsEnd) {
  Ring ring;
  for (uint64_t seq = 1; seq <= 13; ++seq) ring.append(seq);
  auto replay = ring.replay(8);
  ASSERT_TRUE(replay) << replay.error().message;
  EXPECT_EQ(replay->blocks.size(), 6u);
  EXPECT_EQ(replay->next, BlockSeq(14));
}

TEST(Replay, ABlockOfAnotherVolumeDoesNotCount) {
  Ring ring;
  ring.append(1);
  auto replay = replay_ring(ring.bytes.span(), volume_id(2), BlockSeq(1), 0, ring.fence);
  ASSERT_TRUE(replay);
  EXPECT_TRUE(replay->blocks.empty());
}

}  // namespace
}  // namespace foreshadow::extent
