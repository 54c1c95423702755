#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "base/types.h"
#include "forecast/forecaster.h"
#include "forecast/growth_forecaster.h"

namespace foreshadow::forecast {
namespace {

constexpr double kMB = 1e6;
constexpr double kGB = 1e9;
constexpr double kDay = 86400;

// A volume under test: feeds one sample a second unless told otherwise.
struct Feed {
  explicit Feed(const ForecasterConfig& config = {}, double start = 0)
      : forecaster(make_growth_forecaster(config)), used(start) {
    step(0, 0);
  }
  void step(double seconds, double bytes) {
    time += seconds;
    used = std::max(0.0, used + bytes);
    EXPECT_TRUE(forecaster->observe({time, used, std::max(0.0, bytes)}));
  }
  void write(double seconds, double rate) {
    for (double s = 0; s < seconds; ++s) step(1, rate);
  }
  std::unique_ptr<Forecaster> forecaster;
  double time = 1.7e9;  // any axis will do; a real one has large numbers
  double used = 0;
};

TEST(GrowthForecaster, ColdVolumeMayBeWrittenAtFullSpeed) {
  const auto forecaster = make_growth_forecaster({.prior_bytes_per_s = 1e9});
  EXPECT_NEAR(forecaster->growth_quantile(1.05, 0.999), 1.05 * kGB, 1);
  EXPECT_NEAR(forecaster->growth_quantile(31, 0.999), 4 * kGB, 1 * kMB);  // prior_burst_s
  EXPECT_LT(forecaster->growth_quantile(31, 0.5), 0.1 * kGB);
  EXPECT_GT(forecaster->exceedance(1.05, 256 * kMB), 1e-3);
  EXPECT_EQ(forecaster->exceedance(1, kGB), 0);
  EXPECT_EQ(forecaster->time_to_full_s(100 * kGB, 0.5), std::nullopt);
  EXPECT_EQ(forecaster->samples(), 0u);
}

TEST(GrowthForecaster, PriorFadesAsAnIdleVolumeIsWatched) {
  Feed feed({.prior_bytes_per_s = 1e9});
  double last = feed.forecaster->growth_quantile(31, 0.999);
  for (const double seconds : {120.0, 480.0, 3000.0, 14400.0}) {
    feed.write(seconds, 0);
    const double now = feed.forecaster->growth_quantile(31, 0.999);
    EXPECT_LE(now, last) << seconds;
    EXPECT_GT(now, 10 * kMB) << "an idle volume may still be written";
    last = now;
  }
  EXPECT_LT(last, kGB);
  EXPECT_EQ(feed.forecaster->growth_quantile(31, 0.9), 0);
  EXPECT_EQ(feed.forecaster->time_to_full_s(64.0 * kMiB, 0.5), std::nullopt);
  EXPECT_EQ(feed.forecaster->time_to_full_s(64.0 * kMiB, 0.05), std::nullopt);
}

TEST(GrowthForecaster, SteadyWriterIsPredictedAfterThirtySamples) {
  for (const double rate : {100e3, 5 * kMB, 310 * kMB, 900 * kMB, 3 * kGB}) {
    Feed feed;
    feed.write(30, rate);
    for (const double horizon : {0.5, 1.0, 1.05, 3.0, 10.0, 16.0, 31.0, 100.0, 3600.0, 30 * kDay}) {
      EXPECT_NEAR(feed.forecaster->growth_quantile(horizon, 0.5) / (rate * horizon), 1, 0.1)
          << rate << " " << horizon;
      const double free = rate * horizon;
      const auto median = feed.forecaster->time_to_full_s(free, 0.5);
      const auto early = feed.forecaster->time_to_full_s(free, 0.05);
      ASSERT_TRUE(median && early) << rate << " " << horizon;
      EXPECT_NEAR(*median / horizon, 1, 0.1) << rate << " " << horizon;
      EXPECT_LE(*early, *median);
    }
    EXPECT_NEAR(feed.forecaster->components().trend_per_s / rate, 1, 0.01);
    EXPECT_NEAR(feed.forecaster->components().level, 30 * rate, 1);
    EXPECT_EQ(feed.forecaster->time_to_full_s(rate * 400 * kDay, 0.5), std::nullopt) << "past a year";
  }
}

TEST(GrowthForecaster, SteadyWriterIsPredictedFromIrregularSamples) {
  SeededRng rng(3);
  Feed feed;
  for (int i = 0; i < 60; ++i) {
    const double dt = 0.05 + static_cast<double>(rng.below(1900)) / 1000;
    feed.step(dt, 200 * kMB * dt);
  }
  EXPECT_NEAR(feed.forecaster->growth_quantile(20, 0.5), 4 * kGB, 0.4 * kGB);
}

TEST(GrowthForecaster, TailExceedsTheLargestSeenModestly) {
  Feed feed;
  for (int i = 0; i < 100; ++i) {
    feed.write(9, 0);
    feed.write(1, 500 * kMB);
  }
  const double tail = feed.forecaster->growth_quantile(1, 0.999);
  EXPECT_GT(tail, 500 * kMB);
  EXPECT_LT(tail, 1500 * kMB);
  EXPECT_NEAR(feed.forecaster->growth_quantile(600, 0.5) / (600 * 50 * kMB), 1, 0.15);
}

TEST(GrowthForecaster, BurstAfterIdleIsTakenForOneThatMayGoOn) {
  Feed feed;
  feed.write(3600, 0);
  const double before = feed.forecaster->growth_quantile(31, 0.999);
  feed.write(2, 900 * kMB);
  EXPECT_GT(feed.forecaster->growth_quantile(31, 0.999), before);
  EXPECT_GT(feed.forecaster->growth_quantile(31, 0.999), 20 * kGB);
  EXPECT_GT(feed.forecaster->growth_quantile(1, 0.5), -1);
  feed.write(120, 900 * kMB);
  EXPECT_NEAR(feed.forecaster->growth_quantile(30, 0.6), 27 * kGB, 3 * kGB);
}

TEST(GrowthForecaster, BurstIsRememberedWhileIdle) {
  Feed feed;
  feed.write(60, 0);
  feed.write(20, 800 * kMB);
  feed.write(600, 0);
  EXPECT_GE(feed.forecaster->growth_quantile(1, 0.999), 790 * kMB) << "idle for ten minutes";
  feed.write(3 * 3600, 0);
  EXPECT_GE(feed.forecaster->growth_quantile(1, 0.999), 600 * kMB) << "idle for hours";
  EXPECT_EQ(feed.forecaster->growth_quantile(31, 0.5), 0);
  EXPECT_EQ(feed.forecaster->time_to_full_s(1000 * kGB, 0.5), std::nullopt);
}

TEST(GrowthForecaster, SawtoothSaturatesAtItsHeight) {
  Feed feed;
  for (int i = 0; i < 60; ++i) {
    feed.write(10, 100 * kMB);
    feed.step(1, -1000 * kMB);
  }
  EXPECT_NEAR(feed.forecaster->growth_quantile(40, 0.95), 950 * kMB, 150 * kMB);
  EXPECT_LT(feed.forecaster->growth_quantile(300, 0.95), 1500 * kMB) << "written and trimmed is not growth";
  EXPECT_LT(std::abs(feed.forecaster->components().trend_per_s), 5 * kMB);
  EXPECT_EQ(feed.forecaster->time_to_full_s(20 * kGB, 0.5), std::nullopt);
}

TEST(GrowthForecaster, ChurnWithinOneIntervalCountsByItsPeak) {
  const auto forecaster = make_growth_forecaster({});
  for (int i = 0; i < 3000; ++i) ASSERT_TRUE(forecaster->observe({double(i), kGB, 400 * kMB}));
  EXPECT_NEAR(forecaster->growth_quantile(2, 0.9), 400 * kMB, 40 * kMB);
  EXPECT_NEAR(forecaster->components().trend_per_s, 0, 1);
}

TEST(GrowthForecaster, ShrinkingVolumeIsNeverFull) {
  Feed feed({}, 500 * kGB);
  feed.write(3000, -100 * kMB);
  EXPECT_EQ(feed.forecaster->growth_quantile(31, 0.9), 0);
  EXPECT_EQ(feed.forecaster->time_to_full_s(10 * kGB, 0.05), std::nullopt);
  EXPECT_LT(feed.forecaster->components().trend_per_s, -90 * kMB);
}

TEST(GrowthForecaster, GapsOfHoursNeitherBreakNorForget) {
  Feed feed;
  feed.write(600, 50 * kMB);
  feed.step(6 * 3600, 6 * 3600 * 50 * kMB);
  EXPECT_NEAR(feed.forecaster->growth_quantile(10, 0.5), 500 * kMB, 50 * kMB);
  feed.write(60, 50 * kMB);
  EXPECT_NEAR(feed.forecaster->growth_quantile(600, 0.5), 30 * kGB, 3 * kGB);
  feed.step(400 * kDay, 0);  // and a year later
  feed.write(10, 0);
  EXPECT_TRUE(std::isfinite(feed.forecaster->growth_quantile(31, 0.999)));
}

TEST(GrowthForecaster, RefusesWhatIsNotAnObservation) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const auto forecaster = make_growth_forecaster({});
  ASSERT_TRUE(forecaster->observe({100, 5, 0}));
  const Sample refused[] = {{100, 5, 0},   {99, 5, 0},     {nan, 5, 0},    {inf, 5, 0},   {-inf, 5, 0},
                            {101, nan, 0}, {101, inf, 0},  {101, -1, 0},   {101, 5, nan}, {101, 5, inf},
                            {101, 5, -1},  {1.1e12, 5, 0}, {101, 1e19, 0}, {101, 5, 1e19}};
  for (const Sample& sample : refused) EXPECT_FALSE(forecaster->observe(sample)) << sample.time_s;
  EXPECT_EQ(forecaster->samples(), 1u);
  EXPECT_EQ(forecaster->components().level, 5);
  EXPECT_TRUE(forecaster->observe({1e12, 0x1p62, 0})) << "at the limit";
}

TEST(GrowthForecaster, AnswersSenselessQuestionsSafely) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Feed feed({.prior_bytes_per_s = nan, .prior_burst_s = -1, .half_life_s = 0});
  for (int round = 0; round < 2; ++round, feed.write(40, kMB)) {
    EXPECT_EQ(feed.forecaster->growth_quantile(nan, 0.5), 0);
    EXPECT_EQ(feed.forecaster->growth_quantile(-1, 0.5), 0);
    EXPECT_TRUE(std::isfinite(feed.forecaster->growth_quantile(1e300, 2)));
    EXPECT_TRUE(std::isfinite(feed.forecaster->growth_quantile(1, nan)));
    EXPECT_EQ(feed.forecaster->exceedance(1, nan), 1);
    EXPECT_EQ(feed.forecaster->exceedance(0, 1), 0);
    EXPECT_EQ(feed.forecaster->time_to_full_s(nan, 0.5), std::nullopt);
    EXPECT_EQ(feed.forecaster->time_to_full_s(0, 0.5), 0.0);
  }
}

// One random life of a volume, of the kinds the other tests have, mixed.
void live(Feed& feed, SeededRng& rng) {
  const uint64_t phases = 1 + rng.below(12);
  for (uint64_t i = 0; i < phases; ++i) {
    const double rate = static_cast<double>(rng.below(1000)) * kMB;
    switch (rng.below(5)) {
      case 0:
        feed.write(double(1 + rng.below(300)), 0);
        break;
      case 1:
        feed.write(double(1 + rng.below(60)), rate);
        break;
      case 2:
        feed.step(0.01 + static_cast<double>(rng.below(100)) / 100, rate);
        break;
      case 3:
        feed.step(1, -feed.used * 0.7);
        break;
      default:
        feed.step(double(1 + rng.below(20000)), rate);
        break;
    }
  }
}

TEST(GrowthForecasterProperty, MonotoneAndConsistentForAnyHistory) {
  const std::vector<double> horizons = {0.05, 0.9, 1,    1.05,  1.9, 2,   2.2,   7,  31,
                                        40,   600, 5000, 40000, 1e5, 5e5, 5.3e5, 3e6};
  const std::vector<double> quantiles = {0.01, 0.3, 0.5, 0.8, 0.95, 0.99, 0.999, 0.99999};
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    SeededRng rng(seed);
    Feed feed;
    live(feed, rng);
    std::vector<double> shorter(quantiles.size(), 0);
    for (const double h : horizons) {
      double lower = 0;
      for (size_t i = 0; i < quantiles.size(); ++i) {
        const double q = quantiles[i];
        const double x = feed.forecaster->growth_quantile(h, q);
        ASSERT_GE(x, lower * (1 - 1e-6) - 1) << "q " << q << " h " << h << " seed " << seed;
        ASSERT_GE(x, shorter[i] * (1 - 1e-6) - 1) << "q " << q << " h " << h << " seed " << seed;
        lower = shorter[i] = x;
        // Just above the quantile it is exceeded with at most 1 - q, just below with at least that.
        EXPECT_LE(feed.forecaster->exceedance(h, x * 1.0001 + 10), (1 - q) * 1.01 + 1e-9)
            << q << " " << h << " " << seed;
        if (x > 100) {
          EXPECT_GE(feed.forecaster->exceedance(h, x * 0.9999 - 10), (1 - q) * 0.99)
              << q << " " << h << " " << seed;
          const auto full = feed.forecaster->time_to_full_s(x * 0.999, 1 - q);
          ASSERT_TRUE(full) << q << " " << h << " " << seed;
          EXPECT_LE(*full, h * 1.0001);
        }
      }
      double above = 1;
      for (double x = 0; x < 1e13; x = x * 3 + kMB) {
        const double now = feed.forecaster->exceedance(h, x);
        ASSERT_LE(now, above + 1e-9) << h << " " << x << " seed " << seed;
        ASSERT_GE(now, 0);
        above = now;
      }
    }
  }
}

TEST(GrowthForecaster, DailyCycleIsLearnedAndUsed) {
  Feed feed;
  // Office hours: 10 MB/s from 8 to 18 o'clock; nights clean two thirds of it up.
  feed.time = std::floor(feed.time / kDay + 1) * kDay;
  feed.step(1, 0);
  const auto live_until = [&](double end) {
    while (feed.time < end) {
      const double hour = std::fmod(feed.time, kDay) / 3600;
      feed.step(30, hour >= 8 && hour < 18 ? 300 * kMB : hour < 6 ? -1 / 0.6 * 200 * kMB : 0);
    }
  };
  const double start = std::floor(feed.time / kDay) * kDay;
  live_until(start + 0.9 * kDay);
  EXPECT_EQ(feed.forecaster->components().season_amplitude, 0) << "no day seen yet";
  live_until(start + 4 * kDay + 7.5 * 3600);
  EXPECT_GT(feed.forecaster->components().season_amplitude, 200 * kGB);
  const double morning = feed.forecaster->growth_quantile(9000, 0.5);
  live_until(start + 4 * kDay + 20.5 * 3600);
  const double evening = feed.forecaster->growth_quantile(9000, 0.5);
  EXPECT_GT(morning, 2 * evening) << "the same question before work and after it";
}

TEST(GrowthForecaster, TrendIsRobustAgainstOneImport) {
  Feed feed;
  feed.write(20000, kMB);
  feed.step(1, 300 * kGB);
  feed.write(4000, kMB);
  EXPECT_LT(feed.forecaster->components().trend_per_s, 4 * kMB);
}

TEST(GrowthForecaster, MemoryIsBounded) {
  // All state is in the object: nothing is allocated however long it lives.
  EXPECT_LE(sizeof(GrowthForecaster), 11u * 1024);
}

}  // namespace
}  // namespace foreshadow::forecast
