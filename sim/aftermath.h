#pragma once
// What is done with disks after a crash that was chosen, not drawn: the real engine recovers them, and
// everything is read and judged.
#include <memory>

#include "sim/workload.h"
#include "sim/world.h"
#include "volume/volume.h"

namespace foreshadow::sim {

// Opens the volume of the world's disks and holds it against what was promised. Null after a violation.
std::unique_ptr<volume::Volume> open_volume(World& world);
// Ends a volume whose disks have no power any more.
void close_volume(World& world, std::unique_ptr<volume::Volume> volume, const Workload& workload);
// Both, and between them every byte is read and held against the oracle. What is wrong is in world.violation.
void recover_and_judge(World& world);

}  // namespace foreshadow::sim
