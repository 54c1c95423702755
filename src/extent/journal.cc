#include "extent/journal.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/codec.h"
#include "base/limits.h"
#include "extent/sealed_block.h"
#include "extent/slot_tags.h"

namespace foreshadow::extent {
namespace {
constexpr std::string_view kMagic = "FSHJ";
constexpr size_t kCrcAt = 4;
constexpr size_t kHeaderBytes = 64;
static_assert(kHeaderBytes + kRecordsPerBlock * kRecordBytes == kMetaBlock);

enum class RecordType : uint8_t { kMap = 1, kUnmap = 2, kSegment = 3, kGrow = 4, kActivity = 5 };

struct RecordEncoder {
  DiskWriter& out;
  void operator()(const MapRecord& r) const {
    out.u32(static_cast<uint32_t>(RecordType::kMap));
    out.u32(r.lcn.v);
    out.u32(r.a.v);
    out.u32(r.b.v);
    out.u16(r.mask_a);
    out.u16(r.mask_b);
    out.u16(r.pack_a.v);
    out.u16(r.pack_b.v);
    out.zeros(8);
  }
  void operator()(const UnmapRecord& r) const {
    out.u32(static_cast<uint32_t>(RecordType::kUnmap));
    out.u32(r.lcn.v);
    out.u32(r.count);
    out.zeros(20);
  }
  void operator()(const SegmentRow& r) const {
    out.u8(static_cast<uint8_t>(RecordType::kSegment));
    out.u8(static_cast<uint8_t>(r.role));
    out.u8(static_cast<uint8_t>(r.state));
    out.u8(0);
    out.u32(r.id.v);
    out.u32(r.pcn_base.v);
    out.u32(r.clusters);
    out.bytes(r.uuid.bytes);
  }
  void operator()(const ActivityRecord& r) const {
    out.u8(static_cast<uint8_t>(RecordType::kActivity));
    out.u8(r.count);
    out.u16(0);
    for (const Pcn region : r.regions) out.u32(region.v);
  }
  void operator()(const GrowRecord& r) const {
    out.u32(static_cast<uint32_t>(RecordType::kGrow));
    out.u32(0);
    out.u64(r.size);
    out.zeros(16);
  }
};

// Squeezed as a whole, or what an overlay has not replaced of it.
bool packs_fit(const MapRecord& r) {
  if (!r.pack_a.is_raw()) {
    return r.pack_a.is_valid() && r.pack_b.is_raw() && r.b.v == 0 && r.mask_a == kFullMask;
  }
  return r.pack_b.is_raw() || (r.pack_b.is_valid() && (r.mask_a | r.mask_b) == kFullMask);
}

Result<Record> decode_map(DiskReader& in) {
  MapRecord r;
  in.skip(4);
  r.lcn = Lcn(in.u32());
  r.a = Pcn(in.u32());
  r.b = Pcn(in.u32());
  r.mask_a = in.u16();
  r.mask_b = in.u16();
  r.pack_a = Pack{in.u16()};
  r.pack_b = Pack{in.u16()};
  // A mapped cluster has an owner for every bit, each bit one owner, and no owner without a bit.
  const bool good = (r.a.v != 0) == (r.mask_a != 0) && (r.b.v != 0) == (r.mask_b != 0) && r.a.v != 0 &&
                    (r.mask_a & r.mask_b) == 0 && r.a != r.b && r.a.v < kPcnEnd && r.b.v < kPcnEnd &&
                    packs_fit(r);
  if (!good)
    return fail(Code::kCorrupt,
                fmt::format("map record of cluster {}: owners {}:{:04x}:{:04x} {}:{:04x}:{:04x}", r.lcn.v,
                            r.a.v, r.mask_a, r.pack_a.v, r.b.v, r.mask_b, r.pack_b.v));
  return r;
}

Result<Record> decode_segment(DiskReader& in) {
  SegmentRow r;
  in.skip(1);
  const uint8_t role = in.u8();
  const uint8_t state = in.u8();
  in.skip(1);
  r.id = SegmentId(in.u32());
  r.pcn_base = Pcn(in.u32());
  r.clusters = in.u32();
  const auto raw = in.bytes(16);
  std::copy(raw.begin(), raw.end(), r.uuid.bytes.begin());
  const bool good = valid_role(role) && valid_state(state) && r.pcn_base.v != 0 &&
                    r.pcn_base.v % kGranuleClusters == 0 && r.pcn_base.v < kPcnEnd &&
                    r.clusters <= kPcnEnd - r.pcn_base.v;
  if (!good)
    return fail(Code::kCorrupt, fmt::format("segment record {}: role {}, state {}, clusters {}+{}", r.id.v,
                                            role, state, r.pcn_base.v, r.clusters));
  r.role = static_cast<SegmentRole>(role);
  r.state = static_cast<SegmentState>(state);
  return r;
}

Result<Record> decode_activity(DiskReader& in) {
  ActivityRecord r;
  in.skip(1);
  r.count = in.u8();
  in.skip(2);
  bool good = r.count >= 1 && r.count <= kActivityRegions;
  for (uint32_t i = 0; i < kActivityRegions; ++i) {
    r.regions[i] = Pcn(in.u32());
    const bool used = i < r.count;
    good = good && (r.regions[i].v != 0) == used && r.regions[i].v < kPcnEnd;
  }
  if (!good) return fail(Code::kCorrupt, fmt::format("activity record of {} regions", r.count));
  return r;
}

Result<Record> decode_grow(DiskReader& in) {
  GrowRecord r;
  in.skip(8);
  r.size = in.u64();
  if (r.size == 0 || r.size > limits::kVolumeSizeMax || r.size % kSizeUnit != 0)
    return fail(Code::kCorrupt, fmt::format("grow record to {} bytes", r.size));
  return r;
}

}  // namespace

void encode_record(const Record& record, std::span<std::byte> out) {
  ASSERT(out.size() == kRecordBytes);
  DiskWriter writer(out);
  std::visit(RecordEncoder{writer}, record);
}

Result<Record> decode_record(std::span<const std::byte> bytes) {
  ASSERT(bytes.size() == kRecordBytes);
  DiskReader in(bytes);
  const auto type = static_cast<RecordType>(DiskReader(bytes).u8());
  if (type == RecordType::kMap) return decode_map(in);
  if (type == RecordType::kSegment) return decode_segment(in);
  if (type == RecordType::kGrow) return decode_grow(in);
  if (type == RecordType::kActivity) return decode_activity(in);
  if (type != RecordType::kUnmap) {
    return fail(Code::kCorrupt, fmt::format("journal record of unknown type {}", static_cast<int>(type)));
  }
  in.skip(4);
  UnmapRecord r;
  r.lcn = Lcn(in.u32());
  r.count = in.u32();
  if (r.count == 0 || r.count > UINT32_MAX - r.lcn.v) {
    return fail(Code::kCorrupt, fmt::format("unmap record of {} clusters from {}", r.count, r.lcn.v));
  }
  return r;
}

uint32_t encode_block(const Uuid& volume, const BlockHeader& header, std::span<const std::byte> records,
                      std::span<std::byte> block) {
  ASSERT(block.size() == kMetaBlock && records.size() == size_t{header.count} * kRecordBytes);
  ASSERT(header.count <= kRecordsPerBlock && header.durable < header.seq);
  DiskWriter out(block);
  out.text(kMagic);
  out.u32(0);
  out.bytes(volume.bytes);
  out.u64(header.epoch.v);
  out.u64(header.seq.v);
  out.u64(header.durable.v);
  out.u32(header.prev_crc);
  out.u16(header.count);
  out.zeros(kHeaderBytes - out.used());
  out.bytes(records);
  out.zeros(block.size() - out.used());
  tag_slots(block, volume, header.epoch, header.seq);
  return seal_block(block, kCrcAt);
}

std::optional<BlockHeader> peek_header(std::span<const std::byte> block, const Uuid& volume) {
  ASSERT(block.size() == kMetaBlock);
  DiskReader in(block);
  if (in.text(kMagic.size()) != kMagic) return std::nullopt;
  in.skip(4);
  const auto raw = in.bytes(16);
  if (!std::equal(raw.begin(), raw.end(), volume.bytes.begin())) return std::nullopt;
  BlockHeader out;
  out.epoch = Epoch(in.u64());
  out.seq = BlockSeq(in.u64());
  out.durable = BlockSeq(in.u64());
  out.prev_crc = in.u32();
  out.count = in.u16();
  if (out.count > kRecordsPerBlock || out.durable >= out.seq) return std::nullopt;
  return out;
}

std::optional<DecodedBlock> decode_block(std::span<const std::byte> block, const Uuid& volume) {
  if (!is_sealed(block, kMagic, kCrcAt)) return std::nullopt;
  const auto header = peek_header(block, volume);
  if (!header) return std::nullopt;
  DecodedBlock out;
  out.header = *header;
  out.crc = stored_crc(block, kCrcAt);
  out.records = block.subspan(kHeaderBytes, size_t{out.header.count} * kRecordBytes);
  return out;
}

namespace {

// A block that is not there, at the end of history: not yet, or no longer?
Status check_end(std::span<const std::byte> block, const Uuid& volume, BlockSeq seq, const Fence& fence) {
  if (seq < fence.epoch_start) {
    return fail(Code::kCorrupt,
                fmt::format("hole in the journal: block {} cannot be read, yet it could when epoch {} began",
                            seq.v, fence.epoch.v));
  }
  if (written_whole(block, volume, fence.epoch, seq)) {
    return fail(Code::kCorrupt, fmt::format("journal block {} was written whole, and is damaged", seq.v));
  }
  return {};
}

}  // namespace

Result<Replay> replay_ring(std::span<const std::byte> ring, const Uuid& volume, BlockSeq from,
                           uint32_t prev_crc, const Fence& fence) {
  const uint64_t blocks = ring.size() / kMetaBlock;
  const auto at = [&](uint64_t index) {
    return decode_block(ring.subspan(index * kMetaBlock, kMetaBlock), volume);
  };
  Replay out;
  out.next = from;
  out.prev_crc = prev_crc;
  while (out.blocks.size() < blocks) {
    auto block = at(out.next.v % blocks);
    const bool follows = block && block->header.seq == out.next && block->header.prev_crc == out.prev_crc &&
                         block->header.epoch >= out.epoch && block->header.epoch <= fence.epoch &&
                         (out.next < fence.epoch_start || block->header.epoch == fence.epoch);
    if (!follows) {
      TRY(check_end(ring.subspan(out.next.v % blocks * kMetaBlock, kMetaBlock), volume, out.next, fence));
      break;
    }
    out.prev_crc = block->crc;
    out.epoch = block->header.epoch;
    out.next = out.next.next();
    out.blocks.push_back(*block);
  }
  // Is there proof that history went on durably past here? A block states what was durable before it was
  // written. That counts even if its checksum does not fit: the header lies in one sector, which is written
  // whole or not at all.
  for (uint64_t index = 0; index < blocks; ++index) {
    const auto header = peek_header(ring.subspan(index * kMetaBlock, kMetaBlock), volume);
    if (!header || header->seq.v % blocks != index) continue;
    if (header->durable >= out.next && header->epoch >= out.epoch) {
      return fail(Code::kCorrupt,
                  fmt::format("hole in the journal: block {} cannot be read, yet block {} says that "
                              "everything up to {} was durable",
                              out.next.v, header->seq.v, header->durable.v));
    }
  }
  return out;
}

}  // namespace foreshadow::extent
