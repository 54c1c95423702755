#pragma once
// A weighted sketch of a distribution of byte counts in 150 bytes: sorted centroids, merged where they lie
// closest on a log scale (a fixed-size cousin of the t-digest, Dunning and Ertl, arXiv:1902.04023). Exact for
// a constant.
#include <array>
#include <cstddef>

namespace foreshadow::forecast {

// P(v > x) for one value v >= 0 seen, spread over +-2 % so that every distribution made of such values is
// continuous. A zero stays a point: an idle volume grows by nothing, not by almost nothing.
double spread_above(double value, double x);

// Not thread-safe; no allocation.
class QuantileSketch {
 public:
  static constexpr size_t kCentroids = 16;

  // Adds `value`, of either sign, with weight one, after every earlier weight was multiplied by `keep`
  // (0..1): recency.
  void insert(double value, double keep);
  // Sum of the weights.
  double weight() const;
  // Share of the weight above x >= 0; 0 while empty.
  double share_above(double x) const;
  // The value with half of the weight below it; 0 while empty.
  double median() const;
  // Mean of the middle half of the weight: what is usual, whatever the extremes. 0 while empty.
  double middle_mean() const;
  // Mean distance from `centre`; 0 while empty.
  double deviation(double centre) const;

 private:
  struct Centroid {
    float value = 0;
    float weight = 0;
  };
  void merge_closest_pair();
  std::array<Centroid, kCentroids + 1> centroids_{};  // one spare: an insert may overflow before it merges
  size_t count_ = 0;
};

}  // namespace foreshadow::forecast
