#include "volume/squeeze.h"

#include <algorithm>
#include <cmath>

namespace foreshadow::volume {

Squeezed sum_up(const extent::Containers& containers, extent::Geometry geometry) {
  Squeezed out;
  const auto& by_slots = containers.by_slots();
  const auto members = static_cast<double>(containers.members());
  out.logical = containers.members() * geometry.cluster();
  out.physical = containers.count() * geometry.cluster();
  if (members == 0) return out;
  double sum = 0;
  double squares = 0;
  uint64_t below = 0;
  for (uint32_t slots = 1; slots < by_slots.size(); ++slots) {
    const double ratio = static_cast<double>(slots) / extent::kSlots;
    const auto count = static_cast<double>(by_slots[slots]);
    sum += count * ratio;
    squares += count * ratio * ratio;
    below += by_slots[slots];
    if (out.ratio_p10 == 0 && static_cast<double>(below) >= 0.1 * members) out.ratio_p10 = ratio;
    if (out.ratio_p90 == 0 && static_cast<double>(below) >= 0.9 * members) out.ratio_p90 = ratio;
  }
  out.ratio_mean = sum / members;
  out.ratio_stddev = std::sqrt(std::max(0.0, squares / members - out.ratio_mean * out.ratio_mean));
  return out;
}

}  // namespace foreshadow::volume
