#pragma once
// What changes a volume that is there, or makes one over an image.
#include <algorithm>
#include <optional>

#include "app/commands.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::app {

// volume adopt-device, grow, set.
void add_volume_change_commands(CLI::App& volume, Invocation& invocation);
// nbd-resize.
void add_nbd_resize_command(CLI::App& app, Invocation& invocation);
// What is decided about a volume without being asked; what is left out stays, or is the default.
struct PolicyArguments {
  v1::MergeMode merge = v1::MERGE_MODE_UNSPECIFIED;
  std::optional<bool> reclaim;
  std::optional<uint32_t> reclaim_after_ms;
  std::optional<uint32_t> reclaim_after_s() const {
    if (!reclaim_after_ms) return std::nullopt;
    return std::max(1u, *reclaim_after_ms / 1000);
  }
};
// --merge, --reclaim, --reclaim-after.
void add_policy_options(CLI::App& command, PolicyArguments& arguments);
// --backpressure.
void add_backpressure(CLI::App& command, std::optional<v1::Backpressure>* target);

}  // namespace foreshadow::app
