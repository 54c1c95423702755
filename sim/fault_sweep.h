#pragma once
// Every I/O call fails once: not drawn, but one after the other (after SQLite's I/O error loops).
#include <cstdint>
#include <string>

namespace foreshadow::sim {

struct SweepResult {
  uint64_t indices = 0;                       // calls, each of which failed
  uint64_t runs = 0;                          // each with one of them failing in one way, once or for good
  uint64_t faults = 0;                        // calls that failed, over all runs
  uint64_t reads = 0, writes = 0, syncs = 0;  // what the calls were
  std::string violation;
};

// Runs the seed again and again, short, while one more call to any of its disks fails: the first, the second,
// ... until a run meets no fault. Calls of recoveries after a crash are among them. Each fails with EIO, and
// unless it is a read with ENOSPC; once, and with all calls after it until the next crash. Every run is
// judged as run_seed() does: a failed sync makes the volume read-only, nothing that was flushed is lost,
// nothing hangs, and an error has a cause.
SweepResult sweep_faults(uint64_t seed);

}  // namespace foreshadow::sim
