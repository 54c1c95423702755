#pragma once
// How long a shadow takes from intent to warm, as measured: what the forecast must look ahead.
#include <cstddef>
#include <cstdint>
#include <deque>

namespace foreshadow::control {

// The p99 of the last limits::kLeadTimes measurements, widened by 4/n while they are few: one lucky grant
// must not make the plane believe that shadows come for free. Before the first, a quarter of a second.
class LeadTime {
 public:
  void record_us(uint64_t lead_us);
  double p99_s() const;
  size_t measured() const { return last_us_.size(); }

 private:
  std::deque<uint64_t> last_us_;
};

}  // namespace foreshadow::control
