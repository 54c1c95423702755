#pragma once
// The clusters that are changing their place, as the foreground must know them.
//
// A move copies sub-blocks from a source place to a target place while requests go on. Nothing in it makes a
// request wait:
//   - a write to a sub-block in `copying` goes in place, to the source, and marks it `dirty`: the copy of it
//   is
//     worth nothing, and the sub-block stays where it is until a later pass;
//   - a write to any other sub-block at the source goes to the target, so that what is written often moves
//     without being copied; so does a first touch;
//   - a trim or zero of a sub-block in `copying` marks it dirty as well.
// A sub-block is copied only while no write of it is under way (LockTable::being_written), so a copy and a
// write never race for one place. When the copy is down, the map is switched for `copying & ~dirty`. Both
// places belong to the move until it ends: it alone gives back the one that is no longer used, when every
// request that was in the cluster has ended and the record is durable.
//
// Why it converges. Between two passes every write of a sub-block that stayed moves it. A sub-block stays
// only if a write of it falls into its copy, which takes w, and none falls into the gap g >= w before the
// next pass. For writes at any rate r that has probability (1 - e^-rw) e^-rg <= 1/4, so each pass leaves at
// most a quarter of what was left, however fast the writer is.
#include <cstdint>
#include <unordered_map>

#include "base/assert.h"
#include "base/types.h"

namespace foreshadow::volume {

struct Move {
  Pcn source;
  Pcn target;            // 0: writes stay at the source, and any of them voids the copy
  uint16_t copying = 0;  // sub-blocks of the source whose copy is in flight
  uint16_t dirty = 0;    // of those, what was written or unmapped meanwhile
};

class MoveTable {
 public:
  bool empty() const { return moves_.empty(); }
  Move* find(Lcn lcn) {
    const auto found = moves_.find(lcn);
    return found == moves_.end() ? nullptr : &found->second;
  }
  Move& begin(Lcn lcn, Pcn source, Pcn target) {
    const auto [at, fresh] = moves_.try_emplace(lcn, Move{source, target});
    ASSERT(fresh);
    return at->second;
  }
  void end(Lcn lcn) { moves_.erase(lcn); }

 private:
  std::unordered_map<Lcn, Move> moves_;  // its elements stay in place
};

}  // namespace foreshadow::volume
