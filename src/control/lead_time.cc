#include "control/lead_time.h"

#include <algorithm>
#include <vector>

#include "control/control_limits.h"

namespace foreshadow::control {
namespace {
constexpr uint64_t kPriorUs = 1'000'000;
}

void LeadTime::record_us(uint64_t lead_us) {
  last_us_.push_back(lead_us);
  if (last_us_.size() > limits::kLeadTimes) last_us_.pop_front();
}

double LeadTime::p99_s() const {
  std::vector<uint64_t> sorted(last_us_.begin(), last_us_.end());
  if (sorted.size() < limits::kLeadTimes) sorted.push_back(kPriorUs);
  std::sort(sorted.begin(), sorted.end());
  const size_t rank = (sorted.size() * 99 + 99) / 100;  // nearest rank, from 1
  return static_cast<double>(sorted[rank - 1]) / 1e6;
}

}  // namespace foreshadow::control
