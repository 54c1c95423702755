#pragma once
// What changes a volume that is there, or makes one over an image.
#include <optional>

#include "app/commands.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::app {

// volume adopt-device, grow, set.
void add_volume_change_commands(CLI::App& volume, Invocation& invocation);
// nbd-resize.
void add_nbd_resize_command(CLI::App& app, Invocation& invocation);
// --backpressure.
void add_backpressure(CLI::App& command, std::optional<v1::Backpressure>* target);

}  // namespace foreshadow::app
