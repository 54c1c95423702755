#pragma once
// How fast background work may go: as fast as it can while nobody is served, and else so that the
// foreground's latency stays near what it is without.
#include <cstdint>

#include "base/types.h"

namespace foreshadow::volume {

// Two running estimates of the 95th percentile of foreground latency: while background work is in flight, and
// while it is not (stochastic approximation after Robbins and Monro, in steps relative to the estimate).
// Rests between pieces of work double while the first exceeds kLatencyRatio times the second, and halve while
// it does not. Single-threaded; allocates nothing.
class Pacer {
 public:
  void on_foreground(MonoTime now, uint64_t latency_us) {
    last_foreground_ = now;
    (in_flight_ > 0 ? busy_ : quiet_).add(latency_us);
  }
  void work_began() { ++in_flight_; }
  void work_ended() { --in_flight_; }
  // Somebody was served in the last kIdleAfter.
  bool foreground_active(MonoTime now) const {
    return last_foreground_ != MonoTime{} && now - last_foreground_ < kIdleAfter;
  }
  // The rest that is due after a piece of work that took `took`.
  Nanos rest_after(MonoTime now, Nanos took);

  static constexpr double kLatencyRatio = 1.5;
  static constexpr Nanos kIdleAfter = std::chrono::milliseconds(20);
  static constexpr Nanos kRestMax = std::chrono::milliseconds(50);

 private:
  struct Quantile {
    double us = 0;
    void add(uint64_t sample) {
      const auto value = static_cast<double>(sample) + 1;
      if (us == 0) us = value;
      us *= value > us ? 1 + kStep * 0.95 : 1 - kStep * 0.05;
    }
  };
  static constexpr double kStep = 0.05;

  Quantile quiet_;
  Quantile busy_;
  double factor_ = 0;  // rest per work
  uint32_t in_flight_ = 0;
  MonoTime last_foreground_{};
};

}  // namespace foreshadow::volume
