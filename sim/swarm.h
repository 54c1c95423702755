#pragma once
// What one seed is about. Drawing the shape of a run before the run (swarm testing, Groce et al. 2012)
// reaches corners that a single mixed workload never does: a run of nothing but overwrites, one with a
// journal of eight blocks, one that only trims.
#include <array>
#include <cstdint>

#include "base/rng.h"
#include "volume/volume.h"

namespace foreshadow::sim {

enum class Act : uint8_t {
  kRead,
  kWrite,
  kZero,
  kZeroNoHole,
  kTrim,
  kFlush,
  kGrant,  // create, format and attach a shadow
  kActivate,
  kMerge,
  kFold,    // copy a shadow into the primary, and release it
  kDrain,   // empty a shadow into the others, and release it
  kResize,  // a segment grows or shrinks at its end
  kCheckpoint,
  kCheck,
  kSqueeze,  // a pass over the primary or an attached shadow
  kScrub,
  kPause,  // no new requests for a while of virtual time, so that idle timers fire
  kGrow,   // of the size that clients see
  kMove,   // the primary is replaced by a new one
  kCount,
};

struct Swarm {
  volume::CreateOptions create;
  volume::RunOptions run;
  uint32_t alignment = 512;
  uint32_t journal_blocks = 8;
  uint32_t primary_clusters = 16;
  uint32_t shadow_clusters_max = 16;
  uint32_t shadows_max = 2;
  uint64_t base_bytes = 0;  // of an image that the volume lies over; 0: none
  uint64_t size_max = 0;    // it grows up to here
  uint32_t queue_depth = 4;
  uint64_t io_max = 0;         // bytes of one request
  uint64_t granularity = 512;  // of request offsets and lengths
  uint64_t hot_bytes = 0;      // half of all requests fall into the first hot_bytes; 0: none do
  uint32_t fua_percent = 0;
  uint32_t lives = 4;           // opens; each but a few ends in a crash
  uint32_t life_steps = 200;    // about how many scheduler steps a life has
  uint32_t clean_percent = 10;  // lives that end with close()
  Nanos
      slow_reads{};  // a quarter of all reads take up to this: what they read may be somebody else's by then
  bool faults = false;
  bool at_once = false;  // the disks take reads and writes inside the call, and are asked to
  std::array<uint32_t, static_cast<size_t>(Act::kCount)> weights{};
};

Swarm draw_swarm(Rng& rng, bool faults);
// The bytes a backing needs to hold `clusters`.
uint64_t backing_bytes(const Swarm& swarm, uint32_t clusters, bool primary);

}  // namespace foreshadow::sim
