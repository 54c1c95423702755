#include "forecast/regime.h"

#include <algorithm>

namespace foreshadow::forecast {
namespace {

// Closer samples (events) are taken together: over milliseconds, clusters make any rate.
constexpr double kShortestStep = 0.5;
// Nothing was seen for so long: whatever it was, it may be over.
constexpr double kLongestStep = 60;
constexpr double kSameWithin = 2;

bool alike(double rate, double other) {
  if (rate < kQuietBytesPerS || other < kQuietBytesPerS)
    return rate < kQuietBytesPerS && other < kQuietBytesPerS;
  return rate < kSameWithin * other && other < kSameWithin * rate;
}

}  // namespace

void Regime::observe(double time_s, double used) {
  const double step = time_s - last_s_;
  if (begun_ && step < kShortestStep) return;
  if (!begun_ || step > kLongestStep) {
    start_s_ = time_s, start_used_ = used;
    rate_ = 0, age_s_ = 0;
  } else {
    const double rate = std::max(0.0, (used - last_used_) / step);
    if (age_s_ <= 0 || !alike(rate, rate_)) start_s_ = last_s_, start_used_ = last_used_;
    age_s_ = time_s - start_s_;
    rate_ = std::max(0.0, (used - start_used_) / age_s_);
  }
  begun_ = true;
  last_s_ = time_s;
  last_used_ = used;
}

}  // namespace foreshadow::forecast
