#include "agent/telemetry.h"

#include <algorithm>
#include <limits>

namespace foreshadow::agent {
namespace {

void add_histogram(const block::Log2Histogram& before, const block::Log2Histogram& now,
                   google::protobuf::RepeatedField<uint64_t>* out) {
  size_t used = now.buckets.size();
  while (used > 0 && now.buckets[used - 1] == before.buckets[used - 1]) --used;
  for (size_t i = 0; i < used; ++i) out->Add(now.buckets[i] - before.buckets[i]);
}

}  // namespace

v1::VolumeMetrics make_metrics(const Uuid& volume, const volume::Usage& usage, const block::IoStats& before,
                               const block::IoStats& now) {
  v1::VolumeMetrics out;
  out.set_volume_id(volume.str());
  out.set_used(usage.used);
  out.set_physical(usage.physical);
  out.set_capacity(usage.capacity);
  out.set_data(usage.data);
  out.set_map_memory_bytes(usage.map_memory);
  out.set_logical(logical_of(usage));
  *out.mutable_squeezed() = to_api(usage.squeezed);
  out.set_damaged_reads(now.damaged_reads - before.damaged_reads);
  out.set_read_ops(now.read_ops - before.read_ops);
  out.set_read_bytes(now.read_bytes - before.read_bytes);
  out.set_write_ops(now.write_ops - before.write_ops);
  out.set_write_bytes(now.write_bytes - before.write_bytes);
  out.set_allocated_bytes(now.allocated_bytes - before.allocated_bytes);
  out.set_freed_bytes(now.freed_bytes - before.freed_bytes);
  out.set_trim_ops(now.trim_ops - before.trim_ops);
  out.set_flushes(now.flushes - before.flushes);
  out.set_holds(now.holds - before.holds);
  out.set_failed_writes(now.failed_writes - before.failed_writes);
  out.set_paced(now.paced - before.paced);
  out.set_paced_now(now.paced_now);
  out.set_pace_us_total(now.pace_us_total - before.pace_us_total);
  out.set_pace_us_max(now.pace_us_max);
  out.set_held_now(now.held_now);
  out.set_hold_us_max(now.hold_us_max);
  out.set_queue_depth_max(now.queue_depth_max);
  const uint64_t moved = out.read_ops() + out.write_ops();
  const uint64_t sequential = std::min(now.sequential_ops - before.sequential_ops, moved);
  if (moved > 0) out.set_sequential_share(static_cast<double>(sequential) / static_cast<double>(moved));
  add_histogram(before.block_size, now.block_size, out.mutable_block_size_histogram());
  add_histogram(before.read_latency_us, now.read_latency_us, out.mutable_read_latency_us_histogram());
  add_histogram(before.write_latency_us, now.write_latency_us, out.mutable_write_latency_us_histogram());
  return out;
}

v1::Metrics Telemetry::take(const std::map<Uuid, std::shared_ptr<VolumeHost>>& hosts, uint64_t now_ms,
                            MonoTime now) {
  v1::Metrics out;
  out.set_time_ms(now_ms);
  const auto passed =
      taken_ ? std::chrono::duration_cast<std::chrono::milliseconds>(now - taken_at_).count() : 0;
  out.set_interval_ms(
      static_cast<uint32_t>(std::clamp<int64_t>(passed, 0, std::numeric_limits<uint32_t>::max())));
  taken_at_ = now;
  taken_ = true;
  std::map<Uuid, block::IoStats> after;
  for (const auto& [id, host] : hosts) {
    const block::IoStats& stats = host->volume().stats();
    v1::VolumeMetrics& metrics = *out.add_volumes();
    metrics = make_metrics(id, host->volume().usage(), before_[id], stats);
    for (const volume::SegmentInfo& segment : host->volume().segments()) {
      v1::SegmentUse& use = *metrics.add_segments();
      use.set_id(segment.id.v);
      use.set_used(segment.used);
    }
    metrics.set_checksum_errors(stats.checksum_errors);
    *metrics.mutable_scrub() = host->report().scrub();
    metrics.set_leaving(leaving_capacity(host->volume()));
    v1::Job job;
    if (report_job(host->volume(), &job)) *metrics.mutable_job() = std::move(job);
    after.emplace(id, stats);
  }
  before_ = std::move(after);  // and so forgets volumes that are gone
  return out;
}

void Telemetry::on_hello(const std::map<Uuid, std::shared_ptr<VolumeHost>>& hosts) {
  for (const auto& [id, host] : hosts) {
    const block::IoStats& stats = host->volume().stats();
    block::IoStats& before = before_[id];
    before.holds = stats.holds;
    before.failed_writes = stats.failed_writes;
    before.paced = stats.paced;
    before.pace_us_total = stats.pace_us_total;
  }
}

}  // namespace foreshadow::agent
