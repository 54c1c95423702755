#include "control/volume_model.h"

#include <fmt/format.h>

#include <algorithm>

namespace foreshadow::control {

const v1::Segment* VolumeModel::segment(const std::string& uuid) const {
  for (const v1::Segment& segment : volume_.segments()) {
    if (segment.uuid() == uuid) return &segment;
  }
  return nullptr;
}

Result<HistoryRow> VolumeModel::observe(uint64_t time_ms, uint32_t interval_ms,
                                        const v1::VolumeMetrics& metrics) {
  // Times beyond the year 10000 are noise, and would leave no room for what follows them.
  constexpr uint64_t kTimeMax = 253'402'300'800'000;
  if (time_ms == 0 || time_ms > kTimeMax) {
    return fail(Code::kInvalidArgument, fmt::format("time {}: expected Unix milliseconds", time_ms));
  }
  int64_t axis = static_cast<int64_t>(time_ms) + offset_ms_;
  if (axis <= static_cast<int64_t>(axis_ms_)) {
    rewound_ = time_ms > rewound_ms_ ? rewound_ + 1 : 1;
    rewound_ms_ = time_ms;
    if (rewound_ < kRewindSamples) {
      return fail(Code::kInvalidArgument, fmt::format("time {} is not after the last sample's {}", time_ms,
                                                      static_cast<int64_t>(axis_ms_) - offset_ms_));
    }
    axis = static_cast<int64_t>(axis_ms_) + std::max<int64_t>(interval_ms, 1);
    offset_ms_ = axis - static_cast<int64_t>(time_ms);
  }
  rewound_ = 0;
  rewound_ms_ = 0;
  HistoryRow row;
  row.volume = volume_.id();
  row.time_ms = static_cast<uint64_t>(axis);
  row.used = metrics.used();
  row.capacity = metrics.capacity();
  // Intervals can be lost with a connection; growth that nobody counted still shows in `used`.
  const uint64_t grown = axis_ms_ > 0 && row.used > last_used_ ? row.used - last_used_ : 0;
  row.allocated = std::max(metrics.allocated_bytes(), grown);
  if (!feed(row)) {
    return fail(Code::kInvalidArgument,
                fmt::format("sample at {} with used {} is no observation", time_ms, row.used));
  }
  latest_ = metrics;
  volume_.set_used(metrics.used());
  volume_.set_capacity(metrics.capacity());
  volume_.set_leaving(metrics.leaving());
  volume_.set_data(metrics.data());
  volume_.set_map_memory_bytes(metrics.map_memory_bytes());
  volume_.set_logical(metrics.logical());
  *volume_.mutable_squeezed() = metrics.squeezed();
  volume_.set_held_now(metrics.held_now());
  volume_.clear_job();
  if (metrics.has_job()) *volume_.mutable_job() = metrics.job();
  for (const v1::SegmentUse& use : metrics.segments()) {
    for (v1::Segment& segment : *volume_.mutable_segments()) {
      if (segment.id() == use.id()) segment.set_used(std::min(use.used(), segment.capacity()));
    }
  }
  // Metrics count intervals, reports carry totals: an event may have told of the same hold already.
  holds_ += metrics.holds();
  failed_writes_ += metrics.failed_writes();
  volume_.set_holds(std::max(volume_.holds(), holds_));
  volume_.set_hold_us_max(std::max(volume_.hold_us_max(), metrics.hold_us_max()));
  paced_ += metrics.paced();
  pace_us_ += metrics.pace_us_total();
  volume_.set_paced(std::max(volume_.paced(), paced_));
  volume_.set_paced_now(metrics.paced_now());
  volume_.set_pace_us_total(std::max(volume_.pace_us_total(), pace_us_));
  volume_.set_pace_us_max(std::max(volume_.pace_us_max(), metrics.pace_us_max()));
  volume_.set_failed_writes(std::max(volume_.failed_writes(), failed_writes_));
  return row;
}

void VolumeModel::restore(const HistoryRow& row) {
  (void)feed(row);
}

bool VolumeModel::feed(const HistoryRow& row) {
  const forecast::Sample sample{static_cast<double>(row.time_ms) / 1000.0, static_cast<double>(row.used),
                                static_cast<double>(row.allocated)};
  if (!forecaster_->observe(sample)) return false;
  axis_ms_ = row.time_ms;
  last_used_ = row.used;
  return true;
}

bool is_leaving(const v1::Segment& segment) {
  return segment.state() == v1::SEGMENT_STATE_DRAINING || segment.state() == v1::SEGMENT_STATE_FOLDING;
}

uint64_t lasting_capacity(const v1::Volume& volume) {
  return volume.capacity() - std::min(volume.leaving(), volume.capacity());
}

v1::Forecast VolumeModel::forecast() const {
  const uint64_t capacity = lasting_capacity(volume_);
  const uint64_t free = capacity > volume_.used() ? capacity - volume_.used() : 0;
  return make_forecast(*forecaster_, free, lead.p99_s());
}

v1::Forecast make_forecast(const forecast::Forecaster& forecaster, uint64_t free_bytes, double lead_p99_s) {
  v1::Forecast out;
  const auto free = static_cast<double>(free_bytes);
  out.set_time_to_full_p50_s(forecaster.time_to_full_s(free, 0.5).value_or(-1));
  out.set_time_to_full_p95_s(forecaster.time_to_full_s(free, 0.05).value_or(-1));
  out.set_growth_bytes_per_s(forecaster.components().trend_per_s);
  out.set_lead_time_p99_s(lead_p99_s);
  out.set_growth_p99_bytes(forecaster.growth_quantile(lead_p99_s, 0.99));
  out.set_samples(forecaster.samples());
  out.set_free_bytes(free_bytes);
  return out;
}

}  // namespace foreshadow::control
