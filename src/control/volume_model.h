#pragma once
// What control knows of one volume, in memory: the last report, the last metrics, the forecast, the measured
// lead time.
#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "control/backoff.h"
#include "control/lead_time.h"
#include "control/store.h"
#include "forecast/forecaster.h"
#include "foreshadow/v1/agent.pb.h"
#include "foreshadow/v1/control.pb.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::control {

// Not thread-safe: the core's mutex guards it. Nothing becomes state here that report_check.h has not judged.
class VolumeModel {
 public:
  VolumeModel(v1::Volume volume, std::unique_ptr<forecast::Forecaster> forecaster)
      : volume_(std::move(volume)), forecaster_(std::move(forecaster)) {
    begin_session();
  }

  const std::string& id() const { return volume_.id(); }
  const std::string& name() const { return volume_.name(); }
  const std::string& agent() const { return volume_.agent_id(); }
  // As reported last, with usage as of the last metrics.
  const v1::Volume& volume() const { return volume_; }
  const v1::VolumeMetrics& latest() const { return latest_; }
  const forecast::Forecaster& forecaster() const { return *forecaster_; }
  // Null if the agent has none of this UUID.
  const v1::Segment* segment(const std::string& uuid) const;

  // The agent's truth replaces what was known.
  void report(const v1::Volume& volume) { volume_ = volume; }
  // The totals of the last report are where the agent's interval counts go on from.
  void begin_session() {
    holds_ = volume_.holds();
    failed_writes_ = volume_.failed_writes();
    paced_ = volume_.paced();
    pace_us_ = volume_.pace_us_total();
  }
  // The agent no longer serves it: facts stay, for people; nothing is decided.
  void set_served(bool served) { served_ = served; }
  bool served() const { return served_; }

  // Takes one interval's counts, already judged, and gives the row to remember. kInvalidArgument if `time_ms`
  // is not after the last sample. An agent's clock that was set back would silence the volume's protection
  // until it caught up; so after kRewindSamples refused ones in a row that agree among themselves, the axis
  // continues from the new time.
  static constexpr uint32_t kRewindSamples = 10;
  Result<HistoryRow> observe(uint64_t time_ms, uint32_t interval_ms, const v1::VolumeMetrics& metrics);
  // Feeds a remembered row to the forecaster, at start.
  void restore(const HistoryRow& row);

  v1::Forecast forecast() const;

  LeadTime lead;
  Backoff grant_backoff;
  Backoff merge_backoff;
  uint64_t grants_refused = 0;     // by the pool, since the last success
  uint64_t refused_pool_free = 0;  // what the pool could promise when it refused last
  std::string last_action;         // of the last recorded decision
  std::string not_folded;          // the segment that could not be folded, and is adopted instead
  Backoff reclaim_backoff;
  uint64_t last_grant_ms = 0;   // 0: none since control started
  uint64_t roomy_since_ms = 0;  // more has been free than policy lets be; 0: it is not so now

 private:
  bool feed(const HistoryRow& row);

  v1::Volume volume_;
  v1::VolumeMetrics latest_;
  std::unique_ptr<forecast::Forecaster> forecaster_;
  bool served_ = true;
  uint64_t axis_ms_ = 0;   // of the last sample, on the forecaster's axis
  int64_t offset_ms_ = 0;  // from the agent's clock to the axis
  uint64_t last_used_ = 0;
  uint64_t holds_ = 0;  // counted in this session, from the total it began with
  uint64_t failed_writes_ = 0;
  uint64_t paced_ = 0;
  uint64_t pace_us_ = 0;
  uint64_t rewound_ms_ = 0;  // the last refused time
  uint32_t rewound_ = 0;     // refused in a row
};

bool is_leaving(const v1::Segment& segment);
// Segments that are being emptied take no new writes: their capacity is gone already, their data is to fit
// into the others.
uint64_t lasting_capacity(const v1::Volume& volume);

// The forecast as people and programs get it; negative times mean "not within a year".
v1::Forecast make_forecast(const forecast::Forecaster& forecaster, uint64_t free_bytes, double lead_p99_s);

}  // namespace foreshadow::control
