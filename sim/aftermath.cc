#include "sim/aftermath.h"

#include <optional>
#include <utility>

#include "io/task.h"

namespace foreshadow::sim {
namespace {

constexpr uint64_t kPatience = 100'000;

}  // namespace

std::unique_ptr<volume::Volume> open_volume(World& world) {
  std::optional<Result<volume::Volume::Opened>> opened;
  io::spawn(volume::Volume::open(world.scheduler, world.open_files(), world.swarm.run),
            [&](Result<volume::Volume::Opened>&& result) { opened.emplace(std::move(result)); });
  world.scheduler.run_until([&] { return opened.has_value(); }, kPatience);
  if (!opened || !*opened) {
    world.violate(opened ? "open: " + opened->error().message : "open hangs");
    return nullptr;
  }
  world.check_promises(*(*opened)->volume, (*opened)->orphans);
  return std::move((*opened)->volume);
}

void close_volume(World& world, std::unique_ptr<volume::Volume> volume, const Workload& workload) {
  bool closed = false;
  io::spawn(volume->close(), [&](Status&&) { closed = true; });
  if (world.scheduler.run_until([&] { return closed && workload.idle(); }, kPatience)) return;
  world.violate("close hangs after the power went off: " + workload.unfinished());
  (void)volume.release();  // it cannot be destroyed with operations in flight
}

void recover_and_judge(World& world) {
  std::unique_ptr<volume::Volume> volume = open_volume(world);
  if (volume == nullptr) return;
  Workload workload(world, *volume);
  workload.read_back([] { return false; });
  world.power_off();
  close_volume(world, std::move(volume), workload);
}

}  // namespace foreshadow::sim
