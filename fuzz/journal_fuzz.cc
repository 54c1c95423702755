// The journal ring as any bytes: replay gives whole records or a clean error, and never reads past the ring.
// Each block's checksum is mended first, or the fuzzer would never get behind it.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>

#include "extent/journal.h"
#include "extent/sealed_block.h"
#include "io/buffer.h"

using namespace foreshadow;
using namespace foreshadow::extent;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kBlocks = 4;
  constexpr size_t kCrcAt = 4;
  const io::Buffer ring(kBlocks * kMetaBlock);
  std::memset(ring.data(), 0, ring.size());
  std::memcpy(ring.data(), data, std::min(size, ring.size()));
  for (size_t i = 0; i < kBlocks; ++i) seal_block(ring.span().subspan(i * kMetaBlock, kMetaBlock), kCrcAt);
  const auto replay =
      replay_ring(ring.span(), Uuid{}, BlockSeq(1), 0, Fence{Epoch(UINT64_MAX), BlockSeq(UINT64_MAX)});
  if (!replay) return 0;
  for (const DecodedBlock& block : replay->blocks) {
    for (size_t i = 0; i < block.header.count; ++i) {
      const auto record = decode_record(block.records.subspan(i * kRecordBytes, kRecordBytes));
      if (!record) continue;
      std::array<std::byte, kRecordBytes> again;
      encode_record(*record, again);
      const auto back = decode_record(again);
      if (!back || *back != *record) std::abort();
    }
  }
  return 0;
}
