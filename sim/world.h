#pragma once
// What outlives a crash: the disks, the reference, and what the client was promised.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "sim/disk.h"
#include "sim/oracle.h"
#include "sim/scheduler.h"
#include "sim/swarm.h"

namespace foreshadow::sim {

// One backing, and how far its life is known to have come. What was acknowledged must survive; what was only
// asked for, may.
struct Backing {
  Uuid uuid;
  std::unique_ptr<Disk> disk;
  bool formatted = false;
  bool attach_asked = false;
  bool attached = false;  // acknowledged, or seen after recovery
  bool merge_asked = false;
  bool merged = false;         // acknowledged, or seen after recovery
  bool release_asked = false;  // folded or drained: it may be gone after a crash
  bool next_primary = false;   // made to be the primary, and asked to be it
  bool in_service = false;     // attached when this life began
  uint64_t failed_syncs = 0;   // when this life began to serve
  bool busy = false;           // the workload is doing something to it now
};

struct World {
  World(uint64_t seed, bool with_faults, bool with_trace)
      : rng(seed),
        swarm(draw_swarm(rng, with_faults)),
        scheduler(rng.next()),
        oracle(swarm.create.size, swarm.create.geometry.sub_block(), static_cast<uint16_t>(seed)),
        trace(with_trace) {}

  SeededRng rng;
  Swarm swarm;
  Scheduler scheduler;
  Oracle oracle;
  bool trace;
  CallFault call_fault;  // shared by all disks
  Backing primary;
  Backing base;                // of a volume over an image; without a disk if there is none
  Oracle::OpId image_op = 0;   // the one operation that "wrote" the image before the volume was made
  std::vector<bool> touched;   // sectors of the image that a client has asked to change
  uint64_t size_asked = 0;     // the largest
  uint64_t size_promised = 0;  // acknowledged, or seen
  std::vector<std::unique_ptr<Backing>> shadows;
  std::vector<std::unique_ptr<Backing>> removed;  // released and given back: no part of any volume any more

  uint64_t crashes = 0;
  uint64_t operations = 0;
  uint64_t faults = 0;
  uint64_t squeezed = 0;  // clusters, by passes that came to their end
  uint64_t hash = 0x9e3779b97f4a7c15ull;
  bool rotten = false;  // a bit of some metadata is flipped in this life
  // Of the volume, with checksums: a sub-block whose data is rotten. Whoever reads it must be told so, unless
  // a write of it has failed: then nothing is known of it any more.
  struct Damage {
    uint64_t offset = 0, length = 0;
    const Disk* disk = nullptr;  // where it is stored
    bool known = true;
    bool touches(uint64_t from, uint64_t bytes) const {
      return from < offset + length && offset < from + bytes;
    }
  };
  std::optional<Damage> damage;
  uint64_t data_faults = 0;  // rotten sub-blocks, phantom and misdirected writes of data
  uint64_t refusals = 0;     // requests that were refused for them
  DiskCounts forgotten;      // failures of earlier lives
  std::string violation;     // the first one; empty while all is well

  bool ok() const { return violation.empty(); }
  void violate(std::string what) {
    if (trace) fmt::print(stderr, "VIOLATION {}\n", what);
    if (violation.empty()) violation = std::move(what);
  }
  // Folds a value into the hash that two runs of one seed must agree on.
  void note(uint64_t value) {
    hash = (hash ^ value) * 0xbf58476d1ce4e5b9ull;
    hash ^= hash >> 29;
  }
  template <typename... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) const {
    if (!trace) return;
    const std::string text = fmt::format(format, std::forward<Args>(args)...);
    fmt::print(stderr, "{:>9} {:>6} {}\n", scheduler.now().time_since_epoch().count() / 1000,
               scheduler.steps(), text);
  }

  std::vector<Backing*> backings() {
    std::vector<Backing*> out{&primary};
    if (base.disk != nullptr) out.push_back(&base);
    for (const auto& shadow : shadows) out.push_back(shadow.get());
    return out;
  }
  DiskCounts all_failures() const {
    DiskCounts out = primary.disk->counts();
    const auto add = [&out](const DiskCounts& one) {
      out.failed_reads += one.failed_reads;
      out.failed_writes += one.failed_writes;
      out.failed_syncs += one.failed_syncs;
    };
    if (base.disk != nullptr) add(base.disk->counts());
    for (const auto& shadow : shadows) add(shadow->disk->counts());
    for (const auto& shadow : removed) add(shadow->disk->counts());
    return out;
  }
  // Injected failures since forget_failures().
  DiskCounts failures() const {
    DiskCounts out = all_failures();
    out.failed_reads -= forgotten.failed_reads;
    out.failed_writes -= forgotten.failed_writes;
    out.failed_syncs -= forgotten.failed_syncs;
    return out;
  }
  // Whether the engine knows in this life that a sync of a disk has failed which is part of the volume for
  // certain.
  bool told_of_failed_sync() const {
    if (primary.disk->told_of_failed_sync(primary.failed_syncs)) return true;
    if (base.disk != nullptr && base.disk->told_of_failed_sync(base.failed_syncs)) return true;
    for (const auto& shadow : shadows) {
      if (shadow->in_service && shadow->disk->told_of_failed_sync(shadow->failed_syncs)) return true;
    }
    return false;
  }
  bool any_failure() const {
    const DiskCounts out = failures();
    return out.failed_reads + out.failed_writes + out.failed_syncs > 0;
  }
  // A request for that range may be refused because the data is not what was written.
  bool may_be_corrupt(uint64_t offset, uint64_t length) {
    return (damage && damage->touches(offset, length)) || misled();
  }
  // Whether data went nowhere, or elsewhere, in this life.
  bool misled() {
    const auto all = backings();
    return std::any_of(all.begin(), all.end(), [](const Backing* b) { return b->disk->misled(); }) ||
           std::any_of(removed.begin(), removed.end(), [](const auto& b) { return b->disk->misled(); });
  }
  // In any life.
  bool ever_misled() {
    const auto all = backings();
    return std::any_of(all.begin(), all.end(),
                       [](const Backing* b) { return b->disk->counts().misled > 0; }) ||
           std::any_of(removed.begin(), removed.end(),
                       [](const auto& b) { return b->disk->counts().misled > 0; });
  }
  void forget_failures() { forgotten = all_failures(); }
  void power_off() {
    for (const Backing* backing : backings()) backing->disk->power_off();
    oracle.crash();
  }
  // As a power cut to the process; the disks keep what they have, durable or not.
  void kill_process() {
    for (const Backing* backing : backings()) backing->disk->kill_process();
    oracle.crash();
  }
  bool forgot() {
    for (const Backing* backing : backings()) {
      if (backing->disk->forgot()) return true;
    }
    return false;
  }
  // The image as it was before the volume, and the reference told of it. Once.
  void make_image();
  // What no client has asked to change must be in the image as it was.
  void check_image();
  // Every backing, freshly opened, in an order of the seed's choice.
  std::vector<volume::SegmentFile> open_files();
  // Holds a volume just opened against what was acknowledged; what is there now is from here on expected.
  void check_promises(const volume::Volume& volume, const std::vector<Uuid>& orphans);
  // It is the primary from here on; the one so far is a shadow that leaves.
  void change_primary(Backing& next);
  // Its blocks are elsewhere, or it never had any: the backing goes.
  void remove(const Backing* shadow);
  void power_on() {
    for (const Backing* backing : backings()) backing->disk->power_on();
  }
};

}  // namespace foreshadow::sim
