// A volume's primary goes to another pool.
//
// Crash points. Until the new backing is attached it is an orphan, which the next start removes. Attached, it
// is a segment of the volume like any other, and a repeat of the intent goes on from there; where none comes,
// it stays, and serves. From the change of the primary on (volume/head_move.cc) the old one is draining,
// durably: resume_jobs() goes on with it, asked or not. Which backing is the primary is nowhere noted here:
// the segments themselves say so.
#include <fmt/format.h>

#include "agent/volume_host.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/size.h"

namespace foreshadow::agent {

io::Task<Status> VolumeHost::move_primary(Uuid segment, std::string pool, uint64_t size) {
  const Gate::Turn turn = co_await jobs_.enter();
  const Status moved = co_await move_now(segment, pool, size);
  co_return moved;
}

io::Task<Status> VolumeHost::move_now(Uuid segment, std::string pool, uint64_t size) {
  const Status replaced = co_await replace_primary(segment, pool, size);
  if (!replaced) co_return replaced;
  // What was the primary before; after a restart it may be gone by now.
  const std::vector<volume::SegmentInfo> segments = volume_->segments();
  for (const volume::SegmentInfo& info : segments) {
    if (info.role != extent::SegmentRole::kShadow || !info.has_journal) continue;
    const Status drained = co_await drain_now(info.uuid);
    if (!drained) co_return drained;
  }
  co_return Status{};
}

io::Task<Status> VolumeHost::replace_primary(Uuid segment, std::string pool, uint64_t size) {
  if (jobs_stopped_) co_return fail(Code::kShutdown, fmt::format("volume {} is being closed", name()));
  if (!volume_->read_only_reason().empty()) {
    co_return fail(Code::kReadOnly,
                   fmt::format("volume {} is read-only: {}", name(), volume_->read_only_reason()));
  }
  if (volume_->base()) {  // before anything is made
    co_return fail(Code::kFailedPrecondition,
                   fmt::format("volume {} lies over an image: its primary cannot be moved", name()));
  }
  if (size < foreshadow::limits::kSegmentSizeMin || size > foreshadow::limits::kSegmentSizeMax) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("a primary of {} for volume {}: expected {} to {}", format_size(size), name(),
                               format_size(foreshadow::limits::kSegmentSizeMin),
                               format_size(foreshadow::limits::kSegmentSizeMax)));
  }
  volume::SegmentFile next{segment, nullptr};
  if (!has_segment(segment)) {
    auto file = co_await make_backing(segment, pool, size);
    if (!file) co_return tl::unexpected(file.error());
    next.file = std::move(*file);
    volume::CreateOptions options;
    options.id = id();
    options.name = name();
    options.size = volume_->info().size;
    options.geometry = volume_->geometry();
    options.checksums = volume_->checksums();
    const Status formatted = co_await volume::Volume::format_next_primary(*next.file, options, segment);
    if (!formatted) {
      next.file.reset();
      const Status removed = co_await remove_unattached(segment, pool);
      if (!removed) log::warn("{}", removed.error().message);
      co_return formatted;
    }
  }
  const Status replaced = co_await volume_->replace_primary(std::move(next));
  if (replaced || !volume_->read_only_reason().empty() || replaced.error().code == Code::kShutdown)
    co_return replaced;
  // As it was before: what was placed in the new segment meanwhile moves out of it again.
  Status undone;
  if (has_segment(segment)) {
    undone = co_await drain_now(segment);
  } else {
    undone = co_await remove_unattached(segment, pool);
  }
  if (!undone) log::warn("{}", undone.error().message);
  co_return replaced;
}

}  // namespace foreshadow::agent
