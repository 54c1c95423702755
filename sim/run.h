#pragma once
// One seed: a volume is made, and lives, crashes and is recovered, several times over.
#include <cstdint>
#include <string>

#include "sim/disk.h"

namespace foreshadow::sim {

struct SeedOptions {
  bool faults = false;  // also I/O errors and rot, not only crashes
  bool trace = false;   // every step on stderr
  CallFault fault;      // of all the calls of all the disks, while the volume is made and lives; `at` 0: none
};

struct SeedResult {
  uint64_t crashes = 0;     // each followed by a recovery that was checked
  uint64_t operations = 0;  // requests and control operations
  uint64_t faults = 0;      // injected errors and flipped bits that met the engine
  uint64_t squeezed = 0;    // clusters squeezed by passes that came to their end
  // Of the faults, data that rotted, went nowhere or elsewhere; none of it is ever served.
  uint64_t data_faults = 0;
  uint64_t refusals = 0;  // requests that were refused for them
  CallFault fault;        // as it is at the end
  uint64_t hash = 0;      // of everything that happened; equal for equal seeds
  std::string violation;  // empty: none
};

// Pure: the result depends on the arguments alone. Any thread; runs of different seeds share nothing.
SeedResult run_seed(uint64_t seed, const SeedOptions& options);

}  // namespace foreshadow::sim
