#pragma once
// The first forecaster: for twenty horizons, 1 s to 6 days, what growth over that horizon was
// (growth_window.h), mixed with
//  - what happens now and may simply go on (regime.h),
//  - an exponential tail above the largest growth seen, with the chance that the next window exceeds all
//  before,
//  - a prior, for what was not seen yet: at any moment the volume may be written at full speed for some
//  seconds,
// and shifted by the hour of the day (season.h). Between horizons quantiles are interpolated; beyond the
// longest one that has matured the trend carries the median on and the spread grows with the square root of
// time.
#include <array>
#include <cstddef>

#include "forecast/forecaster.h"
#include "forecast/growth_window.h"
#include "forecast/regime.h"
#include "forecast/season.h"

namespace foreshadow::forecast {

// All state is inside the object (no allocation): its size is the memory bound. Not thread-safe.
class GrowthForecaster final : public Forecaster {
 public:
  static constexpr size_t kLevels = 20;
  explicit GrowthForecaster(const ForecasterConfig& config);

  bool observe(const Sample& sample) override;
  uint64_t samples() const override { return samples_; }
  double growth_quantile(double horizon_s, double q) const override;
  double exceedance(double horizon_s, double bytes) const override;
  std::optional<double> time_to_full_s(double free, double p) const override;
  Components components() const override;

 private:
  struct Beyond;  // the continuation past the longest horizon that matured
  double prior_above(double horizon_s, double x) const;
  double prior_quantile(double horizon_s, double q) const;
  double level_above(size_t level, double x) const;      // P(growth > x) by this horizon alone
  double levels_above(size_t level, double x) const;     // the largest of these up to `level`: monotone in it
  double level_quantile(size_t level, double q) const;   // of level_above
  double levels_quantile(size_t level, double q) const;  // of levels_above
  double between_above(size_t level, double share, double x) const;
  Beyond beyond() const;
  size_t level_under(double horizon_s) const;

  ForecasterConfig config_;
  double prior_scale_s_ = 0;
  std::array<GrowthWindow, kLevels> windows_;
  std::array<double, kLevels> shift_{};  // of the season, for this hour
  Regime regime_;
  Season season_;
  Sample last_;
  uint64_t samples_ = 0;
  size_t matured_ = 0;  // horizons 0..matured_-1 have data
};

}  // namespace foreshadow::forecast
