#include "extent/geometry.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/size.h"

namespace foreshadow::extent {

Result<Layout> make_layout(uint64_t bytes, Geometry geometry, uint32_t journal_blocks, uint32_t clusters_max,
                           bool checksums, uint64_t base_pages) {
  Layout out;
  uint64_t head = uint64_t{kLabelCopies} * kMetaBlock;
  if (journal_blocks > 0) {
    head += uint64_t{kSuperCopies} * kSuperBytes;
    out.journal_offset = head;
    out.journal_blocks = journal_blocks;
    head += uint64_t{journal_blocks} * kMetaBlock;
  }
  out.table_offset = head;
  const uint64_t cluster = geometry.cluster();
  const uint64_t unit = std::max<uint64_t>(cluster, kMetaBlock);
  uint64_t clusters = bytes > head ? (bytes - head) / cluster : 0;
  clusters = std::min<uint64_t>(clusters, kPcnEnd - kGranuleClusters);
  for (; clusters > 0; --clusters) {
    const uint64_t described = std::max<uint64_t>(clusters, clusters_max);
    const uint64_t pages = div_up(described, kTableEntries);
    const uint64_t checksum_pages = checksums ? div_up(described, kChecksumClusters) : 0;
    const uint64_t data =
        align_up(head + (pages + base_pages + checksum_pages) * kTableSlots * kMetaBlock, unit);
    if (data + clusters * cluster > bytes) {
      // Step down by what is missing, not one by one.
      const uint64_t excess = div_up(data + clusters * cluster - bytes, cluster);
      clusters -= std::min(clusters - 1, excess - 1);
      continue;
    }
    out.table_pages = static_cast<uint32_t>(pages);
    out.checksum_pages = static_cast<uint32_t>(checksum_pages);
    if (checksums) out.checksum_offset = head + (pages + base_pages) * kTableSlots * kMetaBlock;
    out.data_offset = data;
    out.clusters = static_cast<uint32_t>(described);
    return out;
  }
  return fail(Code::kInvalidArgument,
              fmt::format("a segment of {} is too small: its metadata alone takes {}", format_size(bytes),
                          format_size(head + (1 + base_pages) * kTableSlots * kMetaBlock)));
}

uint16_t base_mask(uint64_t bytes, Geometry geometry, uint32_t index) {
  const uint64_t inside = bytes - std::min(bytes, uint64_t{index} * geometry.cluster());
  const uint64_t blocks = std::min<uint64_t>(div_up(inside, geometry.sub_block()), kSubBlocks);
  return static_cast<uint16_t>((1u << blocks) - 1);
}

uint32_t clusters_in(const Layout& layout, Geometry geometry, uint64_t bytes) {
  if (bytes < layout.data_offset) return 0;
  return static_cast<uint32_t>(
      std::min<uint64_t>(layout.clusters, (bytes - layout.data_offset) / geometry.cluster()));
}

uint64_t bytes_for(const Layout& layout, Geometry geometry, uint32_t clusters) {
  return layout.data_offset + uint64_t{clusters} * geometry.cluster();
}

uint32_t default_journal_blocks(uint64_t bytes) {
  return static_cast<uint32_t>(std::clamp<uint64_t>(bytes / 64, kMiB, 64 * kMiB) / kMetaBlock);
}

}  // namespace foreshadow::extent
