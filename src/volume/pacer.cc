#include "volume/pacer.h"

#include <algorithm>

namespace foreshadow::volume {

void Pacer::on_foreground(MonoTime now, uint64_t latency_us) {
  last_foreground_ = now;
  const bool stands = now < stands_until_;
  const bool works = in_flight_ > 0 || (now - last_work_ < kWorkFades && last_work_ != MonoTime{});
  if (!stands) {
    (works ? with_ : without_).add(latency_us);
  } else if (in_flight_ == 0 && now - last_work_ >= kSettles) {
    without_.add(latency_us);
  }
}

Nanos Pacer::rest_after(MonoTime now, Nanos took) {
  if (last_work_ == MonoTime{} || now - last_work_ >= kWorkFades) stands_until_ = now;  // it has just begun
  last_work_ = now;
  if (!foreground_active(now)) {
    factor_ = 0;
    return {};
  }
  if (now < stands_until_) return stands_until_ - now;
  if (now - stands_until_ >= kStandEvery) {
    stands_until_ = now + kStand;
    return kStand;
  }
  if (now - adjusted_ >= kAdjustEvery) {
    adjusted_ = now;
    const bool slowed = without_.us > 0 && with_.us > kLatencyRatio * without_.us;
    factor_ = slowed ? std::clamp(factor_ * 1.5, 0.25, kRestsMost) : factor_ < 0.05 ? 0 : factor_ * 0.9;
  }
  const auto rest = static_cast<int64_t>(static_cast<double>(took.count()) * factor_);
  return std::min(Nanos(rest), kRestMax);
}

}  // namespace foreshadow::volume
