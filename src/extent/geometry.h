#pragma once
// The fixed proportions of the format, and where things lie in a segment. docs/format.md draws the same
// picture.
#include <cstdint>

#include "base/error.h"
#include "base/types.h"

namespace foreshadow::extent {

inline constexpr uint32_t kMetaBlock = 4096;  // unit of every metadata structure
inline constexpr uint32_t kJournalBlocksMin = 4;
inline constexpr uint32_t kJournalBlocksMax = 16384;  // 64 MiB
inline constexpr uint32_t kSubBlocks = 16;            // per cluster: one bit each in a mask
inline constexpr uint16_t kFullMask = 0xffff;
inline constexpr uint32_t kLabelCopies = 2;
inline constexpr uint32_t kSuperCopies = 4;
inline constexpr uint32_t kSuperBytes = 2 * kMetaBlock;
inline constexpr uint32_t kTableEntries = 252;     // per table page
inline constexpr uint32_t kSizeUnit = 512;         // every volume's size is a multiple of it
inline constexpr uint32_t kTableSlots = 2;         // places of one page; checkpoints alternate
inline constexpr uint32_t kChecksumClusters = 63;  // per checksum page; it has kTableSlots places as well
// Every segment's range of physical cluster numbers starts at a multiple of this, so that a table of granules
// finds the owner of a cluster with one load. Granule 0 is never used: physical cluster 0 means "none".
inline constexpr uint32_t kGranuleClusters = 1u << 14;
inline constexpr uint32_t kPcnEnd = 0xf0000000u;  // from here on a map entry is something else than a cluster

// Chosen when the volume is created; 4 KiB sub-blocks and so 64 KiB clusters, smaller only in simulations.
struct Geometry {
  uint8_t sub_block_bits = 12;  // 9..12
  uint32_t sub_block() const { return 1u << sub_block_bits; }
  uint32_t cluster() const { return kSubBlocks << sub_block_bits; }
  uint32_t cluster_bits() const { return sub_block_bits + 4u; }
  bool operator==(const Geometry&) const = default;
};

// Byte offsets of the areas of one segment.
struct Layout {
  uint64_t journal_offset = 0;  // 0 in a shadow
  uint32_t journal_blocks = 0;
  uint64_t table_offset = 0;
  uint32_t table_pages = 0;      // each has kTableSlots places
  uint64_t checksum_offset = 0;  // 0 without data checksums
  uint32_t checksum_pages = 0;
  uint64_t data_offset = 0;
  uint32_t clusters = 0;  // the most the table can describe; how many there are is in the segment's row

  static uint64_t label_offset(uint32_t copy) { return uint64_t{copy} * kMetaBlock; }
  static uint64_t super_offset(uint32_t copy) {
    return uint64_t{kLabelCopies} * kMetaBlock + uint64_t{copy} * kSuperBytes;
  }
  uint64_t page_offset(uint32_t page, uint32_t slot) const {
    return table_offset + (uint64_t{page} * kTableSlots + slot) * kMetaBlock;
  }
  uint64_t checksum_page_offset(uint32_t page, uint32_t slot) const {
    return checksum_offset + (uint64_t{page} * kTableSlots + slot) * kMetaBlock;
  }
  uint64_t block_offset(uint64_t seq) const { return journal_offset + seq % journal_blocks * kMetaBlock; }
  bool operator==(const Layout&) const = default;
};

// The layout of a backing of `bytes`. `journal_blocks` is 0 for a shadow. The table describes as many
// clusters as the backing holds, or `clusters_max` if that is more: head-room to grow into; so does the area
// of checksums, if there is one. `base_pages` is the length of the base's table, which lies behind the
// backing's own, before the checksums. kInvalidArgument if the backing would hold no cluster.
Result<Layout> make_layout(uint64_t bytes, Geometry geometry, uint32_t journal_blocks,
                           uint32_t clusters_max = 0, bool checksums = false, uint64_t base_pages = 0);
// How many clusters a backing of `bytes` holds under `layout`.
uint32_t clusters_in(const Layout& layout, Geometry geometry, uint64_t bytes);
// The least backing that holds `clusters` of them.
uint64_t bytes_for(const Layout& layout, Geometry geometry, uint32_t clusters);
// Pages of the table of a base of `bytes`.
inline uint64_t base_table_pages(uint64_t bytes, Geometry geometry) {
  return div_up(div_up(bytes, geometry.cluster()), kTableEntries);
}
// Which sub-blocks of cluster `index` of a base of `bytes` lie in it, the last one perhaps only in part.
uint16_t base_mask(uint64_t bytes, Geometry geometry, uint32_t index);
// The journal a primary of `bytes` gets by default: 1/64 of it, 1 MiB to 64 MiB.
uint32_t default_journal_blocks(uint64_t bytes);

}  // namespace foreshadow::extent
