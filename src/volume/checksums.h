#pragma once
// What the engine does with data checksums: verify what is read, note what was written, and keep a write back
// until the region it goes to may be written. extent/checksum_table.h has the rule and the crash argument.
//
// Everything is by physical place: where a cluster lies in the volume, or moves to, makes no difference, and
// whoever writes data anywhere in a segment (a fold's copy, a squeezed container) uses the same calls:
// may_write, then in the same turn writing and the write itself, then written (or carry); verify after a
// read. A base has no checksum area: nothing is known of what lies there, and what moves there is verified
// while it still has a checksum (relocator.cc).
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "extent/geometry.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

class Committer;

// Single-threaded, of the engine's executor. Off, every call does nothing, and every write may go on.
// Ranges are bytes of a segment's file within its data area, whole sub-blocks; of a base, the last one of
// the image may be cut short.
class Checksums {
 public:
  Checksums(bool on, SegmentSet& segments, Committer& committer, extent::Geometry geometry)
      : on_(on), segments_(segments), committer_(committer), geometry_(geometry) {}
  bool on() const { return on_; }

  // Whether a write there may be submitted now. If not, its regions are being noted: ask again when they are.
  bool may_write(Segment& segment, uint64_t at, uint64_t length);
  // A write there is about to be submitted: nothing is known of the range. Each write is alone on its
  // sub-blocks until written() or its failure.
  void writing(Segment& segment, uint64_t at, uint64_t length);
  // It has completed with these bytes; also: a read that nobody could write beside has found them (scrub).
  void written(Segment& segment, uint64_t at, std::span<const std::byte> bytes);
  // Where in `bytes`, just read, the first sub-block is that is not what was written; nothing if all that is
  // known fits. `unknown`, if given, gets the number of sub-blocks that nothing is known of.
  std::optional<uint64_t> verify(const Segment& segment, uint64_t at, std::span<const std::byte> bytes,
                                 uint64_t* unknown = nullptr) const;
  // Those sub-blocks of one cluster have been copied to another: so have their checksums.
  void carry(Pcn from, Pcn to, uint16_t bits);
  // The cluster changes hands: nothing is known of it until it is written.
  void forget(Pcn pcn);

  // The committer: the record of these regions is durable.
  void noted(std::span<const Pcn> regions);

 private:
  uint64_t index_of(const Segment& segment, uint64_t at) const {
    return (at - segment.layout.data_offset) >> geometry_.sub_block_bits;
  }
  void note(Segment& segment, uint32_t page);

  const bool on_;
  SegmentSet& segments_;
  Committer& committer_;
  const extent::Geometry geometry_;
};

}  // namespace foreshadow::volume
