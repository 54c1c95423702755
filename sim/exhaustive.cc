#include "sim/exhaustive.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "io/task.h"
#include "sim/aftermath.h"
#include "sim/workload.h"
#include "sim/world.h"

namespace foreshadow::sim {
namespace {

constexpr size_t kUndecidedMax =
    10;  // 2^10 subsets of one crash point are enumerated, beyond that 256 are drawn
constexpr uint64_t kCluster = 8192;
constexpr uint64_t kPatience = 100'000;

struct Step {
  const char* name;
  Act act;
  uint64_t offset, length;
  bool fua;
};

// Small, but each meets another: first touch, overwrite, partly trimmed, emptied, squeezed, and the life of a
// shadow.
constexpr Step kSteps[] = {
    {"write", Act::kWrite, 0, 1024, false},
    {"write+fua", Act::kWrite, 512, 1024, true},
    {"write-full", Act::kWrite, 0, 2 * kCluster, false},
    {"write-two", Act::kWrite, kCluster - 512, 1024, false},
    {"zero", Act::kZero, 0, 1024, false},
    {"zero-no-hole", Act::kZeroNoHole, 512, 512, false},
    {"trim", Act::kTrim, 0, 2 * kCluster, false},
    {"flush", Act::kFlush, 0, 0, false},
    {"grant", Act::kGrant, 0, 0, false},
    {"activate", Act::kActivate, 0, 0, false},
    {"merge", Act::kMerge, 0, 0, false},
    {"fold", Act::kFold, 0, 0, false},
    {"drain", Act::kDrain, 0, 0, false},
    {"resize", Act::kResize, 0, 0, false},
    {"checkpoint", Act::kCheckpoint, 0, 0, false},
    {"squeeze", Act::kSqueeze, 0, 0, false},
    {"scrub", Act::kScrub, 0, 0, false},
    {"grow", Act::kGrow, 0, 0, false},
    {"move", Act::kMove, 0, 0, false},
};

Swarm fixed_swarm(volume::Redirect redirect, bool over) {
  Swarm out;
  out.create.geometry.sub_block_bits = 9;
  out.create.name = "explored";
  out.create.size = 4 * kCluster;
  out.create.redirect = redirect;
  out.create.checksums = redirect == volume::Redirect::kAll;
  out.journal_blocks = 4;
  out.create.journal_bytes = uint64_t{out.journal_blocks} * extent::kMetaBlock;
  out.primary_clusters = 3;
  out.shadow_clusters_max = 2;
  out.shadows_max = 2;
  out.queue_depth = 8;
  out.io_max = 4 * kCluster;
  out.run.hold_timeout = std::chrono::milliseconds(5);
  out.run.commit_idle = std::chrono::milliseconds(1);
  out.weights.fill(1);
  if (over) {  // one and a bit cluster, which ends in the middle of a sub-block
    out.create.geometry.sub_block_bits = 10;
    out.base_bytes = out.create.size = 2 * kCluster + 3 * kSector;
  }
  out.size_max = 8 * kCluster;
  return out;
}

std::unique_ptr<World> make_world(const Swarm& swarm, bool trace) {
  auto world = std::make_unique<World>(1, false, trace);
  world->swarm = swarm;
  world->oracle = Oracle(swarm.create.size, swarm.create.geometry.sub_block(), 1);
  world->scheduler.set_orderly(true);
  return world;
}

class Explorer {
 public:
  explicit Explorer(bool trace) : trace_(trace) {}
  ExploreResult result;

  // `together`: all are started at once, else each when the one before has ended.
  void run(const std::vector<size_t>& sequence, volume::Redirect redirect, bool over, bool together) {
    ++result.sequences;
    name_ = together ? "together:" : "in turn:";
    if (redirect == volume::Redirect::kAll) name_ = "redirect all, " + name_;
    if (over) name_ = "over, " + name_;
    for (const size_t step : sequence) name_ += fmt::format(" {}", kSteps[step].name);
    const auto owned = make_world(fixed_swarm(redirect, over), trace_);
    World& world = *owned;
    world.say("{}", name_);
    make_primary(world);
    std::unique_ptr<volume::Volume> volume = open_volume(world);
    if (volume == nullptr) return note(world);
    {
      Workload workload(world, *volume);
      seen_ = UINT64_MAX;
      for (const size_t step : sequence) {
        const Step& what = kSteps[step];
        what.act >= Act::kGrant ? workload.start(what.act)
                                : workload.request(what.act, what.offset, what.length, what.fua);
        look(world);
        while (!together && !workload.idle() && world.scheduler.step() && world.ok()) look(world);
      }
      while (world.ok() && world.scheduler.step()) look(world);
      if (!workload.idle()) world.violate("hangs: " + workload.unfinished());
      workload.crashed();
      world.power_off();
      close_volume(world, std::move(volume), workload);
    }
    note(world);
  }

 private:
  void make_primary(World& world) {
    world.primary.uuid = Uuid::random(world.rng);
    world.primary.disk =
        std::make_unique<Disk>(world.scheduler, world.rng, backing_bytes(world.swarm, 3, true), 512);
    volume::CreateOptions create = world.swarm.create;
    create.id = Uuid::random(world.rng);
    world.make_image();
    if (world.base.disk != nullptr)
      create.base = volume::BaseImage{world.base.uuid, world.swarm.base_bytes, "image"};
    const auto file = world.primary.disk->open();
    io::spawn(volume::Volume::format_primary(*file, create, world.primary.uuid), [&](Status&& status) {
      if (!status) world.violate("format_primary: " + status.error().message);
    });
    world.scheduler.run_until_idle(kPatience);
  }

  void note(const World& world) {
    if (!world.ok() && result.violation.empty()) result.violation = name_ + ": " + world.violation;
  }

  // Cuts the power here if anything that decides the outcome has changed since the last time.
  void look(World& world) {
    uint64_t version = world.oracle.clock();
    size_t undecided = 0;
    for (const Backing* backing : world.backings()) {
      version = version * 1'000'003 + backing->disk->changes();
      undecided += backing->disk->undecided();
    }
    if (version == seen_) return;
    seen_ = version;
    ++result.crash_points;
    const bool all = undecided <= kUndecidedMax;
    result.sampled_points += all ? 0 : 1;
    const uint64_t states = all ? uint64_t{1} << undecided : 256;
    kept_.assign(std::max<size_t>(undecided, 1), 0);
    for (uint64_t state = 0; state < states && world.ok(); ++state) {
      for (size_t i = 0; i < undecided; ++i) kept_[i] = all ? state >> i & 1 : world.rng.below(2);
      recover(world);
    }
  }

  // Recovers from the disks with just the kept sectors, and reads everything.
  void recover(World& origin) {
    ++result.states;
    const auto owned = make_world(origin.swarm, false);
    World& world = *owned;
    world.oracle = origin.oracle;
    world.oracle.crash();
    std::span<const uint8_t> kept = kept_;
    const auto copy = [&](const Backing& from, Backing& to) {
      to.uuid = from.uuid;
      to.formatted = from.formatted;
      to.attach_asked = from.attach_asked;
      to.attached = from.attached;
      to.merge_asked = from.merge_asked;
      to.release_asked = from.release_asked;
      to.merged = from.merged;
      to.next_primary = from.next_primary;
      const size_t count = from.disk->undecided();
      to.disk = std::make_unique<Disk>(world.scheduler, *from.disk, kept.first(count));
      kept = kept.subspan(count);
    };
    copy(origin.primary, world.primary);
    if (origin.base.disk != nullptr) copy(origin.base, world.base);
    world.image_op = origin.image_op;
    world.touched = origin.touched;
    world.size_asked = origin.size_asked;
    world.size_promised = origin.size_promised;
    for (const auto& shadow : origin.shadows)
      copy(*shadow, *world.shadows.emplace_back(std::make_unique<Backing>()));
    recover_and_judge(world);
    world.check_image();
    if (!world.ok()) {
      std::string which;
      for (const uint8_t one : kept_) which += one != 0 ? '1' : '0';
      origin.violate(
          fmt::format("crash at step {}, kept {}: {}", origin.scheduler.steps(), which, world.violation));
    }
  }

  const bool trace_;
  std::string name_;
  uint64_t seen_ = 0;
  std::vector<uint8_t> kept_;
};

}  // namespace

ExploreResult explore(uint32_t depth, bool trace) {
  Explorer explorer(trace);
  std::vector<size_t> sequence;
  for (uint32_t length = 1; length <= depth; ++length) {
    sequence.assign(length, 0);
    for (bool more = true; more;) {
      for (const auto redirect : {volume::Redirect::kAllocating, volume::Redirect::kAll}) {
        for (const bool over : {false, true}) {
          for (const bool together : {false, true}) {
            if (together && length == 1) continue;
            explorer.run(sequence, redirect, over, together);
            if (!explorer.result.violation.empty()) return explorer.result;
          }
        }
      }
      more = false;
      for (size_t& step : sequence) {  // the next number in base std::size(kSteps)
        if (++step < std::size(kSteps)) {
          more = true;
          break;
        }
        step = 0;
      }
    }
  }
  return explorer.result;
}

}  // namespace foreshadow::sim
