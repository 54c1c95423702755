#include "volume/pacer.h"

#include <algorithm>

namespace foreshadow::volume {

Nanos Pacer::rest_after(MonoTime now, Nanos took) {
  if (!foreground_active(now)) {
    factor_ = 0;
    return {};
  }
  const bool slowed = quiet_.us > 0 && busy_.us > kLatencyRatio * quiet_.us;
  factor_ = slowed ? std::clamp(factor_ * 2, 0.25, 64.0) : factor_ < 0.25 ? 0 : factor_ / 2;
  const auto rest = static_cast<int64_t>(static_cast<double>(took.count()) * factor_);
  return std::min(Nanos(rest), kRestMax);
}

}  // namespace foreshadow::volume
