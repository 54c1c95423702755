#pragma once
// The checksums of one segment's data in memory, and what of them is on disk. 64 bytes a cluster, taken by
// the page when the first checksum of a region becomes known.
//
// The rule that makes a claim on disk true whatever a crash leaves (the crash argument of the whole feature):
//
//   1. A sub-block's checksum is *unknown* from before its data write is submitted until that write has
//      completed; then it is the checksum of what was written, or stays unknown if the write failed. (Of a
//      write done inside one call nobody sees the time between: then it is set once, behind the write.)
//   2. A region is *claimed* while its page on disk, as of the last checkpoint or of the one under way, has
//      any checksum. Before a data write into a claimed region is submitted, an ACTIVITY record naming the
//      region is durable in the journal, behind the last freeze.
//   3. A checkpoint freezes the journal position, forgets which regions were noted (writes from here on note
//      anew, behind that position), and then *captures* the pages that changed, each at one instant, and
//      writes them, many at a time and in any order. It syncs the segment after all of these writes have
//      ended, and only then writes the superblock.
//
// What the page says of a sub-block when the superblock is durable: if a write was in flight at the capture,
// unknown (1). If the last write had completed, its checksum, and the sync that followed made that data
// durable (3). A write submitted after the capture found the region claimed, so its record is durable, and
// lies behind the new replay position: recovery makes the region unknown (2). Until the superblock is
// durable the one before counts, from whose replay position on every record of its own time is still there.
// So no re-noting at a freeze is needed for what is in flight: the page does not speak of it. A region whose
// page claims nothing is written without a note: there is nothing a crash could make untrue. Going to unknown
// is safe at any time, and a scrub may fill in what it has read while nobody could write: that data is in the
// same case as a write that has completed.
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/types.h"
#include "extent/checksum_page.h"

namespace foreshadow::extent {

inline constexpr uint8_t kNoPlace = 0xff;

// Single-threaded. Clusters are numbered within the segment. Default: a segment without a checksum area,
// about which nothing is ever known.
class ChecksumTable {
 public:
  ChecksumTable() = default;
  explicit ChecksumTable(uint32_t pages) : pages_(pages) {}

  static uint32_t page_of(uint32_t cluster) { return cluster / kChecksumClusters; }
  bool exists() const { return !pages_.empty(); }
  uint32_t pages() const { return static_cast<uint32_t>(pages_.size()); }
  // `index` is cluster x 16 + sub-block.
  uint32_t get(uint64_t index) const {
    const auto page = static_cast<uint32_t>(index / kPageValues);
    if (page >= pages_.size() || pages_[page].values == nullptr) return kUnknownChecksum;
    return (*pages_[page].values)[index % kPageValues];
  }
  void set(uint64_t index, uint32_t value);
  void forget_cluster(uint32_t cluster);
  void forget_region(uint32_t page);

  // Rule 2. Noting is the owner's: it says here what it has asked for and what is durable.
  enum class Note : uint8_t { kNone, kPending, kDurable };
  Note note(uint32_t page) const { return pages_[page].note; }
  void set_note(uint32_t page, Note note);
  bool must_note(uint32_t page) const {
    return page < pages_.size() && pages_[page].claimed && pages_[page].note != Note::kDurable;
  }

  // Rule 3: which pages a checkpoint must write. What becomes dirty from here on is the next one's.
  std::vector<uint32_t> freeze();
  // The values of a page as of now. The page is clean, and claimed if it has any; it stays claimed until
  // written() if the page on disk has any. `write` false: nothing is known, and nothing of it was ever on
  // disk, so nothing need be written.
  struct Capture {
    bool write = false;
    bool known = false;  // it says anything
  };
  Capture capture(uint32_t page, ChecksumValues& values);
  uint8_t place(uint32_t page) const { return pages_[page].place; }
  uint64_t digest(uint32_t page) const { return pages_[page].digest; }
  // What was captured is on disk there, and a durable superblock names it.
  uint64_t digest_sum() const;  // of every page in use
  void written(uint32_t page, uint8_t place, uint64_t digest, bool known);
  // Recovery: the page as it is on disk; and one whose unfinished copy must be overwritten in any case.
  void load(uint32_t page, uint8_t place, uint64_t digest, std::span<const std::byte> block);
  void touch(uint32_t page);

  uint64_t memory_bytes() const;

 private:
  static constexpr uint64_t kPageValues = uint64_t{kChecksumClusters} * kSubBlocks;
  struct Page {
    std::unique_ptr<ChecksumValues> values;  // null: all unknown
    uint64_t digest = 0;                     // share of the superblock's, of the place in use
    uint8_t place = kNoPlace;
    Note note = Note::kNone;
    bool dirty = false;
    bool forced = false;  // to be written even if it says nothing
    bool claimed = false;
  };
  void mark(uint32_t page);

  std::vector<Page> pages_;
  std::vector<uint32_t> dirty_;
  std::vector<uint32_t> noted_;  // kDurable since the last freeze
};

}  // namespace foreshadow::extent
