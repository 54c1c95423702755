#include "extent/checksum_page.h"

#include "base/codec.h"
#include "base/crc32c.h"
#include "extent/table_page.h"

namespace foreshadow::extent {
namespace {
constexpr PageKind kKind{"FSHC", "checksum page"};
static_assert(kPageHeadBytes + sizeof(ChecksumValues) == kMetaBlock);
constexpr uint32_t kPageTag = 1u << 31;  // no page number of a table has it
}  // namespace

uint32_t data_checksum(std::span<const std::byte> sub_block) {
  const uint32_t crc = crc32c(sub_block);
  return crc == kUnknownChecksum ? 1 : crc;
}

uint32_t encode_checksum_page(const PageHead& head, const ChecksumValues& values,
                              std::span<std::byte> block) {
  ASSERT(block.size() == kMetaBlock);
  DiskWriter(block.subspan(kPageHeadBytes)).put_all<uint32_t>(values);
  return seal_page(kKind, head, block);
}

Result<std::optional<PageSeen>> look_at_checksum_page(const PageHead& expected,
                                                      std::span<const std::byte> block) {
  return look_at_page(kKind, expected, block);
}

void decode_checksums(std::span<const std::byte> block, ChecksumValues& values) {
  ASSERT(block.size() == kMetaBlock);
  DiskReader(block.subspan(kPageHeadBytes)).get_all<uint32_t>(values);
}

Result<std::optional<ChecksumContent>> decode_checksum_page(std::span<const std::byte> block,
                                                            const Uuid& volume, const Uuid& segment,
                                                            uint32_t page, Pcn pcn_base) {
  ChecksumContent out;
  static_cast<PageHead&>(out.page) = {volume, segment, CkptSeq(), page, pcn_base};
  ASSIGN_OR_RETURN(const std::optional<PageSeen> seen, look_at_page(kKind, out.page, block));
  if (!seen) return std::nullopt;
  out.page.checkpoint = seen->checkpoint;
  out.crc = seen->crc;
  decode_checksums(block, out.page.values);
  return out;
}

uint64_t checksum_page_digest(Pcn pcn_base, uint32_t page, CkptSeq checkpoint, uint32_t crc) {
  return page_digest(pcn_base, page | kPageTag, checkpoint, crc);
}

}  // namespace foreshadow::extent
