#pragma once
// Is the volume being written now, how fast, and for how long already? The one thing about the present that a
// table of the past does not know.

namespace foreshadow::forecast {

// Below this a volume counts as quiet. A quiet regime has a rate too, usually 0.
inline constexpr double kQuietBytesPerS = 256 * 1024;

// A stretch of time with about one rate of growth. Not thread-safe.
class Regime {
 public:
  void observe(double time_s, double used);
  double rate() const { return rate_; }  // bytes a second since the regime began, >= 0
  double age_s() const { return age_s_; }
  bool active() const { return rate_ >= kQuietBytesPerS; }
  // P(it lasts another `horizon_s`), by Lindy's law: what lasted long lasts long. Needs no scale and no
  // tuning.
  double lasts(double horizon_s) const { return age_s_ > 0 ? age_s_ / (age_s_ + horizon_s) : 0; }

 private:
  bool begun_ = false;
  double last_s_ = 0;
  double last_used_ = 0;
  double start_s_ = 0;
  double start_used_ = 0;
  double rate_ = 0;
  double age_s_ = 0;
};

}  // namespace foreshadow::forecast
