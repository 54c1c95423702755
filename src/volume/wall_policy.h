#pragma once
#include <chrono>
#include <cstdint>

#include "base/types.h"

namespace foreshadow::volume {

// How a volume behaves where space runs short. May change while it serves.
struct WallPolicy {
  Nanos hold_timeout = std::chrono::seconds(60);
  // The backpressure band: a first touch is paced while less than this is left, warm shadows included. The
  // smaller of the two counts; 0 turns it off.
  uint64_t band_bytes = 64 * kMiB;
  uint32_t band_percent = 2;  // of the capacity
  bool operator==(const WallPolicy&) const = default;
};

}  // namespace foreshadow::volume
