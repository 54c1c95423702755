#include "volume/pacer.h"

#include <gtest/gtest.h>

namespace foreshadow::volume {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// A foreground of one request every 100 us beside work of 100 us a piece.
struct PacerTest : testing::Test {
  void serve(Nanos time, uint64_t latency_us) {
    for (const MonoTime end = now + time; now < end; now += microseconds(100))
      pacer.on_foreground(now, latency_us);
  }
  // The share of `time` that is spent working, with that latency while it goes on, rests included.
  double work(Nanos time, uint64_t latency_us, uint64_t while_standing_us) {
    Nanos worked{};
    const MonoTime began = now;
    while (now - began < time) {
      pacer.work_began();
      now += microseconds(100);
      pacer.on_foreground(now, latency_us);
      pacer.work_ended();
      worked += microseconds(100);
      const Nanos rest = pacer.rest_after(now, microseconds(100));
      serve(rest, rest >= Pacer::kStand / 2 ? while_standing_us : latency_us);
    }
    return static_cast<double>(worked.count()) / static_cast<double>((now - began).count());
  }
  Pacer pacer;
  MonoTime now{std::chrono::seconds(1)};
};

TEST_F(PacerTest, NobodyServedMeansNoRest) {
  now += milliseconds(5);
  EXPECT_EQ(pacer.rest_after(now, milliseconds(1)), Nanos(0));
  serve(milliseconds(10), 50);
  now += Pacer::kIdleAfter;
  EXPECT_FALSE(pacer.foreground_active(now));
  EXPECT_EQ(pacer.rest_after(now, milliseconds(1)), Nanos(0));
}

TEST_F(PacerTest, WorkThatCostsNothingGoesAsFastAsItCan) {
  serve(std::chrono::seconds(1), 50);
  EXPECT_GT(work(std::chrono::seconds(2), 55, 50), 0.9);
}

TEST_F(PacerTest, WorkThatSlowsOthersRestsAndStillGetsOn) {
  serve(std::chrono::seconds(1), 50);
  (void)work(std::chrono::seconds(2), 500, 50);
  const double share = work(std::chrono::seconds(2), 500, 50);
  EXPECT_LT(share, 0.2);
  EXPECT_GT(share, 0.05);
}

// What has become slow by itself is no reason to rest: standing still tells.
TEST_F(PacerTest, FollowsAForegroundThatHasBecomeSlower) {
  serve(std::chrono::seconds(1), 50);
  (void)work(std::chrono::seconds(20), 500, 500);
  EXPECT_GT(work(std::chrono::seconds(2), 500, 500), 0.9);
}

}  // namespace
}  // namespace foreshadow::volume
