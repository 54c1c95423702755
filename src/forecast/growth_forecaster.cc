#include "forecast/growth_forecaster.h"

#include <algorithm>
#include <cmath>

namespace foreshadow::forecast {
namespace {

constexpr double kYear = 366.0 * 86400;
// Past these a number is not a time or a size of a volume, and doubles no longer resolve a quarter of a
// second.
constexpr double kTimeMax = 1e12;
constexpr double kBytesMax = 0x1p62;
// `allocated` bounds the peak within an interval only while the interval is short: over hours of churn it
// says nothing.
constexpr double kPeakSeconds = 5;
// However long nothing was seen, one chance in 500 that something new happens: history is not a proof.
constexpr double kSurpriseMin = 0.002;
// At most this much is believed of "it goes on as it does now".
constexpr double kRegimeMax = 0.8;
// Full speed lasts `prior_burst_s` or longer once in a thousand.
constexpr double kPriorBurstChance = 1e-3;
constexpr int kBisections = 60;
constexpr double kPrecision = 1e-7;

double clamp_q(double q) {
  return std::isnan(q) ? 1 - 1e-9 : std::clamp(q, 1e-9, 1 - 1e-9);
}
double horizon_of(size_t level) {
  return std::ldexp(1.0, static_cast<int>(level));
}
double or_default(double value, double fallback) {
  return std::isfinite(value) && value > 0 ? value : fallback;
}

// The least x >= 0 with above(x) <= target; `above` falls.
template <typename Above>
double invert(const Above& above, double target, double guess) {
  if (above(0.0) <= target) return 0;
  double low = 0;
  double high = guess + 1;
  while (above(high) > target && high < kBytesMax) low = high, high *= 2;
  for (int i = 0; i < kBisections && high - low > kPrecision * high; ++i) {
    const double middle = low + (high - low) / 2;
    (above(middle) > target ? low : high) = middle;
  }
  return high;
}

}  // namespace

std::unique_ptr<Forecaster> make_growth_forecaster(const ForecasterConfig& config) {
  return std::make_unique<GrowthForecaster>(config);
}

GrowthForecaster::GrowthForecaster(const ForecasterConfig& config) : config_(config) {
  const ForecasterConfig fallback;
  config_.prior_bytes_per_s = or_default(config.prior_bytes_per_s, fallback.prior_bytes_per_s);
  config_.prior_burst_s = or_default(config.prior_burst_s, fallback.prior_burst_s);
  config_.half_life_s = or_default(config.half_life_s, fallback.half_life_s);
  prior_scale_s_ = config_.prior_burst_s / (1 / std::sqrt(kPriorBurstChance) - 1);
  for (size_t i = 0; i < kLevels; ++i) windows_[i] = GrowthWindow(horizon_of(i), config_.half_life_s);
}

bool GrowthForecaster::observe(const Sample& sample) {
  const bool sound = std::isfinite(sample.time_s) && std::abs(sample.time_s) <= kTimeMax &&
                     std::isfinite(sample.used) && sample.used >= 0 && sample.used <= kBytesMax &&
                     std::isfinite(sample.allocated) && sample.allocated >= 0 &&
                     sample.allocated <= kBytesMax;
  if (!sound || (samples_ > 0 && sample.time_s <= last_.time_s)) return false;
  if (samples_ == 0) {
    for (GrowthWindow& window : windows_) window.restart(sample.time_s, sample.used);
  } else {
    Segment segment{last_.time_s, sample.time_s, last_.used, sample.used, 0};
    // Written and trimmed between two samples: the peak was no higher than this.
    const double peak = last_.used + sample.allocated;
    const bool near = sample.time_s - last_.time_s <= kPeakSeconds;
    if (near && peak > std::max(last_.used, sample.used)) segment.peak = peak;
    const double regime_rate = regime_.active() ? regime_.rate() : 0;
    for (GrowthWindow& window : windows_) window.observe(segment, regime_rate);
    while (matured_ < kLevels && windows_[matured_].matured()) ++matured_;
    if (season_.observe(segment)) {
      for (size_t i = 0; i < kLevels; ++i) {
        // Shorter windows forget fast enough to follow the day by themselves, and past a day every hour is in
        // them.
        const bool daily = horizon_of(i) >= 3600 && horizon_of(i) <= 86400;
        shift_[i] = daily ? season_.shift(sample.time_s, horizon_of(i), windows_[i].half_life_s()) : 0;
      }
    }
  }
  regime_.observe(sample.time_s, sample.used);
  last_ = sample;
  ++samples_;
  return true;
}

// Full speed for a time D with P(D > d) = 1/(1 + d/scale)^2: mostly short, with a heavy tail.
double GrowthForecaster::prior_above(double horizon_s, double x) const {
  if (x >= config_.prior_bytes_per_s * horizon_s) return 0;
  const double root = 1 + x / config_.prior_bytes_per_s / prior_scale_s_;
  return 1 / (root * root);
}

double GrowthForecaster::prior_quantile(double horizon_s, double q) const {
  const double duration = prior_scale_s_ * (1 / std::sqrt(1 - q) - 1);
  return config_.prior_bytes_per_s * std::min(horizon_s, duration);
}

double GrowthForecaster::level_above(size_t level, double x) const {
  const GrowthWindow& window = windows_[level];
  const double horizon = window.horizon_s();
  x -= shift_[level];
  if (x < 0) return 1;
  // Laplace's rule of succession: the chance that the next window exceeds all before. The prior is for what
  // was never seen at all, so time counts against it as well as windows.
  const double surprise = std::max(kSurpriseMin, 1 / (1 + window.windows()));
  const double prior = std::max(kSurpriseMin, 1 / (1 + window.windows() * std::sqrt(horizon)));
  const double trust = regime_.active() ? window.persistence() : 1;
  const double regime = kRegimeMax * trust * regime_.lasts(horizon);
  const double usual =
      regime * spread_above(regime_.rate() * horizon, x) + (1 - regime) * window.body_above(x);
  const double seen = surprise * window.tail_above(x) + (1 - surprise) * usual;
  return prior * prior_above(horizon, x) + (1 - prior) * seen;
}

double GrowthForecaster::levels_above(size_t level, double x) const {
  double most = 0;
  for (size_t i = 0; i <= level; ++i) most = std::max(most, level_above(i, x));
  return most;
}

double GrowthForecaster::level_quantile(size_t level, double q) const {
  return invert([&](double x) { return level_above(level, x); }, 1 - q,
                regime_.rate() * windows_[level].horizon_s());
}

// From the longest down: a shorter one is rarely larger, and whether it is takes one look.
double GrowthForecaster::levels_quantile(size_t level, double q) const {
  double most = 0;
  for (size_t i = level + 1; i-- > 0;) {
    if (level_above(i, most) > 1 - q) most = std::max(most, level_quantile(i, q));
  }
  return most;
}

size_t GrowthForecaster::level_under(double horizon_s) const {
  size_t level = 0;
  while (level + 1 < matured_ && horizon_of(level + 1) <= horizon_s) ++level;
  return level;
}

// Past the last horizon H that matured: Q(h) = max(y, y r + carried), y = Q(H), r = sqrt(h/H). The median
// goes on with the trend, the distance from the median grows with the root of time. Convex in h, so the max
// keeps it monotone.
struct GrowthForecaster::Beyond {
  double length = 1;
  double median = 0;
  double trend = 0;
  double root(double horizon_s) const { return std::sqrt(horizon_s / length); }
  double carried(double horizon_s) const {
    return trend * (horizon_s - length) - median * (root(horizon_s) - 1);
  }
  double apply(double y, double horizon_s) const {
    return std::max(y, y * root(horizon_s) + carried(horizon_s));
  }
  double undo(double x, double horizon_s) const {
    return std::min(x, (x - carried(horizon_s)) / root(horizon_s));
  }
};

GrowthForecaster::Beyond GrowthForecaster::beyond() const {
  const size_t last = matured_ - 1;
  // The net trend, not the median's own slope: written and trimmed again is not growth.
  const double trend = std::max(0.0, windows_[last].significant_net_rate());
  return {horizon_of(last), levels_quantile(last, 0.5), trend};
}

double GrowthForecaster::growth_quantile(double horizon_s, double q) const {
  if (!(horizon_s > 0)) return 0;
  const double horizon = std::min(horizon_s, kYear);
  q = clamp_q(q);
  if (matured_ == 0) return prior_quantile(horizon, q);
  const size_t level = level_under(horizon);
  const double length = horizon_of(level);
  const double here = levels_quantile(level, q);
  // Below the first horizon nothing finer than the metrics interval was seen.
  if (horizon <= length) return here * (horizon / length);
  if (level + 1 == matured_) return beyond().apply(here, horizon);
  const double share = horizon / length - 1;
  return here + (levels_quantile(level + 1, q) - here) * share;
}

// The inverse of the interpolation in growth_quantile: the probability at which (1 - share) y + share z = x,
// with y and z the quantiles of the two horizons.
double GrowthForecaster::between_above(size_t level, double share, double x) const {
  const auto partner = [&](double y) { return std::max(0.0, (x - (1 - share) * y) / share); };
  double low = 0;
  double high = x / (1 - share);
  if (levels_above(level, low) <= levels_above(level + 1, partner(low)))
    return levels_above(level + 1, partner(low));
  for (int i = 0; i < kBisections && high - low > kPrecision * high; ++i) {
    const double middle = low + (high - low) / 2;
    (levels_above(level, middle) > levels_above(level + 1, partner(middle)) ? low : high) = middle;
  }
  // Where one of the two jumps, the other one, which does not, tells the probability.
  return std::max(levels_above(level + 1, partner(low)), levels_above(level, high));
}

double GrowthForecaster::exceedance(double horizon_s, double bytes) const {
  if (!(bytes >= 0)) return 1;  // also NaN: what is unknown is taken for exceeded
  if (!(horizon_s > 0)) return 0;
  const double horizon = std::min(horizon_s, kYear);
  if (matured_ == 0) return prior_above(horizon, bytes);
  const size_t level = level_under(horizon);
  const double length = horizon_of(level);
  if (horizon <= length) return levels_above(level, bytes * (length / horizon));
  if (level + 1 == matured_) {
    const double y = beyond().undo(bytes, horizon);
    return y < 0 ? 1 : levels_above(level, y);
  }
  const double share = horizon / length - 1;
  return share <= 0 ? levels_above(level, bytes) : between_above(level, share, bytes);
}

std::optional<double> GrowthForecaster::time_to_full_s(double free, double p) const {
  if (std::isnan(free)) return std::nullopt;
  if (free <= 0) return 0;
  const double q = clamp_q(1 - p);
  if (matured_ == 0) {
    if (prior_quantile(kYear, q) < free) return std::nullopt;
    return free / config_.prior_bytes_per_s;
  }
  for (size_t i = 0; i < matured_; ++i) {
    if (level_above(i, free) <= 1 - q) continue;
    // Reached between the horizon before and this one.
    const double before_s = i > 0 ? horizon_of(i - 1) : 0;
    const double before = i > 0 ? levels_quantile(i - 1, q) : 0;
    const double growth = std::max(free, level_quantile(i, q));
    return before_s +
           (horizon_of(i) - before_s) * (growth > before ? (free - before) / (growth - before) : 1);
  }
  const Beyond after = beyond();
  const double last = levels_quantile(matured_ - 1, q);
  if (after.apply(last, kYear) < free) return std::nullopt;
  double low = after.length;
  double high = kYear;
  for (int i = 0; i < kBisections && high - low > 1e-6 * high; ++i) {
    const double middle = low + (high - low) / 2;
    (after.apply(last, middle) < free ? low : high) = middle;
  }
  return high;
}

Components GrowthForecaster::components() const {
  Components out;
  out.level = last_.used;
  out.season_amplitude = season_.amplitude();
  // "Recent" is within the half life; a longer window would still mourn what is over.
  for (size_t i = 0; i < matured_; ++i) {
    if (i > 0 && horizon_of(i) > config_.half_life_s) break;
    out.trend_per_s = windows_[i].net_rate();
  }
  return out;
}

}  // namespace foreshadow::forecast
