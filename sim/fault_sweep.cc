#include "sim/fault_sweep.h"

#include <fmt/format.h>

#include <cerrno>

#include "sim/run.h"

namespace foreshadow::sim {
namespace {

constexpr uint64_t kCallsMax = 20'000;  // of one short run; more would be a run that never ends

}  // namespace

SweepResult sweep_faults(uint64_t seed) {
  SweepResult result;
  for (uint64_t at = 1; at <= kCallsMax; ++at) {
    CallFault::Kind kind = CallFault::Kind::kNone;
    for (const int error : {EIO, ENOSPC}) {
      if (error == ENOSPC && kind == CallFault::Kind::kRead) continue;
      for (const bool persistent : {false, true}) {
        SeedOptions options;
        options.fault.at = at;
        options.fault.error = error;
        options.fault.persistent = persistent;
        const SeedResult run = run_seed(seed, options);
        if (!run.violation.empty()) {
          result.violation =
              fmt::format("seed {}, call {} fails with {}{}: {}", seed, at, error == EIO ? "EIO" : "ENOSPC",
                          persistent ? " for good" : "", run.violation);
          return result;
        }
        if (run.fault.injected == 0) return result;  // there are no more calls
        kind = run.fault.met;
        ++result.runs;
        result.faults += run.fault.injected;
      }
    }
    ++result.indices;
    result.reads += kind == CallFault::Kind::kRead ? 1 : 0;
    result.writes += kind == CallFault::Kind::kWrite ? 1 : 0;
    result.syncs += kind == CallFault::Kind::kSync ? 1 : 0;
  }
  result.violation = fmt::format("seed {}: more than {} calls", seed, kCallsMax);
  return result;
}

}  // namespace foreshadow::sim
