#pragma once
// The head that a table page and a checksum page have in common: what it is, whose, which, and of when. A
// page is taken for good only where all of that fits the place it was read from.
//
//   offset size  field                          (little endian; docs/format.md "Table", "Checksums")
//   0      4     magic
//   4      4     crc32c of the page, this field as zero
//   8      16    volume UUID
//   24     16    segment UUID
//   40     8     checkpoint sequence
//   48     4     page number
//   52     4     pcn base of the segment
//   56     8     zero
#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/types.h"
#include "base/uuid.h"

namespace foreshadow::extent {

inline constexpr size_t kPageHeadBytes = 64;
inline constexpr size_t kPageCrcAt = 4;

struct PageHead {
  Uuid volume;
  Uuid segment;
  CkptSeq checkpoint;
  uint32_t page = 0;
  Pcn pcn_base;
};

struct PageKind {
  std::string_view magic;
  std::string_view name;  // in messages
};

// Puts the head before the body, which is in `block` already, and seals both. Returns the crc.
uint32_t seal_page(PageKind kind, const PageHead& head, std::span<std::byte> block);

// Which of a page's states a place holds.
struct PageSeen {
  CkptSeq checkpoint;
  uint32_t crc = 0;
};
// One place as read: nothing for never written (all zero); kCorrupt if it is not the page that belongs there.
// Of `expected`, the checkpoint does not count.
Result<std::optional<PageSeen>> look_at_page(PageKind kind, const PageHead& expected,
                                             std::span<const std::byte> block);

}  // namespace foreshadow::extent
