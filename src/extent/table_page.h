#pragma once
// The segment table: for each physical cluster of a segment, what it holds. It is the checkpoint of the map
// and the reverse record in one: the forward map is rebuilt by reading it, and each segment describes itself.
//
// A page of 252 entries has two places; a checkpoint writes the pages that changed into the place not in use,
// so the old page survives until the superblock names the new checkpoint. A page counts if its sequence is
// not above the superblock's. Never-written places are all zero. The superblock's digest is the sum of
// page_digest over all pages in use: a page that was lost, or is stale, shows.
//
//   offset size  field                          (little endian; docs/format.md "Table")
//   0      64    head (extent/page_head.h), magic "FSHT"
//   64     252 x 16 entries: u32 lcn, u16 mask of sub-blocks held (0: free), u16 kind 0, u64 zero
//
// An entry whose kind has bit 15 is a container of squeezed clusters (extent/container.h): u32 lcn of member
// 0, u16 slots of members 0, 1, 2 (4 bits each from bit 0), u16 kind 0x8000 | codecs (2 bits each from bit
// 0), u32 lcn of member 1, u32 lcn of member 2. Lcn 0xffffffff: nobody's; its slots still count.
#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/types.h"
#include "base/uuid.h"
#include "extent/geometry.h"
#include "extent/page_head.h"

namespace foreshadow::extent {

struct TableEntry {
  Lcn lcn;
  uint16_t mask = 0;  // 0: free
  uint16_t kind = 0;
  std::array<Lcn, 2> more{};  // of a container
  bool is_container() const { return (kind & 0x8000) != 0; }
  bool operator==(const TableEntry&) const = default;
};

using TableEntries = std::array<TableEntry, kTableEntries>;

struct TablePage : PageHead {
  TableEntries entries{};
};

// What a page of a base's table says that was never written: everything is in its place. `bytes` is the
// image's size.
TableEntries base_entries(uint64_t bytes, Geometry geometry, uint32_t page);

// Returns the crc. `block` is kMetaBlock long.
uint32_t encode_page(const TablePage& page, std::span<std::byte> block);

// One place, without its entries: as look_at_page(). The entries of a page that it took for good.
Result<std::optional<PageSeen>> look_at_table_page(const PageHead& expected,
                                                   std::span<const std::byte> block);
void decode_entries(std::span<const std::byte> block, TableEntries& entries);

// Both at once.
struct PlaceContent {
  TablePage page;
  uint32_t crc = 0;
};
Result<std::optional<PlaceContent>> decode_page(std::span<const std::byte> block, const Uuid& volume,
                                                const Uuid& segment, uint32_t page, Pcn pcn_base);

// This page's share of the superblock's digest.
uint64_t page_digest(Pcn pcn_base, uint32_t page, CkptSeq checkpoint, uint32_t crc);

}  // namespace foreshadow::extent
