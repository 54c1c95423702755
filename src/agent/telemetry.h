#pragma once
// What the volumes did in an interval. Counting happens on the I/O path, in plain integers
// (block/io_stats.h); here the counts are compared with those of the interval before.
#include <cstdint>
#include <map>
#include <memory>

#include "agent/volume_host.h"
#include "base/uuid.h"
#include "block/io_stats.h"
#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::agent {

// The counts of `now` that are not in `before`, with the usage of now.
v1::VolumeMetrics make_metrics(const Uuid& volume, const volume::Usage& usage, const block::IoStats& before,
                               const block::IoStats& now);

// On the loop. Counts that are not taken stay for the next take(), so a time without control is one long
// interval.
class Telemetry {
 public:
  // `now_ms` is wall-clock time, `now` the executor's.
  v1::Metrics take(const std::map<Uuid, std::shared_ptr<VolumeHost>>& hosts, uint64_t now_ms, MonoTime now);
  // A Hello tells totals of writes held and failed: the next interval counts from there.
  void on_hello(const std::map<Uuid, std::shared_ptr<VolumeHost>>& hosts);

 private:
  std::map<Uuid, block::IoStats> before_;
  MonoTime taken_at_{};
  bool taken_ = false;
};

}  // namespace foreshadow::agent
