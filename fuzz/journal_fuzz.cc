// The journal ring as any bytes: replay gives whole records or a clean error, and never reads past the ring.
// Each block's checksum is made good first, or the fuzzer would never get behind it.
#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "extent/journal.h"
#include "extent/sealed_block.h"
#include "fuzz/target.h"
#include "io/buffer.h"

using namespace foreshadow;
using namespace foreshadow::extent;
using fuzz::expect;

namespace {

constexpr size_t kBlocks = 4;
constexpr size_t kCrcAt = 4;
constexpr size_t kHeaderBytes = 64;

// A chain of blocks as a writer makes it, but for what the input turns over in each header.
void write_chain(fuzz::Input& in, std::span<std::byte> ring, BlockSeq from) {
  uint32_t prev_crc = 0;
  BlockSeq seq = from;
  while (!in.empty()) {
    const uint8_t how = in.u8();
    BlockHeader header;
    header.seq = (how & 1) != 0 ? BlockSeq(1 + in.u16()) : seq;
    header.epoch = Epoch((how & 2) != 0 ? in.u8() : 1);
    header.durable = BlockSeq((how & 4) != 0 ? in.u16() : 0);
    header.prev_crc = (how & 8) != 0 ? in.u32() : prev_crc;
    if (header.durable >= header.seq) header.durable = BlockSeq(header.seq.v - 1);
    std::array<std::byte, 4 * kRecordBytes> records{};
    header.count = static_cast<uint16_t>(how >> 4 & 3);
    for (uint16_t i = 0; i < header.count; ++i) {
      const auto raw = in.bytes(kRecordBytes);
      std::copy(raw.begin(), raw.end(), records.begin() + i * kRecordBytes);
    }
    const auto block = ring.subspan(header.seq.v % kBlocks * kMetaBlock, kMetaBlock);
    prev_crc =
        encode_block(Uuid{}, header, std::span(records).first(header.count * size_t{kRecordBytes}), block);
    seq = header.seq.next();
    if ((how & 64) != 0) block[in.u16() % kMetaBlock] ^= std::byte{1};  // rot
  }
}

// Whole blocks from the input, 64 bytes of header and as many records as it has.
void write_raw(fuzz::Input& in, std::span<std::byte> ring) {
  const auto raw = in.rest();
  size_t at = 0;
  for (size_t i = 0; i < kBlocks && at < raw.size(); ++i) {
    const auto block = ring.subspan(i * kMetaBlock, kMetaBlock);
    const size_t n = std::min(raw.size() - at, kHeaderBytes + 3 * kRecordBytes);
    std::copy_n(raw.begin() + static_cast<ptrdiff_t>(at), n, block.begin());
    at += n;
    seal_block(block, kCrcAt);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  static const io::Buffer ring(kBlocks * kMetaBlock);
  std::memset(ring.data(), 0, ring.size());
  const uint8_t mode = in.u8();
  const BlockSeq from(1 + mode / 2 % 8);
  const Fence fence{Epoch(mode < 128 ? UINT64_MAX : 1), BlockSeq(mode < 192 ? UINT64_MAX : from.v + 1)};
  mode % 2 == 0 ? write_raw(in, ring.span()) : write_chain(in, ring.span(), from);
  const auto replay = replay_ring(ring.span(), Uuid{}, from, 0, fence);
  if (!replay) {
    expect(replay.error().code == Code::kCorrupt && !replay.error().message.empty(), "a refusal says why");
    return 0;
  }
  expect(replay->blocks.size() <= kBlocks && replay->next.v == from.v + replay->blocks.size(),
         "a block counts once");
  Epoch epoch;
  for (const DecodedBlock& block : replay->blocks) {
    expect(block.header.epoch >= epoch && block.header.epoch <= fence.epoch, "epochs never go back");
    epoch = block.header.epoch;
    expect(block.header.count <= kRecordsPerBlock, "a block holds what fits into one");
    for (size_t i = 0; i < block.header.count; ++i) {
      const auto record = decode_record(block.records.subspan(i * kRecordBytes, kRecordBytes));
      if (!record) continue;
      std::array<std::byte, kRecordBytes> again;
      encode_record(*record, again);
      const auto back = decode_record(again);
      expect(back && *back == *record, "a record returns");
    }
  }
  return 0;
}
