#pragma once
// Recorded traffic, sent to an NBD export.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "app/trace.h"
#include "base/error.h"

namespace foreshadow::app {

struct ReplaySummary {
  uint64_t ops = 0;
  uint64_t errors = 0;
  std::string first_error;
  uint64_t bytes = 0;  // read and written, of operations that succeeded
  double seconds = 0;
  // Latencies of operations that succeeded.
  uint64_t latency_us_p50 = 0;
  uint64_t latency_us_p99 = 0;
  uint64_t latency_us_max = 0;
};

// Called now and then with how many operations are done.
using ReplayProgress = std::function<void(uint64_t done)>;

// Sends each operation when its time has come, divided by `speed`; 0 sends as fast as the export answers. At
// most 128 are under way; an operation that has to wait for that is late, and its latency counts from when it
// was sent. Operations longer than what NBD clients may send in one go are cut. kInvalidArgument names the
// first line that lies past the export's end.
Result<ReplaySummary> replay(const std::vector<TraceOp>& ops, const std::string& file, const std::string& uri,
                             double speed, const ReplayProgress& progress);

// The value below which `share` (0..1) of the sorted values lie; 0 for none.
uint64_t percentile(const std::vector<uint64_t>& sorted, double share);

}  // namespace foreshadow::app
