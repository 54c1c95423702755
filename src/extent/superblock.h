#pragma once
// The superblock: what a volume consists of, and from where its journal must be replayed. Four copies in the
// primary.
//
// Validity: a copy counts when magic, crc, own offset and volume fit. The highest sequence that at least two
// copies carry is the superblock; writing goes to copies 0 and 1, then a sync, then 2 and 3, then a sync. So
// a crash at any point, torn copies included, leaves two good copies of the old or two of the new, and one
// misdirected or rotten copy never decides.
//
//   offset size  field                          (little endian; docs/format.md "Superblock")
//   0      8     magic "FSHSUPER"
//   8      4     crc32c of the 8 KiB, this field as zero
//   12     4     format version (2)
//   16     8     own offset
//   24     16    volume UUID
//   40     8     sequence, one more at every write
//   48     8     epoch, one more at every attach
//   56     8     logical size, bytes
//   64     8     checkpoint sequence; table pages with a higher one are unfinished
//   72     8     first journal block to replay
//   80     4     crc32c of the journal block before that one
//   84     1     redirect (1 allocating, 2 all)
//   85     1     rows in use
//   86     2     zero
//   88     8     table digest: sum over all written pages of mix(pcn base, page, checkpoint sequence, crc)
//   96     4     next segment id
//   100    8     first journal block of this epoch: from there on, blocks of older epochs are nobody's
//   108    8     incompatible feature bits: an unknown one refuses the volume. 0 squeezed, 1 data checksums,
//                 2 over, 3 moved
//   116    16    UUID of the segment that is the head now, with feature bit 3; see extent/head.h
//   4096   64x64 segment rows: id u32, role u8, state u8, zero u16, UUID 16, pcn base u32, clusters u32, zero
//   32
#include <cstddef>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "base/uuid.h"
#include "extent/geometry.h"
#include "extent/label.h"

namespace foreshadow::extent {

// What of a segment's life must survive a crash. Numbers are on disk. A draining segment is being emptied
// into whatever else has room, a folding one into the primary; neither takes new clusters. A released one is
// empty, and leaves the table with the next checkpoint.
enum class SegmentState : uint8_t {
  kWarm = 1,
  kActive = 2,
  kSealed = 3,
  kMerged = 4,
  kDraining = 5,
  kReleased = 6,
  kFolding = 7
};
enum class Redirect : uint8_t { kAllocating = 1, kAll = 2 };

// Incompatible features. A bit is durable before anything that needs it is.
inline constexpr uint64_t kFeatureSqueezed = 1u << 0;   // squeezed clusters may exist
inline constexpr uint64_t kFeatureChecksums = 1u << 1;  // every segment but a base has a checksum area
inline constexpr uint64_t kFeatureBase = 1u << 2;       // the volume lies over an image
inline constexpr uint64_t kFeatureMoved = 1u << 3;      // this segment is not the head any more
inline constexpr uint64_t kFeaturesKnown =
    kFeatureSqueezed | kFeatureChecksums | kFeatureBase | kFeatureMoved;

struct SegmentRow {
  SegmentId id;
  Uuid uuid;
  SegmentRole role = SegmentRole::kPrimary;
  SegmentState state = SegmentState::kMerged;
  Pcn pcn_base;
  uint32_t clusters = 0;  // that may be used now; at most what the label's table describes
  bool operator==(const SegmentRow&) const = default;
};

struct Superblock {
  Uuid volume;
  uint64_t sequence = 0;
  Epoch epoch;
  uint64_t size = 0;
  CkptSeq checkpoint;
  BlockSeq replay_from{1};
  uint32_t replay_prev_crc = 0;
  BlockSeq epoch_start{1};  // the first journal block of this epoch
  Redirect redirect = Redirect::kAllocating;
  uint64_t table_digest = 0;
  SegmentId next_segment;
  uint64_t features = 0;
  Uuid moved_to;  // nil in the head; else the segment that is it
  std::vector<SegmentRow> segments;
  bool operator==(const Superblock&) const = default;
};

// `bytes` is kSuperBytes long.
void encode_superblock(const Superblock& super, uint64_t offset, std::span<std::byte> bytes);
Result<Superblock> decode_superblock(std::span<const std::byte> bytes, uint64_t offset, const Uuid& volume);
// The quorum rule above over all kSuperCopies copies, laid out one after the other. `highest_seen` gets the
// highest sequence of any valid copy, so that the next write can go past it.
Result<Superblock> choose_superblock(std::span<const std::byte> copies, const Uuid& volume,
                                     uint64_t* highest_seen);

bool valid_role(uint8_t role);
bool valid_state(uint8_t state);

}  // namespace foreshadow::extent
