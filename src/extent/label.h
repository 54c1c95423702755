#pragma once
// The label: who a segment is. Written once, when the segment is made; two copies, either is enough.
//
//   offset size  field                          (little endian; docs/format.md "Label")
//   0      8     magic "FSHLABEL"
//   8      4     crc32c of the block, this field as zero
//   12     4     format version (2)
//   16     8     incompatible feature bits: an unknown one refuses the segment. 0: it has a checksum area; 1:
//                over a base
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
//   188    4     zero
//   192    16    base: UUID of its segment   (all of the base zero, unless bit 1 is set; in a primary only)
//   208    4     base: clusters
//   212    4     zero
//   216    8     base: table offset, in this segment
//   224    4     base: table pages
//   228    4     base: length of its path
//   232    8     base: bytes of the image, a multiple of 512
//   240    1024  base: its path
//   1264   8     size of the volume when it was made (primary only): for `foreshadow rescue`, nobody else
//                believes it
#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "base/uuid.h"
#include "extent/geometry.h"

namespace foreshadow::extent {

inline constexpr uint32_t kFormatVersion = 2;
inline constexpr uint64_t kLabelChecksums = 1;  // feature bit

// A base is an image that was there before the volume: it has no label and no table of its own.
enum class SegmentRole : uint8_t { kPrimary = 1, kShadow = 2, kBase = 3 };

inline constexpr uint64_t kLabelFeatureBase = 1u << 1;
inline constexpr size_t kBasePathBytes = 1024;
inline constexpr size_t kNoBase = SIZE_MAX;  // where one of several files may be a base, by its index

// What an `over` volume lies over. Its cluster i holds logical cluster i or nothing; its table is in the
// primary, and a page of it that was never written means that every cluster there is in its place.
struct BaseArea {
  Uuid uuid;
  uint32_t clusters = 0;  // the last one may be cut short by the end of the image
  uint32_t table_pages = 0;
  uint64_t table_offset = 0;
  uint64_t bytes = 0;
  std::string path;  // where the image was when the volume was made
  bool operator==(const BaseArea&) const = default;
  Layout layout() const;  // of its table, in the primary's file; the data begins with the image's first byte
};

struct Label {
  Uuid volume;
  Uuid segment;
  SegmentRole role = SegmentRole::kPrimary;
  Geometry geometry;
  uint64_t size = 0;  // when it was made; a segment may grow and shrink
  Layout layout;
  std::string name;          // of the volume; in the primary only
  uint64_t volume_size = 0;  // as it was made; in the primary only
  std::optional<BaseArea> base = std::nullopt;
  bool operator==(const Label&) const = default;
};

// The base's numbers, for an image of `bytes` and a primary laid out for it; uuid and path are left empty.
// kInvalidArgument if the image is smaller than a cluster, or not whole sectors.
Result<BaseArea> make_base_area(const Layout& layout, Geometry geometry, uint64_t bytes);

// `block` is kMetaBlock long. `offset` is where it lies or will lie.
void encode_label(const Label& label, uint64_t offset, std::span<std::byte> block);
// kNotFound for a block that begins with a sector of zeros (nothing but the start of one was ever written),
// kCorrupt (naming what) for anything else that is not a label of this offset, kUnsupported for a newer
// format.
Result<Label> decode_label(std::span<const std::byte> block, uint64_t offset);
// kCorrupt if two backings bear the same segment: one is a copy, and nothing tells which is the older.
Status none_twice(std::span<const std::optional<Label>> labels);

}  // namespace foreshadow::extent
