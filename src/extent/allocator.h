#pragma once
// Which physical clusters of one segment are free. Derived from the map when a volume opens, so a crash can
// neither leak a cluster nor free one wrongly.
#include <cstdint>
#include <vector>

#include "base/types.h"

namespace foreshadow::extent {

class Allocator {
 public:
  Allocator(Pcn base, uint32_t clusters);
  // Of a base image: each cluster has one place in it, so none is ever given out; it is taken by its number.
  static Allocator by_address(Pcn base, uint32_t clusters);
  Pcn base() const { return base_; }
  uint32_t clusters() const { return clusters_; }
  uint32_t free() const { return free_; }    // what allocate() could give
  uint32_t taken() const { return taken_; }  // beyond the limit as well
  // Up to `want` consecutive free clusters, next-fit, so that what is written together lies together. count 0
  // if none is free.
  struct Run {
    Pcn first;
    uint32_t count = 0;
  };
  Run allocate(uint32_t want);
  void release(Pcn pcn);  // asserted: it is taken
  // This one: false if it is taken already or not of this segment.
  bool take(Pcn pcn) {
    const uint32_t index = pcn.v - base_.v;  // past every cluster if the pcn is below the base
    if (index >= clusters_) return false;
    uint64_t& word = words_[index / 64];
    const uint64_t bit = uint64_t{1} << (index % 64);
    if ((word & bit) != 0) return false;
    word |= bit;
    free_ -= index < limit_ ? 1 : 0;
    ++taken_;
    return true;
  }
  // That take() of it comes soon.
  void prefetch(Pcn pcn) const {
    const uint32_t index = pcn.v - base_.v;
    if (index < clusters_) __builtin_prefetch(&words_[index / 64], 1);
  }
  bool is_taken(Pcn pcn) const;
  // No cluster at or past `limit` is given out from now on; the segment is about to end there. clusters()
  // lifts it.
  void set_limit(uint32_t limit);
  uint32_t limit() const { return limit_; }
  uint32_t taken_past(uint32_t index) const;
  // The segment has grown or shrunk to `clusters`; asserted: nothing past that is taken. Lifts the limit.
  void resize(uint32_t clusters);

 private:
  bool bit(uint32_t index) const { return (words_[index / 64] >> (index % 64) & 1) != 0; }
  uint32_t find_free(uint32_t from) const;  // limit_ if none

  Pcn base_;
  uint32_t clusters_;
  uint32_t limit_;  // at most clusters_
  uint32_t free_;   // below the limit
  uint32_t taken_ = 0;
  uint32_t cursor_ = 0;
  std::vector<uint64_t> words_;  // a set bit is a taken cluster
};

}  // namespace foreshadow::extent
