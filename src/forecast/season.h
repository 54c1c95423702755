#pragma once
// The daily cycle: net growth by hour of the day, learned additively.
#include <array>
#include <cstddef>
#include <cstdint>

#include "forecast/growth_window.h"

namespace foreshadow::forecast {

// Hours are those of the sample's own time axis. Silent until each of the 24 was seen whole once. Not
// thread-safe.
class Season {
 public:
  static constexpr size_t kHours = 24;

  // Returns true when an hour ended within the segment.
  bool observe(const Segment& segment);
  bool known() const { return days_ > 0; }
  // Bytes from trough to peak of `used` over a day, with the trend taken out.
  double amplitude() const;
  // What the hour adds to (or takes from) the maximum of growth over `horizon_s` from now, against the hours
  // that windows with this half life remember.
  double shift(double time_s, double horizon_s, double half_life_s) const;

 private:
  double highest_from(size_t hour, double horizon_s) const;
  std::array<double, kHours> growth_{};  // bytes, mean of that hour
  std::array<uint32_t, kHours> seen_{};
  uint32_t days_ = 0;   // the least of seen_
  bool whole_ = false;  // the present hour was seen from its beginning
  double hour_start_used_ = 0;
};

}  // namespace foreshadow::forecast
