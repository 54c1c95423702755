#include "extent/table_page.h"

#include "base/codec.h"

namespace foreshadow::extent {
namespace {
constexpr PageKind kKind{"FSHT", "table page"};
constexpr size_t kEntryBytes = 16;
static_assert(kPageHeadBytes + kTableEntries * kEntryBytes == kMetaBlock);

uint64_t mix(uint64_t z) {  // the finaliser of splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

TableEntries base_entries(uint64_t bytes, Geometry geometry, uint32_t page) {
  TableEntries out{};
  for (uint32_t i = 0; i < kTableEntries; ++i) {
    const uint32_t index = page * kTableEntries + i;
    const uint16_t mask = base_mask(bytes, geometry, index);
    if (mask != 0) out[i] = {Lcn(index), mask};
  }
  return out;
}

uint32_t encode_page(const TablePage& page, std::span<std::byte> block) {
  ASSERT(block.size() == kMetaBlock);
  for (size_t i = 0; i < kTableEntries; ++i) {
    const TableEntry& entry = page.entries[i];
    DiskWriter out(block.subspan(kPageHeadBytes + i * kEntryBytes, kEntryBytes));
    out.u32(entry.lcn.v);
    out.u16(entry.mask);
    out.u16(entry.kind);
    out.u32(entry.more[0].v);
    out.u32(entry.more[1].v);
  }
  return seal_page(kKind, page, block);
}

Result<std::optional<PageSeen>> look_at_table_page(const PageHead& expected,
                                                   std::span<const std::byte> block) {
  return look_at_page(kKind, expected, block);
}

void decode_entries(std::span<const std::byte> block, TableEntries& entries) {
  ASSERT(block.size() == kMetaBlock);
  for (size_t i = 0; i < kTableEntries; ++i) {
    DiskReader in(block.subspan(kPageHeadBytes + i * kEntryBytes, kEntryBytes));
    entries[i].lcn = Lcn(in.u32());
    entries[i].mask = in.u16();
    entries[i].kind = in.u16();
    entries[i].more = {Lcn(in.u32()), Lcn(in.u32())};
  }
}

Result<std::optional<PlaceContent>> decode_page(std::span<const std::byte> block, const Uuid& volume,
                                                const Uuid& segment, uint32_t page, Pcn pcn_base) {
  PlaceContent out;
  static_cast<PageHead&>(out.page) = {volume, segment, CkptSeq(), page, pcn_base};
  ASSIGN_OR_RETURN(const std::optional<PageSeen> seen, look_at_page(kKind, out.page, block));
  if (!seen) return std::nullopt;
  out.page.checkpoint = seen->checkpoint;
  out.crc = seen->crc;
  decode_entries(block, out.page.entries);
  return out;
}

uint64_t page_digest(Pcn pcn_base, uint32_t page, CkptSeq checkpoint, uint32_t crc) {
  return mix(mix(uint64_t{pcn_base.v} << 32 | page) + mix(checkpoint.v) + crc);
}

}  // namespace foreshadow::extent
