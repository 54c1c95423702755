#include "sim/world.h"

#include <algorithm>
#include <utility>

namespace foreshadow::sim {

void World::make_image() {
  size_asked = size_promised = swarm.create.size;
  if (swarm.base_bytes == 0) return;
  base.uuid = Uuid::random(rng);
  base.disk = std::make_unique<Disk>(scheduler, rng, swarm.base_bytes, swarm.alignment);
  base.formatted = base.attached = base.in_service = true;
  image_op = oracle.begin_write(0, swarm.base_bytes, 0);
  std::vector<std::byte> bytes(swarm.base_bytes);
  oracle.fill(image_op, bytes);
  base.disk->preload(bytes);
  oracle.end(image_op, true, true);
  touched.assign(swarm.base_bytes / kSector, false);
}

void World::check_image() {
  if (base.disk == nullptr) return;
  std::vector<std::byte> expected(swarm.base_bytes);
  std::vector<std::byte> found(swarm.base_bytes);
  oracle.fill(image_op, expected);
  (void)base.disk->peek(0, found);
  for (size_t sector = 0; sector < touched.size(); ++sector) {
    const auto at = static_cast<int64_t>(sector * kSector);
    if (touched[sector] ||
        std::equal(expected.begin() + at, expected.begin() + at + kSector, found.begin() + at))
      continue;
    return violate(fmt::format("sector {} of the image has changed, and nobody wrote there", sector));
  }
}

std::vector<volume::SegmentFile> World::open_files() {
  std::vector<volume::SegmentFile> files;
  for (const Backing* backing : backings())
    files.push_back({backing->uuid, backing->disk->open(), backing == &base});
  for (size_t i = files.size(); i > 1; --i) std::swap(files[i - 1], files[rng.below(i)]);
  return files;
}

void World::check_promises(const volume::Volume& volume, const std::vector<Uuid>& orphans) {
  const auto segments = volume.segments();
  // A change that was asked for may have happened; one that was acknowledged has.
  for (const auto& shadow : shadows) {
    if (shadow->next_primary && !segments.empty() && segments[0].uuid == shadow->uuid)
      change_primary(*shadow);
  }
  if (segments.empty() || segments[0].uuid != primary.uuid) return violate("segment 0 is not the primary");
  for (const auto& segment : segments) {
    say("  segment {} state {}: {} of {} used", segment.id.v, static_cast<int>(segment.state), segment.used,
        segment.capacity);
  }
  const uint64_t size = volume.info().size;
  if (size < size_promised || size > size_asked) {
    violate(fmt::format("the size is {} after {} was promised and {} asked for", size, size_promised,
                        size_asked));
  }
  size_promised = size;
  if (size > oracle.bytes()) oracle.grow(size);
  size_t found_count = 1;
  std::vector<const Backing*> gone;
  if (base.disk != nullptr) {
    ++found_count;
    if (segments.size() < 2 || segments[1].uuid != base.uuid ||
        segments[1].role != volume::SegmentRole::kBase)
      violate("segment 1 is not the base");
  }
  for (const auto& shadow : shadows) {
    const auto found =
        std::find_if(segments.begin(), segments.end(), [&](const auto& s) { return s.uuid == shadow->uuid; });
    if (found == segments.end()) {
      if (shadow->attached && !shadow->release_asked)
        violate(fmt::format("shadow {} was attached and is lost", shadow->uuid.str()));
      const bool listed = std::find(orphans.begin(), orphans.end(), shadow->uuid) != orphans.end();
      if (!listed) violate(fmt::format("shadow {} is neither attached nor an orphan", shadow->uuid.str()));
      if (shadow->release_asked) gone.push_back(shadow.get());
      continue;
    }
    ++found_count;
    if (!shadow->attach_asked) violate("a shadow is attached that nobody attached");
    const bool merged = found->state == volume::SegmentState::kMerged;
    const bool leaving = found->state == volume::SegmentState::kFolding ||
                         found->state == volume::SegmentState::kDraining ||
                         found->state == volume::SegmentState::kReleased;
    if (leaving && !shadow->release_asked) violate("a shadow is being released that nobody asked to release");
    if (shadow->merged && !merged && !shadow->release_asked)
      violate(fmt::format("shadow {} was merged and is not", shadow->uuid.str()));
    if (merged && !shadow->merge_asked) violate("a shadow is merged that nobody merged");
    shadow->formatted = shadow->attached = shadow->in_service = true;
    shadow->merged = merged;
  }
  for (const Backing* backing : gone) remove(backing);
  if (found_count != segments.size()) violate("the volume has segments that nobody made");
}

void World::change_primary(Backing& next) {
  say("  {} is the primary now", next.uuid.str());
  next.next_primary = next.busy = false;
  next.formatted = next.attached = next.in_service = true;
  next.failed_syncs = next.disk->counts().failed_syncs;
  std::swap(primary, next);
  Backing& old = next;
  old.attach_asked = old.attached = old.formatted = old.in_service = true;
  old.merge_asked = old.release_asked = true;
  old.merged = old.busy = false;
}

void World::remove(const Backing* shadow) {
  const auto found =
      std::find_if(shadows.begin(), shadows.end(), [&](const auto& s) { return s.get() == shadow; });
  say("  {} is given back", shadow->uuid.str());
  removed.push_back(std::move(*found));
  shadows.erase(found);
}

}  // namespace foreshadow::sim
