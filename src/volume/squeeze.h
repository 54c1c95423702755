#pragma once
// What people and programs say and hear of squeezing.
#include <cstdint>

#include "extent/container.h"
#include "extent/geometry.h"
#include "volume/squeeze_codec.h"

namespace foreshadow::volume {

// How Volume::squeeze_segment goes about it.
struct SqueezeOptions {
  SqueezeLevel how;
  // For simulations, whose data compresses too well: by a lot for each cluster blobs take more slots than
  // they need, or count as not worth it. 0: never.
  uint64_t lots = 0;
};

// In clusters, of the pass that runs or of the last one.
struct SqueezeReport {
  uint64_t taken = 0;           // looked into
  uint64_t squeezed = 0;        // raw before
  uint64_t repacked = 0;        // out of a container that was theirs alone
  uint64_t containers = 0;      // written
  uint64_t incompressible = 0;  // left raw
  uint64_t alone = 0;           // left raw: no other would share a container with them
  uint64_t busy = 0;            // left raw: written to meanwhile
};

// What lies squeezed, and how well it compressed: 1 is as large as before.
struct Squeezed {
  uint64_t logical = 0;     // bytes of the clusters that are
  uint64_t physical = 0;    // bytes of the containers they are in
  double ratio_mean = 0;    // of a cluster: slots of its blob to slots of a cluster
  double ratio_stddev = 0;  // the spread of that: what a forecast of physical bytes must reckon with
  double ratio_p10 = 0;
  double ratio_p90 = 0;
};

Squeezed sum_up(const extent::Containers& containers, extent::Geometry geometry);

}  // namespace foreshadow::volume
