#pragma once
// Bounded exhaustive exploration: not drawn, but finished (after CrashMonkey: nearly all crash bugs need at
// most three operations).
#include <cstdint>
#include <string>

namespace foreshadow::sim {

struct ExploreResult {
  uint64_t sequences = 0;     // of operations
  uint64_t crash_points = 0;  // moments at which the power was cut
  uint64_t states = 0;        // disks recovered and checked, one for each subset of the undecided sectors
  uint64_t sampled_points =
      0;  // crash points with too many undecided sectors, where subsets were drawn instead
  std::string violation;
};

// Every sequence of up to `depth` operations of {write, write with FUA, overwrite, zero, trim, flush, grant,
// activate, merge, checkpoint, squeeze, scrub, grow} on a fresh volume of one primary and up to two shadows,
// and on one over an image, one after the other; a crash before every scheduler step at which the platter or
// what is undecided changed; every subset of undecided sectors up to 2^10 of them.
ExploreResult explore(uint32_t depth, bool trace);

}  // namespace foreshadow::sim
