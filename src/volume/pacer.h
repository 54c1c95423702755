#pragma once
// How fast background work may go: as fast as it can while nobody is served, and else so that the
// foreground's latency stays near what it is without.
#include <cstdint>

#include "base/types.h"

namespace foreshadow::volume {

// Two running estimates of the 99th percentile of foreground latency: while background work goes on, its
// rests included, and while it does not (stochastic approximation after Robbins and Monro, in steps relative
// to the estimate). Rests become longer by half while the first exceeds kLatencyRatio times the second, and
// shorter by a tenth while it does not. Work that goes on for long stands still for a moment now and then, so
// that the second estimate follows what clients do. Single-threaded; allocates nothing.
class Pacer {
 public:
  void on_foreground(MonoTime now, uint64_t latency_us);
  void work_began() { ++in_flight_; }
  void work_ended() { --in_flight_; }
  // Somebody was served in the last kIdleAfter.
  bool foreground_active(MonoTime now) const {
    return last_foreground_ != MonoTime{} && now - last_foreground_ < kIdleAfter;
  }
  // The rest that is due after a piece of work that took `took`.
  Nanos rest_after(MonoTime now, Nanos took);

  static constexpr double kLatencyRatio = 1.5;
  static constexpr double kRestsMost = 10;  // times the work: it gets on, whatever it costs
  static constexpr Nanos kIdleAfter = std::chrono::milliseconds(20);
  static constexpr Nanos kRestMax = std::chrono::milliseconds(50);
  static constexpr Nanos kAdjustEvery = std::chrono::milliseconds(20);
  static constexpr Nanos kStandEvery = std::chrono::milliseconds(500);
  static constexpr Nanos kStand = std::chrono::milliseconds(20);

 private:
  struct Quantile {
    double us = 0;
    void add(uint64_t sample) {
      const auto value = static_cast<double>(sample) + 1;
      if (us == 0) us = value;
      us *= value > us ? 1 + kStep * 0.99 : 1 - kStep * 0.01;
    }
  };
  static constexpr double kStep = 0.05;
  static constexpr Nanos kSettles = std::chrono::milliseconds(2);      // after work
  static constexpr Nanos kWorkFades = std::chrono::milliseconds(100);  // longer than any rest

  Quantile without_;
  Quantile with_;
  double factor_ = 0;  // rest per work
  uint32_t in_flight_ = 0;
  MonoTime last_foreground_{};
  MonoTime last_work_{};
  MonoTime adjusted_{};
  MonoTime stands_until_{};
};

}  // namespace foreshadow::volume
