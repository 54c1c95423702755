#pragma once
// Which segment is the head: the one whose superblock and journal count.
//
// A volume has one head, but for a while it may have two segments that could be it: a primary is replaced by
// a new one in another pool (volume/head_move.cc), and the old one stays a segment until it is empty. Each
// that could be it has a label with role primary, and a superblock area, which says one of three things:
//
//   nothing  no two copies agree, and the last two are zeros: its first superblock was never finished
//   claim    a superblock without `moved_to`: this is the head, as of that sequence
//   mark     a superblock with `moved_to`: the head is that segment, whose claim has at least this sequence
//
// The head is the claim with the highest sequence. A mark that names a later one refuses the volume, and so
// does an area that says none of the three: the head may be there, and an older one must not stand in for it.
// Every segment of a volume must be there, so a head that has been replaced, opened alone, is refused twice:
// for its mark, and for the new head, which was in its segment table before it claimed anything.
#include <array>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/uuid.h"
#include "extent/superblock.h"
#include "io/file.h"
#include "io/task.h"

namespace foreshadow::extent {

// The superblock area of one segment, as it lies on disk.
struct HeadArea {
  Uuid segment;
  bool agreed = false;      // two copies are good and equal: `super` is what they say
  bool unfinished = false;  // see above: nothing
  Superblock super;
  uint64_t highest = 0;                   // sequence of any valid copy
  std::array<bool, kSuperCopies> good{};  // equal to `super`
  Error trouble;                          // why nothing is agreed
  std::vector<std::string> blemishes;     // of copies that cannot be read

  bool is_claim() const { return agreed && super.moved_to.is_nil(); }
  bool is_mark() const { return agreed && !super.moved_to.is_nil(); }
};

// kUnsupported for a superblock of a newer program.
io::Task<Result<HeadArea>> read_head_area(io::File& file, Uuid volume, Uuid segment);
// Index of the head. kCorrupt or kNotFound, naming the segment, if there is none, or if it is in doubt.
Result<size_t> choose_head(std::span<const HeadArea> areas);
// What a segment that is not the head bears: `head` is, as of `super`.
Superblock make_mark(const Superblock& super, const Uuid& head);
// Whether the segment must be told (again) who the head is.
bool needs_mark(const HeadArea& area);

}  // namespace foreshadow::extent
