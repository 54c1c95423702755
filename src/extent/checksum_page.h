#pragma once
// The checksum area of a segment: a crc32c of each sub-block of its data, held apart from the data, so that a
// write that went astray or nowhere shows as surely as rot. Optional, for a whole volume; docs/format.md
// "Checksums".
//
// A page of 63 clusters has two places, as a table page: a checkpoint writes the pages that changed to the
// place not in use, and the superblock's digest covers them. The clusters of one page are a *region*, named
// in ACTIVITY records by the first of its physical clusters.
//
//   offset size  field                          (little endian)
//   0      64    head (extent/page_head.h), magic "FSHC"
//   64     63 x 16 x u32 checksums: 0 is unknown; a checksum that comes to 0 is stored as 1
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

inline constexpr uint32_t kUnknownChecksum = 0;

using ChecksumValues = std::array<uint32_t, size_t{kChecksumClusters} * kSubBlocks>;

struct ChecksumPage : PageHead {
  ChecksumValues values{};
};

// The stored form of one sub-block's checksum; never kUnknownChecksum.
uint32_t data_checksum(std::span<const std::byte> sub_block);

// Returns the crc. `block` is kMetaBlock long.
uint32_t encode_checksum_page(const PageHead& head, const ChecksumValues& values, std::span<std::byte> block);

// One place, without its values: as look_at_page(). The values of a page that it took for good.
Result<std::optional<PageSeen>> look_at_checksum_page(const PageHead& expected,
                                                      std::span<const std::byte> block);
void decode_checksums(std::span<const std::byte> block, ChecksumValues& values);

// Both at once.
struct ChecksumContent {
  ChecksumPage page;
  uint32_t crc = 0;
};
Result<std::optional<ChecksumContent>> decode_checksum_page(std::span<const std::byte> block,
                                                            const Uuid& volume, const Uuid& segment,
                                                            uint32_t page, Pcn pcn_base);

// This page's share of the superblock's digest: that of table pages, told apart by the top bit of the page
// number.
uint64_t checksum_page_digest(Pcn pcn_base, uint32_t page, CkptSeq checkpoint, uint32_t crc);

}  // namespace foreshadow::extent
