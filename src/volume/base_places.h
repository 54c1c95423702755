#pragma once
// What is different when a volume lies over an existing image, its *base*. Logical cluster i lies at cluster
// i of the image, or not in the image at all; so the image never needs to be read, converted or understood,
// and when everything has been folded back it is a plain image again. For that, what a client has written
// must be somewhere, zeros too: over an image a zero request writes them. What was trimmed has no value that
// anybody may rely on; it leaves the map and reads as zero, and the image keeps its old bytes.
//
// The image may end in the middle of a cluster. That cluster lies in the image as long as the volume is
// exactly as large: then nobody can write the rest. Before the volume grows, it moves to another segment
// (growth.cc), by the relocator's steps, and nothing is ever placed there again. Crash points: those of
// relocator.h; the GROW record comes behind the move's in the same history. So a volume larger than its image
// never has a cluster in it that the image cuts short, and recovery insists on that.
#include <cstdint>

#include "base/types.h"
#include "extent/geometry.h"
#include "extent/map.h"
#include "io/executor.h"
#include "io/task.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

// Which places the base has, and for whom. A view; the segment outlives it. Without a base nothing is in it.
class BasePlaces {
 public:
  BasePlaces() = default;
  // `size` is the volume's.
  BasePlaces(Segment& base, extent::Geometry geometry, uint64_t size)
      : segment_(&base),
        last_(base.row.pcn_base.next(base.row.clusters - 1)),
        tail_is_cut_(base.data_end % geometry.cluster() != 0),
        tail_barred_(tail_is_cut_ && size > base.data_end) {}

  Segment* segment() const { return segment_; }
  bool has(Lcn lcn) const { return segment_ != nullptr && lcn.v < segment_->row.clusters; }
  // The place of a cluster: free, and of no use to any other. 0 if it cannot be had.
  Pcn home_of(Lcn lcn) const {
    if (!has(lcn)) return Pcn(0);
    const Pcn home = segment_->row.pcn_base.next(lcn.v);
    return segment_->allocator.is_taken(home) || barred(home) ? Pcn(0) : home;
  }
  // The same, taken.
  Pcn take_home(Lcn lcn) {
    const Pcn home = home_of(lcn);
    return home.v != 0 && segment_->allocator.take(home) ? home : Pcn(0);
  }
  // How many clusters of `leaving` a fold must find room for elsewhere: those that have no place in the
  // image, and no other owner beside whom they could lie. Looks through the map, and lets others go on every
  // now and then; too many, but never too few, if clusters leave meanwhile and none comes.
  io::Task<uint64_t> homeless(io::Executor& executor, const extent::Map& map, const Segment& leaving) const;

  // The image ends within its last cluster; once barred, nothing may be placed there any more.
  bool tail_is_cut() const { return tail_is_cut_; }
  bool tail_is_taken() const { return segment_->allocator.is_taken(last_); }
  void bar_tail(bool barred) { tail_barred_ = barred; }
  bool barred(Pcn pcn) const { return tail_barred_ && pcn == last_; }

 private:
  Segment* segment_ = nullptr;
  Pcn last_;
  bool tail_is_cut_ = false;
  bool tail_barred_ = false;
};

}  // namespace foreshadow::volume
