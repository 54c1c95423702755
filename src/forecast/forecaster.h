#pragma once
// What every forecaster promises. Pure: no clock, no I/O; time comes with the samples.
#include <cstdint>
#include <memory>
#include <optional>

namespace foreshadow::forecast {

// One observation of a volume. Times are seconds on any fixed axis, strictly increasing; sizes are bytes.
struct Sample {
  double time_s = 0;
  double used = 0;       // allocated bytes now
  double allocated = 0;  // bytes first touched since the sample before; >= 0
};

// What is known of the growth of `used`, for people.
struct Components {
  double level = 0;             // bytes, now
  double trend_per_s = 0;       // bytes a second, recent, robust
  double season_amplitude = 0;  // bytes, of the daily cycle; 0 until a day has been seen
};

// Demand for space as a distribution. Not thread-safe.
class Forecaster {
 public:
  virtual ~Forecaster() = default;
  // Refuses (returns false, state unchanged) what is not an observation: not finite, negative, not after the
  // last one, or larger than any volume (2^62 bytes) or any time (1e12 s).
  virtual bool observe(const Sample& sample) = 0;
  virtual uint64_t samples() const = 0;
  // The q-quantile (0 < q < 1) of the *running maximum* of growth of `used` over the next `horizon_s`
  // seconds, bytes, >= 0. Monotone in q and in the horizon.
  virtual double growth_quantile(double horizon_s, double q) const = 0;
  // P(running maximum of growth over `horizon_s` > `bytes`), 0..1.
  virtual double exceedance(double horizon_s, double bytes) const = 0;
  // The earliest horizon at which growth reaches `free` with probability p (0.5: the median; 0.05: the
  // pessimistic one); nothing within a year gives nullopt.
  virtual std::optional<double> time_to_full_s(double free, double p) const = 0;
  virtual Components components() const = 0;
};

// The first forecaster: empirical quantiles of the growth maximum at geometric horizons, recent-weighted,
// plus level, trend and hour-of-day seasonality; before it has seen enough, a prior that assumes the volume
// can be written at `prior_bytes_per_s`, for `prior_burst_s` without a pause once in a thousand. A value that
// is not finite and positive gives way to its default.
struct ForecasterConfig {
  double prior_bytes_per_s = 1e9;
  double prior_burst_s = 4;
  double half_life_s = 3600;
};
std::unique_ptr<Forecaster> make_growth_forecaster(const ForecasterConfig& config);

}  // namespace foreshadow::forecast
