#include "extent/page_head.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/codec.h"
#include "extent/geometry.h"
#include "extent/sealed_block.h"

namespace foreshadow::extent {

uint32_t seal_page(PageKind kind, const PageHead& head, std::span<std::byte> block) {
  ASSERT(block.size() == kMetaBlock);
  DiskWriter out(block.first(kPageHeadBytes));
  out.text(kind.magic);
  out.u32(0);
  out.bytes(head.volume.bytes);
  out.bytes(head.segment.bytes);
  out.u64(head.checkpoint.v);
  out.u32(head.page);
  out.u32(head.pcn_base.v);
  out.u64(0);
  return seal_block(block, kPageCrcAt);
}

Result<std::optional<PageSeen>> look_at_page(PageKind kind, const PageHead& expected,
                                             std::span<const std::byte> block) {
  ASSERT(block.size() == kMetaBlock);
  if (all_zero(block)) return std::nullopt;
  // Made only for an error: a large volume has many pages.
  const auto where = [&] {
    return fmt::format("{} {} of segment {}", kind.name, expected.page, expected.segment.str());
  };
  if (!is_sealed(block, kind.magic, kPageCrcAt))
    return tl::unexpected(check_block(block, kind.magic, kPageCrcAt, where()).error());
  DiskReader in(block.first(kPageHeadBytes));
  in.skip(kind.magic.size() + 4);
  const auto volume = in.bytes(expected.volume.bytes.size());
  const auto segment = in.bytes(expected.segment.bytes.size());
  const CkptSeq checkpoint(in.u64());
  const uint32_t page = in.u32();
  const Pcn pcn_base(in.u32());
  if (!std::equal(volume.begin(), volume.end(), expected.volume.bytes.begin()) ||
      !std::equal(segment.begin(), segment.end(), expected.segment.bytes.begin()) || page != expected.page ||
      pcn_base != expected.pcn_base) {
    return fail(Code::kCorrupt, fmt::format("{}: it belongs elsewhere (page {}, clusters from {})", where(),
                                            page, pcn_base.v));
  }
  return PageSeen{checkpoint, stored_crc(block, kPageCrcAt)};
}

}  // namespace foreshadow::extent
