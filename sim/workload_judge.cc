// What the client holds an answer, and a volume at rest, against.
#include <algorithm>
#include <cerrno>

#include "extent/sealed_block.h"
#include "sim/workload.h"

namespace foreshadow::sim {

// What a first touch may still take.
uint64_t Workload::room_now() const {
  uint64_t room = 0;
  for (const volume::SegmentInfo& segment : volume_.segments()) {
    if (segment.role == volume::SegmentRole::kBase) continue;  // its places are nobody else's
    const bool takes = segment.state == volume::SegmentState::kWarm ||
                       segment.state == volume::SegmentState::kActive ||
                       segment.state == volume::SegmentState::kMerged;
    if (takes) room += segment.capacity - segment.used;
  }
  return room;
}

void Workload::note_room() {
  const MonoTime now = world_.scheduler.now();
  if (now != room_latest_.at) room_before_ = room_latest_;
  room_latest_ = {now, room_now()};
}

// An error must have a reason the client can know of.
void Workload::judge_error(Slot& slot, Code code) {
  if (code == Code::kShutdown && closing_) return;
  // A squeezed cluster may be the rotten one, and who writes a part of a sub-block reads it first. One that
  // went astray is found out by its own checksum as well.
  const bool blob = code == Code::kCorrupt && world_.rotten && volume_.stats().damaged_reads > 0;
  if (blob) return;
  if (code == Code::kCorrupt && world_.may_be_corrupt(slot.offset, slot.length)) {
    ++world_.refusals;
    return;
  }
  const bool allocates = slot.kind == block::OpKind::kWrite || slot.kind == block::OpKind::kZero ||
                         slot.kind == block::OpKind::kTrim;
  // The disk may have said so itself.
  const bool told = world_.call_fault.error == ENOSPC && world_.any_failure();
  if (code == Code::kNoSpace && allocates && !told) {
    const Nanos waited = world_.scheduler.now() - slot.since;
    if (waited < world_.swarm.run.hold_timeout) {
      world_.violate(fmt::format("no space after {} us, before the hold timeout", waited.count() / 1000));
    }
    // Even if everything else in flight took what it could, this one would have found room.
    const uint64_t room = std::min(room_before_.bytes, room_now());
    const uint64_t cluster = world_.swarm.create.geometry.cluster();
    uint64_t wanted = slot.length + 2 * cluster;
    for (const auto& other : slots_) wanted += other->busy ? other->length + 2 * cluster : 0;
    if (room >= wanted && last_change_ < slot.since && controls_ == 0) {
      world_.violate(fmt::format("no space for {} bytes, yet {} bytes are free", slot.length, room));
    }
    return;
  }
  // No error of a disk makes good data look bad.
  const bool excused = code == Code::kCorrupt              ? false
                       : slot.kind == block::OpKind::kRead ? world_.failures().failed_reads > 0
                                                           : world_.any_failure();
  if (excused) return;
  world_.violate(fmt::format("{} of sectors {}+{} failed without cause: {}",
                             kKindNames[static_cast<size_t>(slot.kind)], slot.offset / kSector,
                             slot.length / kSector, name_of(code)));
}

// All of what was read, but for a rotten sub-block of which nothing is known.
void Workload::check_read(const Slot& slot) {
  const auto check = [&](uint64_t from, uint64_t to) {
    if (from >= to) return;
    const auto bytes = slot.data.subspan(from - slot.offset, to - from);
    if (auto wrong = world_.oracle.check_read(slot.ticket, from, bytes)) world_.violate(*wrong);
  };
  const uint64_t end = slot.offset + slot.length;
  if (!world_.damage || !world_.damage->touches(slot.offset, slot.length) || damage_is_known())
    return check(slot.offset, end);
  check(slot.offset, world_.damage->offset);
  check(world_.damage->offset + world_.damage->length, end);
}

bool Workload::damage_is_known() const {
  const World::Damage& damage = *world_.damage;
  return damage.known && std::none_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
           return slot->busy && slot->kind != block::OpKind::kRead && slot->kind != block::OpKind::kFlush &&
                  damage.touches(slot->offset, slot->length);
         });
}

// A hole reads as zero; a range zeroed with no_hole has none.
void Workload::check_holes(const Slot& slot) {
  uint64_t at = slot.offset;
  for (const block::Extent& extent : volume_.extents(slot.offset, slot.length, SIZE_MAX)) {
    if (extent.length == 0 || extent.length > slot.offset + slot.length - at) {
      return world_.violate(fmt::format("an extent of {} bytes at {}", extent.length, at));
    }
    if (extent.hole && slot.no_hole) world_.violate(fmt::format("a hole at {} after zero with no_hole", at));
    if (extent.hole && slot.kind == block::OpKind::kRead) {
      const auto bytes = slot.data.subspan(at - slot.offset, extent.length);
      if (!extent::all_zero(bytes)) {
        world_.violate(fmt::format("the hole at {}+{} does not read as zero", at, extent.length));
      }
    }
    at += extent.length;
  }
  if (at != slot.offset + slot.length)
    world_.violate(fmt::format("extents end at {}, asked up to {}", at, slot.offset + slot.length));
}

void Workload::check_usage() {
  const volume::Usage usage = volume_.usage();
  uint64_t capacity = 0;
  uint64_t used = 0;
  uint32_t active = 0;
  for (const volume::SegmentInfo& segment : volume_.segments()) {
    if (segment.used > segment.capacity)
      world_.violate(fmt::format("segment {} uses more than it has", segment.id.v));
    capacity += segment.role == volume::SegmentRole::kBase ? segment.used : segment.capacity;
    used += segment.used;
    active += segment.state == volume::SegmentState::kActive ? 1 : 0;
  }
  const block::IoStats& stats = volume_.stats();
  if (stats.paced_now + stats.held_now > 0) {
    world_.violate(
        fmt::format("{} writes are paced and {} held, with none in flight", stats.paced_now, stats.held_now));
  }
  if (active > 1) world_.violate(fmt::format("{} shadows are active, at most one can be", active));
  uint64_t mapped = 0;
  uint64_t covered = 0;
  for (const block::Extent& extent : volume_.extents(0, usage.size, SIZE_MAX)) {
    covered += extent.length;
    if (!extent.hole) mapped += align_up(extent.length, world_.swarm.create.geometry.sub_block());
  }
  if (usage.size != world_.oracle.bytes() || covered != usage.size || usage.capacity != capacity ||
      usage.used != used || usage.data > usage.used + usage.squeezed.logical - usage.squeezed.physical ||
      mapped != usage.data) {
    world_.violate(
        fmt::format("usage does not add up: size {} (extents cover {}), capacity {} (segments {}), used {} "
                    "(segments {}), "
                    "data {} (extents {})",
                    usage.size, covered, usage.capacity, capacity, usage.used, used, usage.data, mapped));
  }
}

}  // namespace foreshadow::sim
