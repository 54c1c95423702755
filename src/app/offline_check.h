#pragma once
// Checking a volume that nobody serves.
#include <string>

#include "base/error.h"
#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::app {

// Finds the volume called `name` in the pools of the agent of this state directory, and checks it from its
// segments alone. Only reads, unless `repair`: then what extent/repair.h can prove is made good first, and
// backings that were never attached are removed. kBusy while an agent runs on the directory, kNotFound if no
// pool has such a volume.
Result<v1::CheckReport> check_offline(const std::string& state_dir, const std::string& name, bool repair);

}  // namespace foreshadow::app
