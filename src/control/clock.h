#pragma once
// Time, injected: a test says what time it is.
#include <cstdint>
#include <functional>

namespace foreshadow::control {

using Clock = std::function<uint64_t()>;  // Unix milliseconds
Clock system_clock();

}  // namespace foreshadow::control
