#include "forecast/growth_window.h"

#include <algorithm>
#include <cmath>

namespace foreshadow::forecast {
namespace {

// A segment up to this long is filled in along its straight line even where the horizon is shorter.
constexpr double kFillSeconds = 8;
// A long horizon must remember a few of its own lengths, whatever the half life.
constexpr double kHalfLifeHorizons = 8;
// The largest growth seen outlives the rest by this much: a volume idle for an hour may still burst as it
// did.
constexpr double kPeakHalfLives = 24;
// A window that reached this share of "rate times horizon" counts as one in which the regime lasted.
constexpr double kLasted = 0.7;

}  // namespace

GrowthWindow::GrowthWindow(double horizon_s, double half_life_s)
    : horizon_s_(horizon_s),
      half_life_s_(std::max(half_life_s, kHalfLifeHorizons * horizon_s)),
      step_s_(horizon_s / kSlots) {
  keep_ = std::exp2(-step_s_ / half_life_s_);
  peak_keep_ = std::exp2(-step_s_ / (half_life_s_ * kPeakHalfLives));
}

void GrowthWindow::restart(double time_s, double used) {
  boundary_s_ = time_s + step_s_;
  open_ = {used, used, 0};
  closed_ = 0;
}

void GrowthWindow::observe(const Segment& segment, double regime_rate) {
  const double length = segment.to_s - segment.from_s;
  if (length > std::max(kSlots * horizon_s_, kFillSeconds)) {
    // Along a straight line every window inside is alike; one stands for all, for nothing finer was seen.
    const double net = (segment.to_used - segment.from_used) * (horizon_s_ / length);
    mature(std::max(0.0, net), net, 0);
    restart(segment.to_s, segment.to_used);
    return;
  }
  // Taken as early as it may have been, so that no window it belongs to misses it.
  open_.peak = std::max(open_.peak, segment.peak);
  while (boundary_s_ <= segment.to_s) {
    const double used = segment.at(boundary_s_);
    close_slot(used);
    open_ = {used, used, regime_rate};
    boundary_s_ += step_s_;
  }
  open_.peak = std::max(open_.peak, segment.to_used);
}

void GrowthWindow::close_slot(double end_used) {
  open_.peak = std::max(open_.peak, end_used);
  slots_[next_] = open_;
  next_ = (next_ + 1) % kSlots;
  closed_ = std::min(closed_ + 1, kSlots);
  if (closed_ < kSlots) return;
  const Slot& origin = slots_[next_];
  double highest = origin.peak;
  for (const Slot& slot : slots_) highest = std::max(highest, slot.peak);
  mature(highest - origin.start, end_used - origin.start, origin.regime_rate);
}

void GrowthWindow::mature(double growth, double net, double regime_rate) {
  growth_.insert(growth, keep_);
  net_.insert(net, keep_);
  windows_ = growth_.weight();
  top_ = std::max(growth, top_ * peak_keep_);
  tail_scale_ = 0.1 * top_ + 0.2 * std::max(0.0, top_ - growth_.median());

  trials_ *= keep_;
  hits_ *= keep_;
  if (regime_rate > 0) {
    trials_ += 1;
    if (growth >= kLasted * regime_rate * horizon_s_) hits_ += 1;
  }
}

double GrowthWindow::significant_net_rate() const {
  const double mean = net_.middle_mean();
  // Four neighbouring windows overlap and count as one.
  const double error = net_.deviation(mean) / std::sqrt(std::max(1.0, windows_ / kSlots));
  return std::abs(mean) > error ? mean / horizon_s_ : 0;
}

double GrowthWindow::tail_above(double x) const {
  if (top_ <= 0) return 0;
  return x < top_ ? 1 : std::exp(-(x - top_) / tail_scale_);
}

double GrowthWindow::persistence() const {
  return std::min(1.0, 2 * (hits_ + 1) / (trials_ + 2));
}

}  // namespace foreshadow::forecast
