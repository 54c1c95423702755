#include "forecast/quantile_sketch.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace foreshadow::forecast {
namespace {

constexpr double kSpread = 0.02;
// Below this, differences are not worth a centroid: one cluster of the volume.
constexpr double kFloorBytes = 65536;
constexpr float kForgotten = 1e-4f;

}  // namespace

double spread_above(double value, double x) {
  if (value <= 0) return 0;
  const double low = value * (1 - kSpread);
  const double high = value * (1 + kSpread);
  if (x < low) return 1;
  if (x >= high) return 0;
  return (high - x) / (high - low);
}

void QuantileSketch::insert(double value, double keep) {
  size_t kept = 0;
  for (size_t i = 0; i < count_; ++i) {
    Centroid c = centroids_[i];
    c.weight *= static_cast<float>(keep);
    if (c.weight >= kForgotten) centroids_[kept++] = c;
  }
  count_ = kept;
  const auto fresh = static_cast<float>(value);
  // A near twin absorbs the value. Zero has no twin but zero: it means idle.
  for (size_t i = 0; i < count_; ++i) {
    Centroid& c = centroids_[i];
    if ((fresh == 0) != (c.value == 0) || std::abs(fresh - c.value) > kSpread / 2 * std::abs(c.value))
      continue;
    c.weight += 1;
    c.value += (fresh - c.value) / c.weight;
    return;
  }
  size_t at = count_++;
  for (; at > 0 && centroids_[at - 1].value > fresh; --at) centroids_[at] = centroids_[at - 1];
  centroids_[at] = {fresh, 1};
  if (count_ > kCentroids) merge_closest_pair();
}

// Ward's criterion on what is a logarithm far from zero (asinh): light centroids go first, and neither tail
// is worn down by its sheer distance.
void QuantileSketch::merge_closest_pair() {
  size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i + 1 < count_; ++i) {
    const Centroid& a = centroids_[i];
    const Centroid& b = centroids_[i + 1];
    const double apart = std::asinh(b.value / kFloorBytes) - std::asinh(a.value / kFloorBytes);
    const double cost = double{a.weight} * b.weight / (a.weight + b.weight) * apart * apart;
    if (a.value != 0 && b.value != 0 && cost < least) least = cost, best = i;
  }
  Centroid& into = centroids_[best];
  const Centroid gone = centroids_[best + 1];
  const float total = into.weight + gone.weight;
  into = {(into.value * into.weight + gone.value * gone.weight) / total, total};
  for (size_t i = best + 1; i + 1 < count_; ++i) centroids_[i] = centroids_[i + 1];
  --count_;
}

double QuantileSketch::weight() const {
  double sum = 0;
  for (size_t i = 0; i < count_; ++i) sum += centroids_[i].weight;
  return sum;
}

double QuantileSketch::share_above(double x) const {
  double above = 0;
  double sum = 0;
  for (size_t i = 0; i < count_; ++i) {
    sum += centroids_[i].weight;
    above += centroids_[i].weight * spread_above(centroids_[i].value, x);
  }
  return sum > 0 ? above / sum : 0;
}

double QuantileSketch::median() const {
  const double half = weight() / 2;
  double below = 0;
  for (size_t i = 0; i < count_; ++i) {
    below += centroids_[i].weight;
    if (below >= half) return centroids_[i].value;
  }
  return 0;
}

double QuantileSketch::middle_mean() const {
  const double all = weight();
  const double low = all / 4;
  const double high = all * 3 / 4;
  double below = 0;
  double sum = 0;
  for (size_t i = 0; i < count_; ++i) {
    const double above = below + centroids_[i].weight;
    sum += centroids_[i].value * std::max(0.0, std::min(above, high) - std::max(below, low));
    below = above;
  }
  return all > 0 ? sum / (high - low) : 0;
}

double QuantileSketch::deviation(double centre) const {
  double sum = 0;
  for (size_t i = 0; i < count_; ++i) sum += centroids_[i].weight * std::abs(centroids_[i].value - centre);
  return count_ > 0 ? sum / weight() : 0;
}

}  // namespace foreshadow::forecast
