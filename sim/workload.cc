#include "sim/workload.h"

#include <algorithm>
#include <numeric>

#include "base/assert.h"
#include "extent/sealed_block.h"
#include "io/task.h"

namespace foreshadow::sim {
namespace {

// Making a shadow usable is two steps, either of which a crash may hit.
io::Task<Status> format_and_attach(volume::Volume& volume, Backing& shadow, extent::Geometry geometry) {
  if (!shadow.formatted) {
    const std::unique_ptr<io::File> file = shadow.disk->open();
    auto formatted =
        co_await volume::Volume::format_shadow(*file, volume.id(), shadow.uuid, geometry, volume.checksums());
    if (!formatted) co_return formatted;
    shadow.formatted = true;
  }
  shadow.attach_asked = true;
  volume::SegmentFile segment{shadow.uuid, shadow.disk->open()};
  auto attached = co_await volume.attach_shadow(std::move(segment));
  co_return attached;
}

// As format_and_attach(), of one that is to be the primary.
io::Task<Status> format_and_replace(volume::Volume& volume, Backing& next, volume::CreateOptions options) {
  options.id = volume.id();
  if (!next.formatted) {
    const std::unique_ptr<io::File> file = next.disk->open();
    auto formatted = co_await volume::Volume::format_next_primary(*file, options, next.uuid);
    if (!formatted) co_return formatted;
    next.formatted = true;
  }
  next.attach_asked = next.merge_asked = true;
  volume::SegmentFile segment{next.uuid, next.disk->open()};
  auto replaced = co_await volume.replace_primary(std::move(segment));
  co_return replaced;
}

}  // namespace

Workload::Workload(World& world, volume::Volume& volume) : world_(world), volume_(volume) {
  const auto& weights = world.swarm.weights;
  weight_total_ = std::accumulate(weights.begin(), weights.end(), 0u);
  for (uint32_t i = 0; i < world.swarm.queue_depth; ++i) {
    auto& slot = slots_.emplace_back(std::make_unique<Slot>());
    slot->owner = this;
    slot->memory = io::Buffer(world.swarm.io_max);
  }
  pause_.op.done = [](io::Op*, int) {};
}

Workload::~Workload() {
  world_.scheduler.cancel(pause_);
  ASSERT(idle() || !world_.ok());
}

Act Workload::draw() {
  uint64_t left = world_.rng.below(weight_total_);
  for (size_t i = 0;; ++i) {
    const uint32_t weight = world_.swarm.weights[i];
    if (left < weight) return static_cast<Act>(i);
    left -= weight;
  }
}

void Workload::pump() {
  if (pause_.armed()) return;
  while (in_flight_ < slots_.size() && controls_ < 3 && !pause_.armed() && world_.rng.below(3) != 0)
    start(draw());
}

void Workload::start(Act act) {
  switch (act) {
    case Act::kGrant:
      return grant();
    case Act::kActivate:
      return activate();
    case Act::kMerge:
      return merge();
    case Act::kFold:
    case Act::kDrain:
      return release(act);
    case Act::kResize:
      return resize();
    case Act::kCheckpoint:
      return checkpoint();
    case Act::kCheck:
      return check();
    case Act::kSqueeze:
      return squeeze();
    case Act::kScrub:
      return scrub();
    case Act::kPause:
      return pause();
    case Act::kGrow:
      return grow();
    case Act::kMove:
      return move_primary();
    default:
      break;
  }
  uint64_t offset = 0;
  uint64_t length = 0;
  if (act != Act::kFlush) draw_range(offset, length);
  request(act, offset, length, world_.rng.below(100) < world_.swarm.fua_percent);
}

// ---- requests

Workload::Slot& Workload::free_slot() {
  for (const auto& slot : slots_) {
    if (!slot->busy) return *slot;
  }
  ASSERT(false);
  return *slots_.front();
}

void Workload::draw_range(uint64_t& offset, uint64_t& length) {
  Rng& rng = world_.rng;
  const uint64_t unit = world_.swarm.granularity;
  const uint64_t size = world_.oracle.bytes();
  uint64_t longest = world_.swarm.io_max;
  while (longest > unit && rng.below(2) == 0) longest /= 2;
  length = align_up(1 + rng.below(longest), unit);
  const bool hot = world_.swarm.hot_bytes != 0 && rng.below(2) == 0;
  const uint64_t within = std::min(size, std::max(hot ? world_.swarm.hot_bytes : size, length));
  offset = align_down(rng.below(within), unit);
  if (rng.below(4) == 0) offset = align_down(offset, world_.swarm.create.geometry.cluster());
  length = std::min({length, world_.swarm.io_max, size - offset});
}

void Workload::request(Act act, uint64_t offset, uint64_t length, bool fua) {
  Slot& slot = free_slot();
  static_cast<block::Request&>(slot) = block::Request();
  slot.recovering = false;
  if (act == Act::kFlush) {
    slot.kind = block::OpKind::kFlush;
    slot.ticket = world_.oracle.begin_flush();
    return submit(slot);
  }
  slot.offset = offset;
  slot.length = length;
  if (act == Act::kRead) {
    slot.kind = block::OpKind::kRead;
    slot.data = slot.memory.first(slot.length);
    slot.ticket = world_.oracle.begin_read();
    return submit(slot);
  }
  slot.fua = fua;
  for (uint64_t at = offset; at < std::min(offset + length, world_.swarm.base_bytes); at += kSector)
    world_.touched[at / kSector] = true;
  if (act == Act::kWrite) {
    slot.kind = block::OpKind::kWrite;
    slot.data = slot.memory.first(slot.length);
    slot.op = world_.oracle.begin_write(slot.offset, slot.length, static_cast<uint16_t>(world_.crashes));
    world_.oracle.fill(slot.op, slot.data);
  } else if (act == Act::kTrim) {
    slot.kind = block::OpKind::kTrim;
    slot.op = world_.oracle.begin_trim(slot.offset, slot.length);
  } else {
    slot.kind = block::OpKind::kZero;
    slot.no_hole = act == Act::kZeroNoHole;
    slot.op = world_.oracle.begin_zero(slot.offset, slot.length);
  }
  submit(slot);
}

void Workload::submit(Slot& slot) {
  slot.busy = true;
  slot.since = world_.scheduler.now();
  slot.after_failed_sync = world_.told_of_failed_sync();
  slot.done = [](block::Request* request, Code code) {
    auto* done = static_cast<Slot*>(request);
    done->owner->on_done(*done, code);
  };
  ++in_flight_;
  ++world_.operations;
  world_.say("start {}{}{} {}+{} op {}", kKindNames[static_cast<size_t>(slot.kind)], slot.fua ? " fua" : "",
             slot.no_hole ? " no_hole" : "", slot.offset / kSector, slot.length / kSector, slot.op);
  if (!done_at_once(slot)) volume_.submit(slot);
  note_room();
}

// As a front end does that would rather have its answer now.
bool Workload::done_at_once(Slot& slot) {
  if (!world_.swarm.at_once || slot.fua) return false;
  const bool reads = slot.kind == block::OpKind::kRead;
  if (!reads && slot.kind != block::OpKind::kWrite) return false;
  if (!(reads ? volume_.read_now(slot.offset, slot.data) : volume_.write_now(slot.offset, slot.data)))
    return false;
  on_done(slot, Code::kOk);
  return true;
}

uint64_t Workload::start_read_back(uint64_t at) {
  Slot& slot = free_slot();
  static_cast<block::Request&>(slot) = block::Request();
  slot.kind = block::OpKind::kRead;
  slot.recovering = true;
  slot.offset = at;
  slot.length = std::min(world_.swarm.io_max, world_.oracle.bytes() - at);
  slot.data = slot.memory.first(slot.length);
  slot.op = 0;
  const uint64_t next = at + slot.length;
  submit(slot);
  return next;
}

void Workload::on_done(Slot& slot, Code code) {
  world_.note(uint64_t{static_cast<uint8_t>(code)} << 32 | static_cast<uint32_t>(slot.kind));
  world_.note(static_cast<uint64_t>(world_.scheduler.now().time_since_epoch().count()));
  world_.say("  done {} {}+{} op {}: {}{}", kKindNames[static_cast<size_t>(slot.kind)], slot.offset / kSector,
             slot.length / kSector, slot.op, name_of(code), crashed_ ? " (after the crash)" : "");
  slot.busy = false;
  --in_flight_;
  if (crashed_) return;
  note_room();
  note_size();
  judge(slot, code);
}

void Workload::judge(Slot& slot, Code code) {
  Oracle& oracle = world_.oracle;
  const bool ok = code == Code::kOk;
  if (!ok) judge_error(slot, code);
  switch (slot.kind) {
    case block::OpKind::kRead:
      if (slot.recovering) {
        if (!ok) return;
        check_holes(slot);
        if (auto wrong = oracle.check_recovered(slot.offset, slot.data)) world_.violate(*wrong);
        return;
      }
      if (ok) check_read(slot);
      return oracle.end_read(slot.ticket);
    case block::OpKind::kFlush:
      if (!ok) return;
      if (slot.after_failed_sync)
        world_.violate("a flush was acknowledged after a sync of the volume had failed");
      return oracle.end_flush(slot.ticket);
    case block::OpKind::kTrim:
    case block::OpKind::kZero:
    case block::OpKind::kWrite:
      if (ok && slot.fua && slot.after_failed_sync)
        world_.violate("a FUA request was acknowledged after a sync had failed");
      oracle.end(slot.op, ok, slot.fua);
      if (!ok && world_.damage && world_.damage->touches(slot.offset, slot.length))
        world_.damage->known = false;
      // Only if nothing that ran beside it can have made a hole.
      if (ok && slot.no_hole && in_flight_ == 0 && last_change_ < slot.since) check_holes(slot);
      if (slot.kind != block::OpKind::kWrite) last_change_ = world_.scheduler.now();
      return;
  }
}

std::string Workload::unfinished() const {
  std::string out = fmt::format("{} control operations", controls_);
  for (const auto& slot : slots_) {
    if (!slot->busy) continue;
    out += fmt::format(", {} {}+{} op {}", kKindNames[static_cast<size_t>(slot->kind)],
                       slot->offset / kSector, slot->length / kSector, slot->op);
  }
  return out;
}

// ---- the shadow's life

void Workload::control_began(const char* what) {
  ++controls_;
  ++world_.operations;
  world_.say("start {}", what);
}

bool Workload::control_ended(const char* what, const Status& status) {
  --controls_;
  last_change_ = world_.scheduler.now();
  world_.note(static_cast<uint64_t>(status ? Code::kOk : status.error().code) << 8 |
              static_cast<uint8_t>(what[0]));
  world_.say("  done {}: {}{}", what, status ? "ok" : status.error().message,
             crashed_ ? " (after the crash)" : "");
  if (crashed_) return false;
  const bool excused =
      world_.any_failure() || (closing_ && !status && status.error().code == Code::kShutdown);
  if (!status && !excused)
    world_.violate(fmt::format("{} failed without cause: {}", what, status.error().message));
  return true;
}

void Workload::grant() {
  Rng& rng = world_.rng;
  Backing* shadow = nullptr;
  // A repeat of what is done, and the second try after a crash, must succeed as well.
  for (const auto& known : world_.shadows) {
    if (!known->busy && !known->next_primary && (!known->attached || rng.below(8) == 0)) shadow = known.get();
  }
  if (shadow == nullptr) {
    if (world_.shadows.size() >= world_.swarm.shadows_max) return;
    auto fresh = std::make_unique<Backing>();
    fresh->uuid = Uuid::random(rng);
    const auto clusters = static_cast<uint32_t>(2 + rng.below(world_.swarm.shadow_clusters_max - 1));
    fresh->disk = std::make_unique<Disk>(world_.scheduler, rng, backing_bytes(world_.swarm, clusters, false),
                                         world_.swarm.alignment);
    fresh->disk->shared = &world_.call_fault;
    fresh->disk->at_once = world_.swarm.at_once;
    shadow = fresh.get();
    world_.shadows.push_back(std::move(fresh));
  }
  control_began("grant");
  shadow->busy = true;
  io::spawn(format_and_attach(volume_, *shadow, world_.swarm.create.geometry),
            [this, shadow](const Status& status) {
              shadow->busy = false;
              if (control_ended("grant", status) && status) shadow->attached = true;
            });
}

Backing* Workload::pick_attached() {
  std::vector<Backing*> attached;
  for (const auto& shadow : world_.shadows) {
    if (shadow->attached && !shadow->busy) attached.push_back(shadow.get());
  }
  return attached.empty() ? nullptr : attached[world_.rng.below(attached.size())];
}

void Workload::activate() {
  Backing* shadow = pick_attached();
  if (shadow == nullptr) return;
  control_began("activate");
  const Status status = volume_.activate_shadow(shadow->uuid);
  // Too late is a reason: a shadow sealed or merged is not activated again.
  const bool late = !status && status.error().code == Code::kFailedPrecondition;
  (void)control_ended("activate", late ? Status{} : status);
}

void Workload::merge() {
  Backing* shadow = pick_attached();
  if (shadow == nullptr) return;
  control_began("merge");
  shadow->merge_asked = true;
  io::spawn(volume_.merge_shadow(shadow->uuid), [this, shadow](const Status& status) {
    const bool leaving =
        !status && shadow->release_asked &&
        (status.error().code == Code::kFailedPrecondition || status.error().code == Code::kNotFound);
    if (control_ended("merge", leaving ? Status{} : status) && status) shadow->merged = true;
  });
}

bool Workload::is_as_it_was(const volume::SegmentInfo& primary) const {
  const volume::SegmentInfo now = volume_.segments().front();
  return now.uuid == primary.uuid && now.backing == primary.backing;
}

// The way back. What fails for want of room stays as it was.
void Workload::release(Act act) {
  Backing* shadow = pick_attached();
  if (shadow == nullptr) return;
  const char* what = act == Act::kFold ? "fold" : "drain";
  control_began(what);
  shadow->busy = shadow->release_asked = shadow->merge_asked =
      true;  // what cannot go is part of the volume after it
  const volume::SegmentInfo primary = volume_.segments().front();
  const uint64_t most = std::max(primary.backing, std::min(primary.backing_max, 2 * primary.backing));
  const uint64_t bytes = primary.backing + world_.rng.below(most - primary.backing + 1);
  auto job =
      act == Act::kFold ? volume_.fold_shadow(shadow->uuid, bytes) : volume_.drain_segment(shadow->uuid);
  const uint64_t damaged_before = volume_.stats().damaged_reads;
  io::spawn(std::move(job), [this, shadow, what, damaged_before, primary](const Status& status) {
    shadow->busy = false;
    const bool no_room =
        !status && (status.error().code == Code::kNoSpace ||
                    (what[0] == 'f' && status.error().code == Code::kFailedPrecondition) ||
                    // The primary that the size was meant for has been replaced or cut meanwhile.
                    (status.error().code == Code::kInvalidArgument && !is_as_it_was(primary)));
    // Rotten data does not go into an image, where nothing would tell; a rotten blob cannot be moved as
    // clusters.
    const bool refused = !status && may_refuse(status.error().code, shadow->uuid, damaged_before);
    if (refused) ++world_.refusals;
    if (!control_ended(what, no_room || refused ? Status{} : status)) return;
    if (status) world_.remove(shadow);
  });
}

// What moves data may say that it is not what was written: of a blob, wherever it lies, if it has met one
// that is damaged; of anything else, if that lies in the segment that is moved.
bool Workload::may_refuse(Code code, const Uuid& moved, uint64_t damaged_before) const {
  if (code != Code::kCorrupt) return false;
  if (volume_.stats().damaged_reads > damaged_before)
    return world_.rotten || world_.may_be_corrupt(0, world_.oracle.bytes());
  for (const Backing* backing : world_.backings()) {
    if (backing->uuid != moved) continue;
    return backing->disk->misled() || (world_.damage && world_.damage->disk == backing->disk.get());
  }
  return false;
}

void Workload::resize() {
  const auto segments = volume_.segments();
  const volume::SegmentInfo& segment = segments[world_.rng.below(segments.size())];
  const uint64_t unit = std::max<uint64_t>(world_.swarm.create.geometry.cluster(), extent::kMetaBlock);
  const uint64_t most = std::min(segment.backing_max, 2 * segment.backing);
  const uint64_t bytes =
      align_down(segment.backing / 2 + world_.rng.below(most - segment.backing / 2 + 1), unit);
  control_began("resize");
  const uint64_t damaged_before = volume_.stats().damaged_reads;
  auto job = volume_.resize_segment(segment.uuid, bytes);
  io::spawn(std::move(job), [this, moved = segment.uuid, damaged_before](const Status& status) {
    const bool no_room =
        !status &&
        (status.error().code == Code::kNoSpace || status.error().code == Code::kNotFound ||
         status.error().code == Code::kFailedPrecondition || status.error().code == Code::kInvalidArgument);
    const bool refused = !status && may_refuse(status.error().code, moved, damaged_before);
    (void)control_ended("resize", no_room || refused ? Status{} : status);
  });
}

void Workload::checkpoint() {
  control_began("checkpoint");
  io::spawn(volume_.checkpoint(),
            [this](const Status& status) { (void)control_ended("checkpoint", status); });
}

void Workload::check() {
  control_began("check");
  io::spawn(volume_.check(), [this](const Result<extent::CheckReport>& report) {
    if (!report) return void(control_ended("check", tl::unexpected(report.error())));
    if (report->ok() || world_.rotten) return void(control_ended("check", {}));
    (void)control_ended("check", fail(Code::kCorrupt, report->findings.front()));
  });
}

// Of any segment that is there; whether it is sealed or merged is the volume's to say. The client's data
// compresses far too well, so by lot blobs are made larger, or left.
void Workload::squeeze() {
  Rng& rng = world_.rng;
  const Backing* shadow = rng.below(2) == 0 ? nullptr : pick_attached();
  volume::SqueezeOptions options;
  options.how.codec = rng.below(2) == 0 ? extent::SqueezeCodec::kLz4 : extent::SqueezeCodec::kZstd;
  options.lots = rng.below(4) == 0 ? 0 : rng.next() | 1;
  control_began("squeeze");
  const Uuid uuid = shadow == nullptr ? world_.primary.uuid : shadow->uuid;
  io::spawn(volume_.squeeze_segment(uuid, options),
            [this, uuid](const Result<volume::SqueezeReport>& report) {
              if (report) {
                world_.say("  squeezed {} of {}, repacked {}, containers {}", report->squeezed, report->taken,
                           report->repacked, report->containers);
                world_.squeezed += report->squeezed;
                return void(control_ended("squeeze", {}));
              }
              // It may not be the segment's time, or it is gone, or there is no cluster to begin with.
              const Code code = report.error().code;
              const bool excused = code == Code::kNoSpace || code == Code::kFailedPrecondition ||
                                   (code == Code::kNotFound && uuid != world_.primary.uuid);
              (void)control_ended("squeeze", excused ? Status{} : tl::unexpected(report.error()));
            });
}

// Sometimes cut short, and sometimes slowly.
void Workload::scrub() {
  if (volume_.scrub_progress().running) return volume_.stop_scrub();
  control_began("scrub");
  volume::ScrubOptions options;
  if (world_.rng.below(3) == 0) options.bytes_per_s = 1 + world_.rng.below(100'000'000);
  if (world_.rng.below(3) == 0) options.from = volume_.scrub_progress().resume;
  const auto before = options.from.counts;
  io::spawn(volume_.scrub(options), [this, before](const Result<volume::ScrubProgress>& done) {
    const bool judged = control_ended("scrub", done ? Status{} : tl::unexpected(done.error()));
    if (!judged || !done) return;
    const volume::ScrubCounts& counts = done->now.counts;
    if (counts.corrupt > before.corrupt && !world_.rotten && !world_.may_be_corrupt(0, world_.oracle.bytes()))
      world_.violate(
          fmt::format("a scrub calls {} good sub-blocks corrupt", counts.corrupt - before.corrupt));
    if (counts.unreadable > before.unreadable && world_.failures().failed_reads == 0)
      world_.violate(fmt::format("a scrub calls {} sub-blocks unreadable", counts.unreadable));
  });
}

// Long enough for the idle timers, sometimes for the wall.
void Workload::pause() {
  world_.scheduler.arm(pause_, world_.scheduler.now() + Nanos(1'000'000 + world_.rng.below(60'000'000)));
}

// Several may be asked for at once; the largest wins, and a smaller one that comes later is refused.
void Workload::grow() {
  const uint64_t unit = world_.swarm.create.geometry.sub_block();
  const uint64_t now = volume_.info().size;
  if (now >= world_.swarm.size_max) return;
  const uint64_t size = std::min(world_.swarm.size_max,
                                 align_up(now + 1 + world_.rng.below(world_.swarm.size_max - now), unit));
  control_began("grow");
  world_.size_asked = std::max(world_.size_asked, size);
  io::spawn(volume_.grow(size), [this, size](const Status& status) {
    // At the wall the end of an image that must move first finds no place; and so does none that comes late.
    const bool excused =
        !status && (status.error().code == Code::kNoSpace ||
                    (status.error().code == Code::kInvalidArgument && size < volume_.info().size));
    if (!control_ended("grow", excused ? Status{} : status) || !status) return;
    if (volume_.info().size < size) world_.violate("grown, and the size does not show it");
    note_size();
  });
}

// What was asked for before a crash is tried again; so is what is done, sometimes.
void Workload::move_primary() {
  Rng& rng = world_.rng;
  if (world_.base.disk != nullptr) return;
  Backing* next = nullptr;
  for (const auto& known : world_.shadows) {
    if (known->next_primary && known->busy) return;  // one at a time
    if (known->next_primary && !known->release_asked) next = known.get();
  }
  if (next == nullptr) {
    if (world_.shadows.size() > world_.swarm.shadows_max) return;
    auto fresh = std::make_unique<Backing>();
    fresh->uuid = Uuid::random(rng);
    const auto clusters =
        static_cast<uint32_t>(world_.swarm.primary_clusters + rng.below(world_.swarm.primary_clusters + 1));
    fresh->disk = std::make_unique<Disk>(world_.scheduler, rng, backing_bytes(world_.swarm, clusters, true),
                                         world_.swarm.alignment);
    fresh->disk->shared = &world_.call_fault;
    fresh->disk->at_once = world_.swarm.at_once;
    fresh->next_primary = true;
    next = fresh.get();
    world_.shadows.push_back(std::move(fresh));
  }
  control_began("move");
  next->busy = true;
  io::spawn(format_and_replace(volume_, *next, world_.swarm.create), [this, next](const Status& status) {
    next->busy = false;
    const bool no_room = !status && (status.error().code == Code::kNoSpace ||
                                     status.error().code == Code::kFailedPrecondition);
    if (!control_ended("move", no_room ? Status{} : status)) return;
    const auto segments = volume_.segments();
    const bool attached = std::any_of(segments.begin(), segments.end(),
                                      [&](const auto& segment) { return segment.uuid == next->uuid; });
    next->attached = next->attached || (attached && (status || no_room));
    if (!status) return;
    if (segments[0].uuid != next->uuid) return world_.violate("moved, and the primary is another one");
    world_.change_primary(*next);
  });
}

// What was shown may be relied upon.
void Workload::note_size() {
  const uint64_t size = volume_.info().size;
  if (size < world_.size_promised) world_.violate(fmt::format("the size fell to {}", size));
  world_.size_promised = size;
  if (size > world_.oracle.bytes()) world_.oracle.grow(size);
}

}  // namespace foreshadow::sim
