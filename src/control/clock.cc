#include "control/clock.h"

#include <chrono>

namespace foreshadow::control {

Clock system_clock() {
  return [] {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count());
  };
}

}  // namespace foreshadow::control
