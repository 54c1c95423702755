#pragma once
// The label: who a segment is. Written once, when the segment is made; two copies, either is enough.
//
//   offset size  field                          (little endian; docs/format.md "Label")
//   0      8     magic "FSHLABEL"
//   8      4     crc32c of the block, this field as zero
//   12     4     format version (2)
//   16     8     incompatible feature bits: an unknown one refuses the segment. 0: it has a checksum area
//   24     8     own offset in the segment
//   32     16    volume UUID
//   48     16    segment UUID
//   64     8     segment size when it was made, bytes
//   72     8     journal offset
//   80     4     journal blocks
//   84     4     table pages
//   88     8     table offset
//   96     8     data offset
//   104    4     clusters that the table can describe
//   108    1     sub-block bits
//   109    1     role (1 primary, 2 shadow)
//   110    2     volume name length (primary only)
//   112    64    volume name
//   176    8     checksum area offset, 0 without one
//   184    4     checksum pages
//   232    8     size of the volume when it was made (primary only): for `foreshadow rescue`, nobody else
//   believes it
#include <cstddef>
#include <span>
#include <string>

#include "base/error.h"
#include "base/uuid.h"
#include "extent/geometry.h"

namespace foreshadow::extent {

inline constexpr uint32_t kFormatVersion = 2;
inline constexpr uint64_t kLabelChecksums = 1;  // feature bit

enum class SegmentRole : uint8_t { kPrimary = 1, kShadow = 2 };

struct Label {
  Uuid volume;
  Uuid segment;
  SegmentRole role = SegmentRole::kPrimary;
  Geometry geometry;
  uint64_t size = 0;  // when it was made; a segment may grow and shrink
  Layout layout;
  std::string name;          // of the volume; in the primary only
  uint64_t volume_size = 0;  // as it was made; in the primary only
  bool operator==(const Label&) const = default;
};

// `block` is kMetaBlock long. `offset` is where it lies or will lie.
void encode_label(const Label& label, uint64_t offset, std::span<std::byte> block);
// kNotFound for an all-zero block, kCorrupt (naming what) for anything else that is not a label of this
// offset, kUnsupported for a newer format.
Result<Label> decode_label(std::span<const std::byte> block, uint64_t offset);

}  // namespace foreshadow::extent
