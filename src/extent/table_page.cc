#include "extent/table_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/codec.h"
#include "extent/sealed_block.h"

namespace foreshadow::extent {
namespace {
constexpr std::string_view kMagic = "FSHT";
constexpr size_t kCrcAt = 4;
constexpr size_t kHeaderBytes = 64;
static_assert(kHeaderBytes + kTableEntries * 16 == kMetaBlock);

uint64_t mix(uint64_t z) {  // the finaliser of splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

std::array<TableEntry, kTableEntries> base_entries(uint64_t bytes, Geometry geometry, uint32_t page) {
  std::array<TableEntry, kTableEntries> out{};
  for (uint32_t i = 0; i < kTableEntries; ++i) {
    const uint32_t index = page * kTableEntries + i;
    const uint16_t mask = base_mask(bytes, geometry, index);
    if (mask != 0) out[i] = {Lcn(index), mask};
  }
  return out;
}

uint32_t encode_page(const TablePage& page, std::span<std::byte> block) {
  ASSERT(block.size() == kMetaBlock);
  DiskWriter out(block);
  out.text(kMagic);
  out.u32(0);
  out.bytes(page.volume.bytes);
  out.bytes(page.segment.bytes);
  out.u64(page.checkpoint.v);
  out.u32(page.page);
  out.u32(page.pcn_base.v);
  out.u64(0);
  for (const TableEntry& entry : page.entries) {
    out.u32(entry.lcn.v);
    out.u16(entry.mask);
    out.u16(entry.kind);
    out.u32(entry.more[0].v);
    out.u32(entry.more[1].v);
  }
  return seal_block(block, kCrcAt);
}

Result<std::optional<PlaceContent>> decode_page(std::span<const std::byte> block, const Uuid& volume,
                                                const Uuid& segment, uint32_t page, Pcn pcn_base) {
  if (all_zero(block)) return std::nullopt;
  // Made only for an error: a large volume has many pages.
  const auto where = [&] { return fmt::format("table page {} of segment {}", page, segment.str()); };
  if (!is_sealed(block, kMagic, kCrcAt))
    return tl::unexpected(check_block(block, kMagic, kCrcAt, where()).error());
  PlaceContent out;
  DiskReader in(block);
  in.skip(kMagic.size() + 4);
  const auto volume_raw = in.bytes(16);
  const auto segment_raw = in.bytes(16);
  out.page.volume = volume;
  out.page.segment = segment;
  out.page.checkpoint = CkptSeq(in.u64());
  out.page.page = in.u32();
  out.page.pcn_base = Pcn(in.u32());
  in.skip(8);
  if (!std::equal(volume_raw.begin(), volume_raw.end(), volume.bytes.begin()) ||
      !std::equal(segment_raw.begin(), segment_raw.end(), segment.bytes.begin()) || out.page.page != page ||
      out.page.pcn_base != pcn_base) {
    return fail(Code::kCorrupt, fmt::format("{}: it belongs elsewhere (page {}, clusters from {})", where(),
                                            out.page.page, out.page.pcn_base.v));
  }
  for (TableEntry& entry : out.page.entries) {
    entry.lcn = Lcn(in.u32());
    entry.mask = in.u16();
    entry.kind = in.u16();
    entry.more = {Lcn(in.u32()), Lcn(in.u32())};
  }
  out.crc = stored_crc(block, kCrcAt);
  return out;
}

uint64_t page_digest(Pcn pcn_base, uint32_t page, CkptSeq checkpoint, uint32_t crc) {
  return mix(mix(uint64_t{pcn_base.v} << 32 | page) + mix(checkpoint.v) + crc);
}

}  // namespace foreshadow::extent
