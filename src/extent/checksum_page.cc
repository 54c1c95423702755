#include "extent/checksum_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/codec.h"
#include "base/crc32c.h"
#include "extent/sealed_block.h"
#include "extent/table_page.h"

namespace foreshadow::extent {
namespace {
constexpr std::string_view kMagic = "FSHC";
constexpr size_t kCrcAt = 4;
constexpr size_t kHeaderBytes = 64;
static_assert(kHeaderBytes + sizeof(ChecksumValues) == kMetaBlock);
constexpr uint32_t kPageTag = 1u << 31;  // no page number of a table has it
}  // namespace

uint32_t data_checksum(std::span<const std::byte> sub_block) {
  const uint32_t crc = crc32c(sub_block);
  return crc == kUnknownChecksum ? 1 : crc;
}

uint32_t encode_checksum_page(const ChecksumPage& page, std::span<std::byte> block) {
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
  for (const uint32_t value : page.values) out.u32(value);
  return seal_block(block, kCrcAt);
}

Result<std::optional<ChecksumContent>> decode_checksum_page(std::span<const std::byte> block,
                                                            const Uuid& volume, const Uuid& segment,
                                                            uint32_t page, Pcn pcn_base) {
  if (all_zero(block)) return std::nullopt;
  const std::string where = fmt::format("checksum page {} of segment {}", page, segment.str());
  TRY(check_block(block, kMagic, kCrcAt, where));
  ChecksumContent out;
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
    return fail(Code::kCorrupt, fmt::format("{}: it belongs elsewhere (page {}, clusters from {})", where,
                                            out.page.page, out.page.pcn_base.v));
  }
  for (uint32_t& value : out.page.values) value = in.u32();
  out.crc = stored_crc(block, kCrcAt);
  return out;
}

uint64_t checksum_page_digest(Pcn pcn_base, uint32_t page, CkptSeq checkpoint, uint32_t crc) {
  return page_digest(pcn_base, page | kPageTag, checkpoint, crc);
}

}  // namespace foreshadow::extent
