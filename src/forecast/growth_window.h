#pragma once
// What one horizon has taught: the distribution of the running maximum of growth over windows of that length.
#include <array>
#include <cstddef>

#include "forecast/quantile_sketch.h"

namespace foreshadow::forecast {

// The straight line between two neighbouring samples.
struct Segment {
  double from_s = 0;
  double to_s = 0;
  double from_used = 0;
  double to_used = 0;
  double peak = 0;  // the highest `used` may have been within, if above both ends; else 0
  double at(double time_s) const {
    return from_used + (to_used - from_used) * ((time_s - from_s) / (to_s - from_s));
  }
};

// Windows start on a grid of a quarter of the horizon and are exact on it. O(1) a sample: a segment longer
// than a few horizons counts as a single window, so a gap of hours costs nothing and teaches little. Not
// thread-safe.
class GrowthWindow {
 public:
  GrowthWindow() = default;
  GrowthWindow(double horizon_s, double half_life_s);

  void restart(double time_s, double used);
  // `regime_rate`: the rate (bytes/s) that was thought to go on when the segment began; 0 if none.
  void observe(const Segment& segment, double regime_rate);

  double horizon_s() const { return horizon_s_; }
  double half_life_s() const { return half_life_s_; }
  double windows() const { return windows_; }  // recent-weighted count of what matured
  bool matured() const { return windows_ >= 1.9; }
  // Net growth, bytes a second, falling included: what is usual, so that one import is not a trend.
  double net_rate() const { return net_.middle_mean() / horizon_s_; }
  // The same, but 0 where it cannot be told from its own noise: a sawtooth has no trend.
  double significant_net_rate() const;
  // P(growth > x), x >= 0, by what was seen (`body`), and given that growth passes all that was seen
  // (`tail`).
  double body_above(double x) const { return growth_.share_above(x); }
  double tail_above(double x) const;
  // How far an "it goes on like this" was to be believed over this horizon: 1 while nothing speaks against
  // it.
  double persistence() const;

 private:
  static constexpr size_t kSlots = 4;
  struct Slot {
    double start = 0;
    double peak = 0;
    double regime_rate = 0;
  };
  void close_slot(double end_used);
  void mature(double growth, double net, double regime_rate);

  double horizon_s_ = 1;
  double half_life_s_ = 3600;
  double step_s_ = 0.25;
  double keep_ = 1;       // weight left after one window
  double peak_keep_ = 1;  // of the largest growth seen, which is forgotten more slowly
  double boundary_s_ = 0;
  std::array<Slot, kSlots> slots_{};  // the last closed ones, oldest at next_
  Slot open_;
  size_t next_ = 0;
  size_t closed_ = 0;
  QuantileSketch growth_;  // running maxima
  QuantileSketch net_;     // end minus start
  double windows_ = 0;
  double top_ = 0;         // largest growth seen, decayed
  double tail_scale_ = 0;  // mean excess above top_
  double trials_ = 0;      // windows that began in an active regime
  double hits_ = 0;        // and of those, the ones in which it lasted
};

}  // namespace foreshadow::forecast
