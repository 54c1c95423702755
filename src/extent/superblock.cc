#include "extent/superblock.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/codec.h"
#include "base/limits.h"
#include "extent/sealed_block.h"

namespace foreshadow::extent {
namespace {
constexpr std::string_view kMagic = "FSHSUPER";
constexpr size_t kCrcAt = 8;
constexpr size_t kRowBytes = 64;
static_assert(limits::kSegments * kRowBytes == kMetaBlock);

void encode_row(const SegmentRow& row, DiskWriter& out) {
  out.u32(row.id.v);
  out.u8(static_cast<uint8_t>(row.role));
  out.u8(static_cast<uint8_t>(row.state));
  out.u16(0);
  out.bytes(row.uuid.bytes);
  out.u32(row.pcn_base.v);
  out.u32(row.clusters);
  out.zeros(32);
}

Result<SegmentRow> decode_row(DiskReader& in) {
  SegmentRow row;
  row.id = SegmentId(in.u32());
  const uint8_t role = in.u8();
  const uint8_t state = in.u8();
  in.skip(2);
  const auto raw = in.bytes(16);
  std::copy(raw.begin(), raw.end(), row.uuid.bytes.begin());
  row.pcn_base = Pcn(in.u32());
  row.clusters = in.u32();
  in.skip(32);
  if (!valid_role(role) || !valid_state(state)) {
    return fail(Code::kCorrupt,
                fmt::format("superblock: segment {} has role {} and state {}", row.id.v, role, state));
  }
  if (row.pcn_base.v == 0 || row.pcn_base.v % kGranuleClusters != 0 || row.pcn_base.v >= kPcnEnd ||
      row.clusters > kPcnEnd - row.pcn_base.v) {
    return fail(Code::kCorrupt, fmt::format("superblock: segment {} claims clusters {}+{}", row.id.v,
                                            row.pcn_base.v, row.clusters));
  }
  row.role = static_cast<SegmentRole>(role);
  row.state = static_cast<SegmentState>(state);
  return row;
}

}  // namespace

bool valid_role(uint8_t role) {
  return role >= 1 && role <= 3;
}

bool valid_state(uint8_t state) {
  return state >= 1 && state <= 7;
}

void encode_superblock(const Superblock& super, uint64_t offset, std::span<std::byte> bytes) {
  ASSERT(bytes.size() == kSuperBytes && super.segments.size() <= limits::kSegments);
  DiskWriter out(bytes);
  out.text(kMagic);
  out.u32(0);
  out.u32(kFormatVersion);
  out.u64(offset);
  out.bytes(super.volume.bytes);
  out.u64(super.sequence);
  out.u64(super.epoch.v);
  out.u64(super.size);
  out.u64(super.checkpoint.v);
  out.u64(super.replay_from.v);
  out.u32(super.replay_prev_crc);
  out.u8(static_cast<uint8_t>(super.redirect));
  out.u8(static_cast<uint8_t>(super.segments.size()));
  out.u16(0);
  out.u64(super.table_digest);
  out.u32(super.next_segment.v);
  out.u64(super.epoch_start.v);
  ASSERT(super.moved_to.is_nil() == ((super.features & kFeatureMoved) == 0));
  out.u64(super.features);
  out.bytes(super.moved_to.bytes);
  out.zeros(kMetaBlock - out.used());
  for (const SegmentRow& row : super.segments) encode_row(row, out);
  out.zeros(bytes.size() - out.used());
  seal_block(bytes, kCrcAt);
}

Result<Superblock> decode_superblock(std::span<const std::byte> bytes, uint64_t offset, const Uuid& volume) {
  const std::string where = fmt::format("superblock at offset {}", offset);
  TRY(check_block(bytes, kMagic, kCrcAt, where));
  DiskReader in(bytes);
  in.skip(kMagic.size() + 4);
  if (const uint32_t version = in.u32(); version != kFormatVersion) {
    return fail(Code::kUnsupported,
                fmt::format("{}: format version {}, this program knows {}", where, version, kFormatVersion));
  }
  if (const uint64_t own = in.u64(); own != offset) {
    return fail(Code::kCorrupt, fmt::format("{}: it says it lies at {}", where, own));
  }
  Superblock out;
  const auto raw = in.bytes(16);
  std::copy(raw.begin(), raw.end(), out.volume.bytes.begin());
  if (out.volume != volume) {
    return fail(Code::kCorrupt, fmt::format("{}: it belongs to volume {}, expected {}", where,
                                            out.volume.str(), volume.str()));
  }
  out.sequence = in.u64();
  out.epoch = Epoch(in.u64());
  out.size = in.u64();
  out.checkpoint = CkptSeq(in.u64());
  out.replay_from = BlockSeq(in.u64());
  out.replay_prev_crc = in.u32();
  const uint8_t redirect = in.u8();
  const uint8_t rows = in.u8();
  in.skip(2);
  out.table_digest = in.u64();
  out.next_segment = SegmentId(in.u32());
  out.epoch_start = BlockSeq(in.u64());
  out.features = in.u64();
  const auto moved_to = in.bytes(16);
  std::copy(moved_to.begin(), moved_to.end(), out.moved_to.bytes.begin());
  if (const uint64_t unknown = out.features & ~kFeaturesKnown; unknown != 0) {
    return fail(Code::kUnsupported, fmt::format("{}: unknown feature bits {:#x}", where, unknown));
  }
  if (redirect < 1 || redirect > 2 || rows < 1 || rows > limits::kSegments || out.replay_from.v == 0 ||
      out.replay_from.v >= 1ull << 62 || out.epoch_start.v == 0 || out.size == 0 ||
      out.size % kSizeUnit != 0 || out.size > limits::kVolumeSizeMax) {
    return fail(Code::kCorrupt, fmt::format("{}: redirect {}, {} segments, size {}, replay from {}", where,
                                            redirect, rows, out.size, out.replay_from.v));
  }
  if (out.moved_to.is_nil() != ((out.features & kFeatureMoved) == 0)) {
    return fail(Code::kCorrupt, fmt::format("{}: it names no other primary, or should not", where));
  }
  out.redirect = static_cast<Redirect>(redirect);
  DiskReader table(bytes.subspan(kMetaBlock));
  for (uint8_t i = 0; i < rows; ++i) {
    ASSIGN_OR_RETURN(const SegmentRow row, decode_row(table));
    out.segments.push_back(row);
  }
  return out;
}

Result<Superblock> choose_superblock(std::span<const std::byte> copies, const Uuid& volume,
                                     uint64_t* highest_seen) {
  ASSERT(copies.size() == size_t{kSuperCopies} * kSuperBytes);
  std::array<std::optional<Superblock>, kSuperCopies> valid;
  std::string reasons;
  for (uint32_t i = 0; i < kSuperCopies; ++i) {
    auto decoded = decode_superblock(copies.subspan(size_t{i} * kSuperBytes, kSuperBytes),
                                     Layout::super_offset(i), volume);
    if (!decoded) {
      if (decoded.error().code == Code::kUnsupported) return tl::unexpected(decoded.error());
      reasons += (reasons.empty() ? "" : "; ") + decoded.error().message;
      continue;
    }
    valid[i] = std::move(*decoded);
  }
  const Superblock* best = nullptr;
  *highest_seen = 0;
  for (const auto& candidate : valid) {
    if (!candidate) continue;
    *highest_seen = std::max(*highest_seen, candidate->sequence);
    const auto same = std::count_if(valid.begin(), valid.end(),
                                    [&](const auto& other) { return other && *other == *candidate; });
    if (same >= 2 && (best == nullptr || candidate->sequence > best->sequence)) best = &*candidate;
  }
  if (best == nullptr) {
    return fail(Code::kCorrupt, fmt::format("no two of the {} superblock copies are good and equal{}{}",
                                            kSuperCopies, reasons.empty() ? "" : ": ", reasons));
  }
  return *best;
}

}  // namespace foreshadow::extent
