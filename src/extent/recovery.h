#pragma once
// From bytes to a volume's state: read labels, superblock, journal and tables, replay, and refuse what does
// not fit.
//
// Why a crash anywhere is safe. Checkpoint C is in force from the moment two copies of a superblock naming it
// are durable; every page it counts was synced before that. The tables then say exactly what the map was
// after journal block `replay_from - 1`, and the ring still holds everything from there on, since its space
// is reused only after that superblock is durable. Replaying records of absolute state in order gives the map
// as of the last whole block. Pages of an unfinished checkpoint have a higher sequence than C: they are
// ignored, and marked dirty so that the next checkpoint overwrites them before it could take them for its
// own.
#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "extent/allocator.h"
#include "extent/checksum_table.h"
#include "extent/container.h"
#include "extent/delta.h"
#include "extent/label.h"
#include "extent/map.h"
#include "extent/superblock.h"
#include "io/file.h"
#include "io/task.h"

namespace foreshadow::extent {

// A segment that belongs to the volume, with what the tables said of it.
struct RecoveredSegment {
  SegmentRow row;
  Layout layout;
  size_t file = 0;              // index into the files given
  size_t table_file = 0;        // where its table is: the primary's for a base, else its own
  std::vector<uint8_t> places;  // per table page: the place in use, or kNoPlace
  Allocator allocator{Pcn(0), 0};
  ChecksumTable checksums;
};

// One that could be the head and is not: it must be told so (extent/head.h).
struct ToMark {
  size_t file = 0;
  // What it says already, where it says so but not in all copies; otherwise none is good.
  Superblock super;
  std::array<bool, kSuperCopies> good{};
  bool agreed = false;
};

struct PageRef {
  size_t segment = 0;  // index into Recovered::segments
  uint32_t page = 0;
};

struct Recovered {
  Label label;        // of the primary
  Superblock stored;  // as the quorum has it on disk
  Superblock super;   // brought up to date by the journal
  uint64_t highest_super_sequence = 0;
  std::array<bool, kSuperCopies> super_copy_good{};  // equal to `stored`
  Map map{0};
  Containers containers;
  std::vector<RecoveredSegment> segments;
  BlockSeq next_block{1};
  uint32_t prev_crc = 0;
  std::vector<Delta> deltas;           // what replay changed since the checkpoint
  std::vector<PageRef> unfinished;     // pages to write again in any case
  std::vector<ToMark> to_mark;
  std::vector<size_t> orphans;         // files that name this volume but are not part of it
  std::vector<std::string> blemishes;  // damaged redundant copies: harmless now, worth a repair
  uint64_t journal_records = 0;
  uint64_t table_pages = 0;     // in use
  uint64_t checksum_pages = 0;  // in use
};

// Both label copies of one backing; either is enough. `blemish` gets what is wrong with the other one, if
// anything.
io::Task<Result<Label>> read_label(io::File& file, std::string* blemish);

// A head to be believed whatever the superblocks on disk say: what a rescue would write, to be tried first.
struct SupposedHead {
  size_t file = 0;
  Superblock super;
};

// `files`: every backing that names the volume, in any order; none is written to. `base`: which of them is
// the image that an `over` volume lies over, which bears no label. kCorrupt if a segment is there twice.
io::Task<Result<std::unique_ptr<Recovered>>> recover(std::vector<io::File*> files, size_t base = kNoBase,
                                                     const SupposedHead* supposed = nullptr);

// Writes all four copies by the rule in superblock.h and makes them durable. On an error nothing is known of
// any copy.
io::Task<Status> write_superblock(io::File& primary, const Superblock& super);
// Makes the copies that are not `good` equal to `super`, so that write_superblock always starts from four
// good ones.
io::Task<Status> repair_superblock(io::File& primary, const Superblock& super,
                                   std::array<bool, kSuperCopies> good);

struct CheckReport {
  std::vector<std::string> findings;
  // Where a repair was asked for: what was done before the check, and what is damaged and cannot be proven.
  std::vector<std::string> repaired, refused;
  uint64_t clusters_mapped = 0;
  uint64_t clusters_free = 0;
  uint64_t clusters_squeezed = 0;
  uint64_t containers = 0;
  uint64_t journal_records = 0;
  uint64_t table_pages = 0;
  uint64_t checksum_pages = 0;
  bool ok() const { return findings.empty(); }
};
// Proves or refutes, from the disk alone, that the volume can be recovered, that no cluster has two owners,
// that every owner lies in a segment of the volume, that tables and digest agree, and that every redundant
// copy is good. Only reads.
io::Task<CheckReport> check_segments(std::vector<io::File*> files, size_t base = kNoBase);

}  // namespace foreshadow::extent
