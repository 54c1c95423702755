#include "sim/run.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "extent/checksum_page.h"
#include "extent/recovery.h"
#include "io/task.h"
#include "sim/workload.h"
#include "sim/world.h"

namespace foreshadow::sim {
namespace {

constexpr uint64_t kPatience = 400'000;  // steps after which something is called hung

class Run {
 public:
  Run(uint64_t seed, const SeedOptions& options) : world_(seed, options.faults, options.trace) {
    world_.call_fault = options.fault;
    if (!sweeps()) return;
    // Every call is to fail once: a run of many would take for ever.
    world_.swarm.lives = std::min(world_.swarm.lives, 3u);
    world_.swarm.life_steps = std::min(world_.swarm.life_steps, 120u);
  }

  // After a violation that left operations in flight, their owner cannot be destroyed: it is leaked, and the
  // program ends soon.
  ~Run() { (void)hung_.release(); }
  Run(const Run&) = delete;

  SeedResult run() {
    make_primary();
    for (uint32_t life = 0; life < world_.swarm.lives && world_.ok() && !astray(); ++life) {
      draw_fate();
      live();
      end_life();
    }
    if (world_.ok() && !astray()) final_look();
    for (const Backing* backing : world_.backings()) world_.note(backing->disk->crc());
    world_.note(world_.scheduler.steps());
    return {world_.crashes,  world_.operations, world_.faults, world_.squeezed, world_.data_faults,
            world_.refusals, world_.call_fault, world_.hash,   world_.violation};
  }

 private:
  using Opened = Result<volume::Volume::Opened>;

  // Data went nowhere, or elsewhere, or rotted in some life. A fold, a drain or a squeeze may have copied
  // what was read there; when a crash then makes its checksum unknown, it is served, as the rule has it. So
  // the run ends.
  bool astray() { return data_rotted_ || world_.ever_misled(); }
  bool fate() const { return world_.scheduler.steps() >= crash_at_; }
  bool sweeps() const { return world_.call_fault.at != 0; }
  bool chance(uint32_t percent) { return world_.rng.below(100) < percent; }

  // A crash while the volume is made leaves nothing anybody relies on: it is made again.
  void make_primary() {
    const Swarm& swarm = world_.swarm;
    volume::CreateOptions create = swarm.create;
    create.id = Uuid::random(world_.rng);
    world_.make_image();
    if (world_.base.disk != nullptr)
      create.base = volume::BaseImage{world_.base.uuid, swarm.base_bytes, "image"};
    all_known_ = world_.base.disk == nullptr;  // an image has no checksums
    for (bool crash = chance(15); world_.ok(); crash = false) {
      world_.primary.uuid = Uuid::random(world_.rng);
      world_.primary.disk = std::make_unique<Disk>(
          world_.scheduler, world_.rng, backing_bytes(swarm, swarm.primary_clusters, true), swarm.alignment);
      world_.primary.disk->shared = &world_.call_fault;
      world_.primary.disk->at_once = swarm.at_once;
      const auto file = world_.primary.disk->open();
      std::optional<Status> formatted;
      crash_at_ = crash ? world_.scheduler.steps() + world_.rng.below(40) : UINT64_MAX;
      io::spawn(volume::Volume::format_primary(*file, create, world_.primary.uuid),
                [&](Status&& status) { formatted = std::move(status); });
      world_.scheduler.run_until([&] { return formatted || fate(); });
      if (formatted && *formatted) return;
      if (formatted && !world_.any_failure())
        return world_.violate("format_primary: " + formatted->error().message);
      if (formatted) world_.call_fault.armed = false;  // it is tried again, with a good disk
      world_.power_off();
      if (!world_.scheduler.run_until([&] { return formatted.has_value(); }, kPatience)) {
        return world_.violate("format_primary hangs after the power went off");
      }
      if (world_.base.disk != nullptr) world_.base.disk->power_on();
    }
  }

  // When this life ends, how, and what goes wrong in it.
  void draw_fate() {
    Rng& rng = world_.rng;
    crash_at_ = world_.scheduler.steps() + 1 + rng.below(2 * world_.swarm.life_steps);
    if (rng.below(8) == 0) crash_at_ = world_.scheduler.steps() + 1 + rng.below(60);  // while it opens
    clean_ = chance(world_.swarm.clean_percent);
    world_.forget_failures();
    for (Backing* backing : world_.backings()) backing->disk->faults.slow_reads = world_.swarm.slow_reads;
    if (!world_.swarm.faults || rng.below(3) == 0) return;
    const auto backings = world_.backings();
    Disk& disk = *backings[rng.below(backings.size())]->disk;
    Faults& faults = disk.faults;
    const DiskCounts& so_far = disk.counts();
    const uint64_t ahead = 1 + rng.below(rng.below(2) == 0 ? 12 : 120);
    const uint64_t kind = rng.below(world_.swarm.create.checksums && all_known_ ? 6 : 4);
    if (kind >= 4) return draw_misled(kind == 4, ahead);
    if (kind == 0) faults.read_at = so_far.reads + ahead;
    if (kind == 1) faults.write_at = so_far.writes + ahead;
    if (kind == 2) faults.sync_at = so_far.syncs + 1 + ahead / 4;
    if (kind == 3) {
      faults.slow_at = so_far.reads + so_far.writes + so_far.syncs + ahead;
      faults.slow_by = std::chrono::milliseconds(1 + rng.below(3000));
    }
    faults.persistent = rng.below(2) == 0;
    world_.say("fault: kind {} in {} calls{}", kind, ahead, faults.persistent ? ", for good" : "");
  }

  // A write of data that goes nowhere, or elsewhere. In a life that follows no crash, so that everything has
  // a checksum, and nothing can be served wrong by rule.
  void draw_misled(bool phantom, uint64_t ahead) {
    Disk& disk = *world_.primary.disk;
    Faults& faults = disk.faults;
    faults.misled_from = data_offset(world_.primary);
    (phantom ? faults.phantom_at : faults.misdirect_at) = disk.counts().writes + ahead;
    const uint64_t room = disk.size() - faults.misled_from;
    faults.misdirect_to =
        faults.misled_from + align_down(world_.rng.below(room), std::max(disk.alignment(), kSector));
    world_.say("fault: {} data write in {} calls", phantom ? "phantom" : "misdirected", ahead);
  }
  static uint64_t data_offset(const Backing& backing) {
    std::vector<std::byte> block(extent::kMetaBlock);
    const auto label = extent::decode_label(backing.disk->peek(0, block), 0);
    return label ? label->layout.data_offset : backing.disk->size() - kSector;
  }

  // ---- a life

  void live() {
    auto files = world_.open_files();
    std::optional<Opened> opened;
    io::spawn(volume::Volume::open(world_.scheduler, std::move(files), world_.swarm.run),
              [&](Opened&& result) { opened.emplace(std::move(result)); });
    world_.scheduler.run_until([&] { return opened || fate(); }, kPatience);
    if (!opened) {
      world_.say("crash during open");
      cut_power();
      if (!world_.scheduler.run_until([&] { return opened.has_value(); }, kPatience)) {
        return world_.violate("open hangs after the power went off");
      }
      if (*opened) wind_down(std::move((*opened)->volume), nullptr);
      return;
    }
    if (!*opened) {
      if (world_.rotten) return world_.say("refused: {}", opened->error().message);
      if (world_.any_failure()) return world_.say("open failed: {}", opened->error().message);
      return world_.violate("open: " + opened->error().message);
    }
    world_.say("opened");
    const std::unique_ptr<volume::Volume>& volume = (*opened)->volume;
    recover_promises(*volume, (*opened)->orphans);
    serve(std::move((*opened)->volume));
  }

  void recover_promises(const volume::Volume& volume, const std::vector<Uuid>& orphans) {
    world_.check_promises(volume, orphans);
    // Some of those that were never attached are given up; the others are tried again.
    std::erase_if(world_.shadows, [&](const auto& s) {
      return !s->attached && s->disk.get() != rotten_ && world_.rng.below(2) == 0;
    });
    world_.forget_failures();
    for (Backing* backing : world_.backings()) backing->failed_syncs = backing->disk->counts().failed_syncs;
  }

  void serve(std::unique_ptr<volume::Volume> volume) {
    Workload workload(world_, *volume);
    const auto stop = [this] { return fate(); };
    workload.read_back(stop);
    while (!fate() && world_.ok()) {
      workload.pump();
      if (!world_.scheduler.step() && !workload.idle()) {
        world_.violate("nothing is left to happen, unfinished: " + workload.unfinished());
      }
    }
    if (world_.ok() && chance(world_.swarm.faults || sweeps() ? 60 : 15)) drain(workload, *volume);
    if (world_.ok() && world_.misled() && !fate()) workload.read_all(stop);
    if (world_.ok() && clean_) return close(std::move(volume), workload);
    workload.crashed();
    cut_power();
    wind_down(std::move(volume), &workload);
  }

  // With no new requests, all that are in flight complete.
  void drain(Workload& workload, const volume::Volume& volume) {
    if (!world_.scheduler.run_until([&] { return workload.idle(); }, kPatience)) {
      return world_.violate("hangs: " + workload.unfinished());
    }
    world_.say("drained");
    if (world_.misled()) workload.read_all([] { return false; });
    workload.check_usage();
    // Policy: a failed sync of a segment in service makes the volume read-only.
    if (world_.told_of_failed_sync() && volume.read_only_reason().empty()) {
      world_.violate("a sync failed, and the volume is not read-only");
    }
  }

  void close(std::unique_ptr<volume::Volume> volume, Workload& workload) {
    std::optional<Status> closed;
    workload.closing();
    world_.say("close");
    // Half of them are cut off in the middle.
    crash_at_ = chance(50) ? UINT64_MAX : world_.scheduler.steps() + world_.rng.below(60);
    io::spawn(volume->close(), [&](Status&& status) { closed = std::move(status); });
    const bool done = world_.scheduler.run_until([&] { return closed && workload.idle(); },
                                                 std::min(kPatience, crash_at_ - world_.scheduler.steps()));
    if (!done && !fate()) {
      hung_ = std::move(volume);
      return world_.violate("close hangs: " + workload.unfinished());
    }
    if (done && *closed) {
      world_.oracle.end_flush(world_.oracle.begin_flush());
      closed_clean_ = true;
    } else if (done && !world_.any_failure()) {
      world_.violate("close failed without cause: " + closed->error().message);
    }
    workload.crashed();
    cut_power();
    if (!world_.scheduler.run_until([&] { return closed && workload.idle(); }, kPatience)) {
      hung_ = std::move(volume);
      return world_.violate("close hangs after the power went off: " + workload.unfinished());
    }
    world_.say("closed: {}", *closed ? "ok" : closed->error().message);
    volume.reset();
  }

  // ---- its end

  // Every fourth time only the process dies. Then what the next one reads may be in no more than a cache; it
  // must not build on that before it has made it durable, or a later power cut takes back what a client has
  // seen and flushed.
  void cut_power() {
    const bool misled = world_.misled();
    world_.data_faults += misled ? 1 : 0;
    const bool only_the_process = (world_.hash + world_.crashes) % 4 == 0 && !world_.forgot() && !misled;
    world_.say("{}, {} sectors undecided on the primary", only_the_process ? "killed" : "power off",
               world_.primary.disk->undecided());
    only_the_process ? world_.kill_process() : world_.power_off();
    ++world_.crashes;
  }

  // The power is off: every operation fails, and the engine must come to its end all the same.
  void wind_down(std::unique_ptr<volume::Volume> volume, const Workload* workload) {
    std::optional<Status> closed;
    io::spawn(volume->close(), [&](Status&& status) { closed = std::move(status); });
    const auto ended = [&] { return closed && (workload == nullptr || workload->idle()); };
    if (world_.scheduler.run_until(ended, kPatience)) return;
    world_.violate("after the power went off the volume never ends: " +
                   (workload ? workload->unfinished() : std::string()));
    // It cannot be destroyed with operations in flight; the run ends here anyway.
    hung_ = std::move(volume);
  }

  void end_life() {
    if (hung_ || !world_.ok()) return;
    if (world_.primary.disk->powered()) world_.power_off();
    if (!world_.scheduler.run_until_idle(kPatience))
      return world_.violate("something is left running after the volume is gone");
    const DiskCounts failed = world_.failures();
    world_.faults += failed.failed_reads + failed.failed_writes + failed.failed_syncs;
    for (const Backing* backing : world_.backings()) backing->disk->faults = Faults();
    // A disk that failed for good has been replaced by one that works.
    if (world_.call_fault.injected > 0) world_.call_fault.armed = false;
    world_.power_on();
    if (rotten_) heal();
    world_.check_image();
    all_known_ = all_known_ && closed_clean_ && !world_.any_failure();
    if (std::exchange(closed_clean_, false)) {
      offline_check();
      if (world_.swarm.faults && chance(60)) world_.swarm.create.checksums&& chance(50) ? rot_data() : rot();
    }
  }

  void offline_check() {
    std::vector<io::File*> files;
    std::vector<std::unique_ptr<io::File>> opened;
    size_t base = extent::kNoBase;
    for (const Backing* backing : world_.backings()) {
      if (backing == &world_.base) base = files.size();
      if (backing != &world_.primary && !backing->attached)
        continue;  // a torn label of an orphan is no finding
      files.push_back(opened.emplace_back(backing->disk->open()).get());
    }
    const uint64_t failed_before = world_.all_failures().failed_reads;
    std::optional<extent::CheckReport> report;
    io::spawn(extent::check_segments(files, base), [&](extent::CheckReport&& r) { report = std::move(r); });
    world_.scheduler.run_until([&] { return report.has_value(); }, kPatience);
    if (!report) return world_.violate("check_segments hangs");
    if (world_.all_failures().failed_reads > failed_before) {
      if (report->ok()) world_.violate("a check that could not read found nothing wrong");
      return;
    }
    if (!report->ok()) world_.violate("check after a clean close: " + report->findings.front());
  }

  // Flips a bit of a squeezed cluster of a volume at rest: reads of it may fail, but not give anything else
  // than what was written. False: there is none.
  bool rot_squeezed() {
    std::vector<std::unique_ptr<io::File>> opened;
    std::vector<io::File*> files;
    if (world_.base.disk != nullptr) return false;  // what lies over an image is not squeezed
    std::vector<Backing*> backings;
    for (Backing* backing : world_.backings()) {
      if (backing != &world_.primary && !backing->attached) continue;
      backings.push_back(backing);
      files.push_back(opened.emplace_back(backing->disk->open()).get());
    }
    std::optional<Result<std::unique_ptr<extent::Recovered>>> recovered;
    io::spawn(extent::recover(files), [&](auto&& result) { recovered = std::move(result); });
    world_.scheduler.run_until([&] { return recovered.has_value(); }, kPatience);
    if (!recovered || !*recovered) return false;
    const extent::Recovered& volume = ***recovered;
    const extent::Geometry geometry = world_.swarm.create.geometry;
    for (size_t i = volume.segments.size(); i > 0; --i) {
      const extent::RecoveredSegment& segment = volume.segments[i - 1];
      const Pcn end = segment.row.pcn_base.next(segment.row.clusters);
      const Pcn pcn = volume.containers.next(segment.row.pcn_base, end);
      if (pcn.v == 0) continue;
      std::array<extent::Container::Member, extent::kMembers> members;
      const uint32_t count = volume.containers.find(pcn)->members(members);
      const extent::Pack pack = members[world_.rng.below(count)].pack;
      rotten_ = backings[segment.file]->disk.get();
      // In the header or soon behind it: not in what fills its last slot.
      rot_at_ = segment.layout.data_offset + uint64_t{pcn.v - segment.row.pcn_base.v} * geometry.cluster() +
                uint64_t{pack.slot()} * geometry.sub_block() + world_.rng.below(40);
      return true;
    }
    return false;
  }

  // Flips a bit of some stored sub-block that has a checksum. It may be refused; it may not be served.
  void rot_data() {
    std::vector<io::File*> files;
    std::vector<std::unique_ptr<io::File>> opened;
    const auto backings = world_.backings();
    size_t base = extent::kNoBase;
    for (const Backing* backing : backings) {
      if (backing == &world_.base) base = files.size();
      files.push_back(opened.emplace_back(backing->disk->open()).get());
    }
    std::optional<Result<std::unique_ptr<extent::Recovered>>> state;
    io::spawn(extent::recover(files, base), [&](auto&& result) { state.emplace(std::move(result)); });
    world_.scheduler.run_until([&] { return state.has_value(); }, kPatience);
    if (!state || !*state) return;  // an orphan with a torn label, say
    const extent::Recovered& volume = ***state;
    const Lcn lcn(static_cast<uint32_t>(world_.rng.below(volume.map.clusters())));
    const auto bit = static_cast<uint32_t>(world_.rng.below(extent::kSubBlocks));
    const extent::Mapping mapping = volume.map.get(lcn);
    if (mapping.is_squeezed()) return;  // rot_squeezed() is about those
    const Pcn owner = (mapping.mask_a >> bit & 1) != 0   ? mapping.a
                      : (mapping.mask_b >> bit & 1) != 0 ? mapping.b
                                                         : Pcn(0);
    for (const extent::RecoveredSegment& segment : volume.segments) {
      if (owner < segment.row.pcn_base || owner.v - segment.row.pcn_base.v >= segment.row.clusters) continue;
      const uint64_t index = uint64_t{owner.v - segment.row.pcn_base.v} * extent::kSubBlocks + bit;
      if (segment.checksums.get(index) == extent::kUnknownChecksum) return;
      const uint64_t sub_block = world_.swarm.create.geometry.sub_block();
      rotten_ = backings[segment.file]->disk.get();
      rot_at_ = segment.layout.data_offset + index * sub_block + world_.rng.below(sub_block);
      world_.damage = {lcn.v * world_.swarm.create.geometry.cluster() + bit * sub_block, sub_block, rotten_};
    }
    if (rotten_ == nullptr) return;
    rot_mask_ = static_cast<std::byte>(1u << world_.rng.below(8));
    rotten_->flip_bits(rot_at_, rot_mask_);
    rot_block_ = rotten_block();
    ++world_.faults;
    ++world_.data_faults;
    world_.say("rot of data: sub-block at sector {}", world_.damage->offset / kSector);
  }

  // Flips a bit of the metadata of a volume at rest. It may be refused; it may not serve anything wrong.
  void rot() {
    if (!chance(40) || !rot_squeezed()) choose_metadata();
    world_.rotten = true;
    rot_mask_ = static_cast<std::byte>(1u << world_.rng.below(8));
    rotten_->flip_bits(rot_at_, rot_mask_);
    rot_block_ = rotten_block();
    ++world_.faults;
    world_.say("rot at {}", rot_at_);
  }
  void choose_metadata() {
    auto backings = world_.backings();
    std::erase(backings, &world_.base);  // an image has none
    Backing* backing = backings[world_.rng.below(backings.size())];
    rotten_ = backing->disk.get();
    rot_at_ = world_.rng.below(metadata_of(*rotten_));
  }
  // Where the data of a backing begins, by its own label; the label's own place if it has none.
  static uint64_t metadata_of(const Disk& disk) {
    std::vector<std::byte> block(extent::kMetaBlock);
    const auto label = extent::decode_label(disk.peek(0, block), 0);
    return label ? label->layout.data_offset : extent::kLabelCopies * extent::kMetaBlock;
  }
  std::vector<std::byte> rotten_block() const {
    std::vector<std::byte> block(kSector);
    (void)rotten_->peek(align_down(rot_at_, kSector), block);
    return block;
  }
  // Puts the bit back, unless the engine has written the sector anew.
  void heal() {
    data_rotted_ = rot_at_ >= metadata_of(*rotten_);
    rotten_->heal_bits(rot_at_, rot_mask_, rot_block_);
    rotten_ = nullptr;
    world_.rotten = false;
    world_.damage.reset();
  }

  // After the last crash: recover once more, undisturbed, and read everything.
  void final_look() {
    crash_at_ = UINT64_MAX;
    world_.call_fault.armed = false;
    std::optional<Opened> opened;
    io::spawn(volume::Volume::open(world_.scheduler, world_.open_files(), world_.swarm.run),
              [&](Opened&& result) { opened.emplace(std::move(result)); });
    if (!world_.scheduler.run_until([&] { return opened.has_value(); }, kPatience))
      return world_.violate("the last open hangs");
    if (world_.rotten && !*opened) return;
    if (!*opened) return world_.violate("the last open: " + opened->error().message);
    recover_promises(*(*opened)->volume, (*opened)->orphans);
    {
      Workload workload(world_, *(*opened)->volume);
      workload.read_back([] { return false; });
      workload.crashed();
    }
    world_.power_off();
    wind_down(std::move((*opened)->volume), nullptr);
    if (!hung_) world_.scheduler.run_until_idle(kPatience);
  }

  World world_;
  uint64_t crash_at_ = UINT64_MAX;
  bool clean_ = false;
  bool closed_clean_ = false;
  bool all_known_ = true;  // no crash, and no failed write, has left anything without a checksum
  Disk* rotten_ = nullptr;
  uint64_t rot_at_ = 0;
  std::byte rot_mask_{};
  std::vector<std::byte> rot_block_;
  bool data_rotted_ = false;  // in the life before
  std::unique_ptr<volume::Volume> hung_;
};

}  // namespace

SeedResult run_seed(uint64_t seed, const SeedOptions& options) {
  Run run(seed, options);
  return run.run();
}

}  // namespace foreshadow::sim
