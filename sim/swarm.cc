#include "sim/swarm.h"

#include <algorithm>

#include "extent/geometry.h"
#include "sim/disk.h"

namespace foreshadow::sim {
namespace {

uint64_t between(Rng& rng, uint64_t low, uint64_t high) {
  return low + rng.below(high - low + 1);
}

// Small numbers are as likely as large ones.
uint64_t between_log(Rng& rng, uint64_t low, uint64_t high) {
  uint64_t top = low;
  while (top < high && rng.below(3) != 0) top *= 2;
  return between(rng, low, std::min(top, high));
}

void draw_weights(Rng& rng, Swarm& out) {
  const auto set = [&](Act act, uint32_t weight, uint32_t on_percent) {
    out.weights[static_cast<size_t>(act)] = rng.chance(on_percent, 100) ? weight : 0;
  };
  set(Act::kRead, 20, 80);
  set(Act::kWrite, 40, 100);
  set(Act::kZero, 8, 50);
  set(Act::kZeroNoHole, 6, 40);
  set(Act::kTrim, 12, 50);
  set(Act::kFlush, static_cast<uint32_t>(between(rng, 2, 25)), 85);
  set(Act::kGrant, 3, 80);
  set(Act::kActivate, 2, 60);
  set(Act::kMerge, 2, 70);
  set(Act::kFold, 2, 40);
  set(Act::kDrain, 2, 40);
  set(Act::kResize, 2, 40);
  set(Act::kCheckpoint, static_cast<uint32_t>(between(rng, 1, 4)), 60);
  set(Act::kCheck, 1, 30);
  set(Act::kSqueeze, static_cast<uint32_t>(between(rng, 1, 4)), 50);
  set(Act::kScrub, 2, 40);
  set(Act::kPause, static_cast<uint32_t>(between(rng, 1, 4)), 60);
  set(Act::kGrow, 1, 40);
  set(Act::kMove, static_cast<uint32_t>(between(rng, 1, 3)), 30);
  if (rng.chance(1, 8)) {  // a run about the lives of segments
    set(Act::kGrant, 15, 100);
    set(Act::kActivate, 15, 100);
    set(Act::kMerge, 10, 80);
    set(Act::kFold, 8, 50);
    set(Act::kDrain, 8, 50);
    set(Act::kResize, 6, 50);
    set(Act::kMove, 6, 50);
    set(Act::kCheckpoint, 10, 90);
  }
  out.fua_percent = rng.chance(1, 2) ? 0 : static_cast<uint32_t>(between(rng, 5, 50));
}

}  // namespace

Swarm draw_swarm(Rng& rng, bool faults) {
  Swarm out;
  const bool tiny = !rng.chance(1, 8);
  // So much at a time that a commit takes several blocks, and meets the end of the ring in the middle of
  // them.
  const bool wide = tiny && rng.chance(1, 12);
  out.create.geometry.sub_block_bits = tiny ? 9 : 12;
  const bool over = !wide && rng.chance(1, 4);
  if (over && tiny && rng.chance(1, 2))
    out.create.geometry.sub_block_bits = 10;  // so that a tail can be part of one
  out.alignment = tiny || rng.chance(1, 2) ? kSector : 4096;
  const uint64_t cluster = out.create.geometry.cluster();
  out.journal_blocks = static_cast<uint32_t>(wide ? between(rng, 8, 12) : between_log(rng, 8, 64));
  out.create.journal_bytes = uint64_t{out.journal_blocks} * extent::kMetaBlock;
  out.primary_clusters = static_cast<uint32_t>(tiny ? between_log(rng, 8, 64) : between(rng, 4, 16));
  if (wide) out.primary_clusters = static_cast<uint32_t>(between(rng, 64, 192));
  out.shadow_clusters_max = static_cast<uint32_t>(tiny ? between_log(rng, 4, 64) : between(rng, 4, 8));
  out.shadows_max = static_cast<uint32_t>(between_log(rng, 1, 6));
  out.create.size = out.primary_clusters * cluster * (wide ? 1 : between(rng, 2, 4));
  if (rng.chance(1, 8))
    out.create.size -= extent::kMetaBlock * between(rng, 1, cluster / extent::kMetaBlock - 1);
  out.create.head_room = static_cast<uint32_t>(between_log(rng, 1, 16));
  out.create.redirect = rng.chance(1, 2) ? volume::Redirect::kAllocating : volume::Redirect::kAll;
  out.create.name = "simulated";
  out.create.checksums = rng.chance(1, 2);
  if (over) {  // the image may end anywhere
    out.base_bytes = cluster * between(rng, 1, 2 * uint64_t{out.primary_clusters});
    if (rng.chance(2, 3)) out.base_bytes += out.alignment * rng.below(cluster / out.alignment);
    out.create.size = out.base_bytes;
  }
  out.size_max =
      align_up(out.create.size, cluster) + cluster * between(rng, 1, 2 * uint64_t{out.primary_clusters});

  out.queue_depth = static_cast<uint32_t>(between_log(rng, 1, 16));
  if (wide) out.queue_depth = static_cast<uint32_t>(between(rng, 16, 64));
  out.io_max = cluster * (wide ? between(rng, 8, 32) : between_log(rng, 1, 4));
  static constexpr uint64_t kGranularities[] = {512, 512, 4096};
  out.granularity = rng.chance(1, 5) ? cluster : kGranularities[rng.below(3)];
  out.hot_bytes = rng.chance(1, 2) ? 0 : cluster * between(rng, 1, 4);
  draw_weights(rng, out);
  if (!wide && rng.chance(1, 5)) {  // a run about squeezing: whole clusters, and little that empties them
    out.granularity = rng.chance(1, 2) ? cluster : out.granularity;
    out.io_max = cluster * between(rng, 2, 6);
    out.weights[static_cast<size_t>(Act::kSqueeze)] = 8;
    out.weights[static_cast<size_t>(Act::kTrim)] = rng.chance(1, 2) ? 2 : 0;
    out.weights[static_cast<size_t>(Act::kZero)] = rng.chance(1, 2) ? 2 : 0;
    if (!over && rng.chance(1, 2)) {  // many at once at few clusters: readers and writers of what is squeezed
      out.primary_clusters = static_cast<uint32_t>(between(rng, 6, 16));
      out.create.size = out.primary_clusters * cluster;
      out.size_max = 2 * out.create.size;
      out.hot_bytes = 0;
      out.granularity = cluster;
      out.io_max = cluster * between(rng, 1, 2);
      out.queue_depth = static_cast<uint32_t>(between(rng, 4, 16));
      out.weights[static_cast<size_t>(Act::kSqueeze)] = 20;
      out.fua_percent = 50;
      out.slow_reads = std::chrono::milliseconds(between(rng, 1, 16));
      out.weights[static_cast<size_t>(Act::kRead)] = 40;
      out.weights[static_cast<size_t>(Act::kFlush)] = 20;
    }
  }

  out.run.hold_timeout = std::chrono::milliseconds(between_log(rng, 1, 64));
  out.run.commit_idle = std::chrono::microseconds(between_log(rng, 100, 20'000));
  out.run.commit_age = std::chrono::milliseconds(between_log(rng, 1, 100));
  out.run.checksum_age = std::chrono::microseconds(between_log(rng, 100, 200'000));
  if (wide) {  // and few who wait for one, so that it gathers
    out.weights[static_cast<size_t>(Act::kFlush)] = 1;
    out.weights[static_cast<size_t>(Act::kTrim)] = 40;  // a cluster that stays mapped makes no record
    out.hot_bytes = 0;
    out.weights[static_cast<size_t>(Act::kCheckpoint)] = 0;
    out.weights[static_cast<size_t>(Act::kCheck)] = 0;
    out.fua_percent = 0;
    out.run.commit_idle = std::chrono::milliseconds(20);
    out.run.commit_age = std::chrono::milliseconds(100);
  }
  out.run.band_bytes = rng.chance(1, 3) ? 0 : cluster * between_log(rng, 1, 64);
  out.run.band_percent = static_cast<uint32_t>(between(rng, 1, 100));
  out.run.checkpoint_percent = static_cast<uint32_t>(between(rng, 10, 80));

  out.lives = static_cast<uint32_t>(between(rng, 2, 8));
  out.life_steps = static_cast<uint32_t>(between_log(rng, 60, 1500));
  if (wide) {  // many crashes in the middle of such a commit, and soon after
    out.lives = 12;
    out.life_steps = static_cast<uint32_t>(between(rng, 100, 600));
  }
  out.clean_percent = static_cast<uint32_t>(rng.below(30));
  if (rng.chance(1, 6)) out.slow_reads = std::chrono::milliseconds(between_log(rng, 1, 16));
  out.faults = faults;
  out.at_once = rng.chance(1, 3);
  return out;
}

uint64_t backing_bytes(const Swarm& swarm, uint32_t clusters, bool primary) {
  uint64_t head = extent::kLabelCopies * extent::kMetaBlock;
  uint64_t described = clusters;
  if (primary) {
    head += extent::kSuperCopies * extent::kSuperBytes + uint64_t{swarm.journal_blocks} * extent::kMetaBlock;
    described *= swarm.create.head_room;
  }
  uint64_t pages = div_up(described, extent::kTableEntries);
  if (swarm.create.checksums) pages += div_up(described, extent::kChecksumClusters);
  if (primary) pages += extent::base_table_pages(swarm.base_bytes, swarm.create.geometry);
  head += pages * extent::kTableSlots * extent::kMetaBlock;
  const uint64_t cluster = swarm.create.geometry.cluster();
  return align_up(head, std::max<uint64_t>(cluster, extent::kMetaBlock)) + clusters * cluster;
}

}  // namespace foreshadow::sim
