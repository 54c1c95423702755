#pragma once
// Sense of what agents report. An agent may be broken, old or hostile: what it says is judged before it
// becomes state, and nonsense is refused with its value (peers grew volumes to their limit because a reading
// was 0).
#include <string>
#include <string_view>

#include "base/error.h"
#include "foreshadow/v1/agent.pb.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::control {

// Identity, sizes, segments. Every error is kInvalidArgument and names the value.
Status check_volume_report(const v1::Volume& volume);
Status check_pool_report(const v1::Pool& pool);
Status check_hello(const v1::Hello& hello);  // the agent's own words; volumes and pools are judged one by one
// One interval's counts, for a volume of this logical size.
Status check_metrics(const v1::VolumeMetrics& metrics, uint64_t volume_size);
// An agent's own words as they may enter the record: at most 400 bytes, control bytes replaced.
std::string printable(std::string_view words);

}  // namespace foreshadow::control
