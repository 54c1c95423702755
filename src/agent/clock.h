#pragma once
// Wall-clock time, injected: a test says what time it is.
#include <chrono>
#include <cstdint>
#include <functional>

namespace foreshadow::agent {

using Clock = std::function<uint64_t()>;  // Unix milliseconds

inline Clock system_clock() {
  return [] {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count());
  };
}

}  // namespace foreshadow::agent
