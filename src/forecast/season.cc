#include "forecast/season.h"

#include <algorithm>
#include <cmath>

namespace foreshadow::forecast {
namespace {

constexpr double kHour = 3600;
// A longer silence leaves the hours it touches unknown.
constexpr double kLongestGap = 600;
constexpr uint32_t kDaysRemembered = 7;

size_t hour_of_day(double hour_number) {
  const double day = std::floor(hour_number / Season::kHours);
  return std::min(static_cast<size_t>(hour_number - day * Season::kHours), Season::kHours - 1);
}

}  // namespace

bool Season::observe(const Segment& segment) {
  const double hour = std::floor(segment.from_s / kHour);
  const double end = std::floor(segment.to_s / kHour);
  if (segment.to_s - segment.from_s > kLongestGap) {
    whole_ = false;
    return end > hour;
  }
  if (end == hour) return false;
  // A segment is shorter than an hour, so exactly one boundary lies in it.
  const double used = segment.at(end * kHour);
  if (whole_) {
    const size_t slot = hour_of_day(hour);
    seen_[slot] += seen_[slot] < kDaysRemembered;
    growth_[slot] += (used - hour_start_used_ - growth_[slot]) / seen_[slot];
    days_ = *std::min_element(seen_.begin(), seen_.end());
  }
  whole_ = true;
  hour_start_used_ = used;
  return true;
}

double Season::amplitude() const {
  if (!known()) return 0;
  double mean = 0;
  for (const double g : growth_) mean += g / kHours;
  double level = 0;
  double low = 0;
  double high = 0;
  for (const double g : growth_) {
    level += g - mean;
    low = std::min(low, level);
    high = std::max(high, level);
  }
  // A steady writer has no cycle; do not report the rounding of one.
  return high - low > 1e-6 * std::abs(mean) * kHours ? high - low : 0;
}

double Season::highest_from(size_t hour, double horizon_s) const {
  double level = 0;
  double high = 0;
  for (double left = horizon_s; left > 0; left -= kHour, hour = (hour + 1) % kHours) {
    level += growth_[hour] * std::min(1.0, left / kHour);
    high = std::max(high, level);
  }
  return high;
}

double Season::shift(double time_s, double horizon_s, double half_life_s) const {
  if (!known()) return 0;
  const double now = std::floor(time_s / kHour);
  // The latest window that matured began one horizon ago; each hour before it weighs less.
  const double latest = std::floor((time_s - horizon_s) / kHour);
  double sum = 0;
  double weights = 0;
  for (size_t back = 0; back < kHours; ++back) {
    const double weight = std::exp2(-static_cast<double>(back) * kHour / half_life_s);
    sum += weight * highest_from(hour_of_day(latest - static_cast<double>(back)), horizon_s);
    weights += weight;
  }
  const double here = highest_from(hour_of_day(now), horizon_s);
  // One day is an anecdote: the cycle counts for n/(n+1) after n of them.
  return (here - sum / weights) * days_ / (days_ + 1.0);
}

}  // namespace foreshadow::forecast
