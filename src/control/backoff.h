#pragma once
// A growing pause after each failure, so that a refused request is not repeated at the rate of the metrics.
#include <algorithm>
#include <cstdint>

namespace foreshadow::control {

// 1 s, 2 s, 4 s, ... 30 s; reset() when there is a reason to hope.
class Backoff {
 public:
  void fail(uint64_t now_ms) {
    delay_ms_ = delay_ms_ == 0 ? kFirstMs : std::min(delay_ms_ * 2, kLastMs);
    until_ms_ = now_ms + delay_ms_;
  }
  void reset() { delay_ms_ = until_ms_ = 0; }
  bool waiting(uint64_t now_ms) const { return now_ms < until_ms_; }
  uint64_t delay_ms() const { return delay_ms_; }

 private:
  static constexpr uint64_t kFirstMs = 1000;
  static constexpr uint64_t kLastMs = 30'000;
  uint64_t delay_ms_ = 0;
  uint64_t until_ms_ = 0;
};

}  // namespace foreshadow::control
