#pragma once
// The journal: a ring of 4 KiB blocks in the primary. A commit appends one or more blocks; a block is
//
//   offset size  field                          (little endian; docs/format.md "Journal")
//   0      4     magic "FSHJ"
//   4      4     crc32c of the block, this field as zero
//   8      16    volume UUID
//   24     8     epoch of the writer
//   32     8     sequence: 1, 2, 3, ...; the block lies at ring index (sequence mod blocks)
//   40     8     durable: the highest sequence known durable when this block was written
//   48     4     crc32c of the block before (sequence - 1)
//   52     2     records in use, 0 to 126
//   54     10    zero
//   64     126 x 32 records; byte 3 of each is a tag of the block (extent/slot_tags.h)
//
// Validity of a block during replay: magic, crc, volume, its own sequence, the chain to the block before, and
// an epoch not below that block's. Replay ends at the first block that is not valid. That is a torn tail,
// which is normal, unless the block's own tags prove that it was written whole, or the superblock that it was
// there when this epoch began, or some other block (by its `durable`) that a block at or past the end was
// durable: then history is damaged, or has a hole, and the volume is refused. A
// previous owner's late blocks carry an older epoch and a chain that does not fit: they are not replayed.
//
// Records (32 bytes, first byte the type) describe absolute state, so replaying one twice changes nothing:
//   1 MAP      u32 lcn @4, u32 pcn_a @8, u32 pcn_b @12, u16 mask_a @16, u16 mask_b @18, u16 pack_a @20, u16
//              pack_b @22: the whole state of one logical cluster; a pack that is not 0 says that the owner
//              is a container, and where in it (extent/pack.h)
//   2 UNMAP    u32 lcn @4, u32 count @8: these logical clusters hold nothing
//   3 SEGMENT  u8 role @1, u8 state @2, u32 id @4, u32 pcn_base @8, u32 clusters @12, 16 UUID @16: a row of
//              the segment table
//   4 GROW     u64 size @8: from here on the volume has at least that many bytes
//   5 ACTIVITY u8 count @1, up to 7 u32 @4, each the first physical cluster of a checksum page: from here on
//              nothing is known of its checksums, whatever the page says
#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "base/uuid.h"
#include "extent/geometry.h"
#include "extent/pack.h"
#include "extent/superblock.h"

namespace foreshadow::extent {

inline constexpr uint32_t kRecordBytes = 32;
inline constexpr uint32_t kRecordsPerBlock = 126;

struct MapRecord {
  Lcn lcn;
  Pcn a, b;  // 0: none
  uint16_t mask_a = 0, mask_b = 0;
  Pack pack_a{}, pack_b{};  // raw, or where in a container
  bool operator==(const MapRecord&) const = default;
};
struct UnmapRecord {
  Lcn lcn;
  uint32_t count = 0;
  bool operator==(const UnmapRecord&) const = default;
};
inline constexpr uint32_t kActivityRegions = 7;
struct ActivityRecord {
  uint8_t count = 0;
  std::array<Pcn, kActivityRegions> regions{};  // named by their first physical cluster
  bool operator==(const ActivityRecord&) const = default;
};
struct GrowRecord {
  uint64_t size = 0;
  bool operator==(const GrowRecord&) const = default;
};
using Record = std::variant<MapRecord, UnmapRecord, SegmentRow, GrowRecord, ActivityRecord>;

// One more record into `out` (kRecordBytes long).
void encode_record(const Record& record, std::span<std::byte> out);
Result<Record> decode_record(std::span<const std::byte> bytes);

struct BlockHeader {
  Epoch epoch;
  BlockSeq seq;
  BlockSeq durable;
  uint32_t prev_crc = 0;
  uint16_t count = 0;
};

// Builds the block around `records` (kRecordBytes each, at most kRecordsPerBlock) and returns its crc.
uint32_t encode_block(const Uuid& volume, const BlockHeader& header, std::span<const std::byte> records,
                      std::span<std::byte> block);

struct DecodedBlock {
  BlockHeader header;
  uint32_t crc = 0;
  std::span<const std::byte> records;  // header.count of them, in the block's own memory
};
// The header alone, whatever the checksum says; nothing if it is not one of this volume.
std::optional<BlockHeader> peek_header(std::span<const std::byte> block, const Uuid& volume);
// Nothing if the bytes are not a block of this volume.
std::optional<DecodedBlock> decode_block(std::span<const std::byte> block, const Uuid& volume);

// Where replay ended, and the blocks it accepted, in order.
struct Replay {
  std::vector<DecodedBlock> blocks;
  BlockSeq next{1};       // the sequence the next commit writes
  uint32_t prev_crc = 0;  // of block next - 1
  Epoch epoch;            // of the last accepted block
};
// `ring` is the whole journal area. Applies the rules above from `from`. kCorrupt for a hole.
struct Fence {
  Epoch epoch;              // of the last owner
  BlockSeq epoch_start{1};  // its first block
};
// See Fence: from its start on, only the last owner's blocks count. What an owner before it wrote there never
// became history, and must not become it when a later torn write happens to complete such a block.
Result<Replay> replay_ring(std::span<const std::byte> ring, const Uuid& volume, BlockSeq from,
                           uint32_t prev_crc, const Fence& fence);

}  // namespace foreshadow::extent
