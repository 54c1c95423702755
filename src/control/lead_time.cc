#include "control/lead_time.h"

#include <algorithm>
#include <vector>

#include "control/control_limits.h"

namespace foreshadow::control {
namespace {
constexpr uint64_t kPriorUs = 250'000;
constexpr double kDoubt = 4;
}  // namespace

void LeadTime::record_us(uint64_t lead_us) {
  last_us_.push_back(lead_us);
  if (last_us_.size() > limits::kLeadTimes) last_us_.pop_front();
}

double LeadTime::p99_s() const {
  if (last_us_.empty()) return static_cast<double>(kPriorUs) / 1e6;
  std::vector<uint64_t> sorted(last_us_.begin(), last_us_.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t rank = (sorted.size() * 99 + 99) / 100;  // nearest rank, from 1
  const double measured = static_cast<double>(sorted[rank - 1]) / 1e6;
  return measured * (1 + kDoubt / static_cast<double>(sorted.size()));
}

}  // namespace foreshadow::control
