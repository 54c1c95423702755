// Fold, drain, resize: work on one segment that may take minutes.
//
// Crash points. A primary that was grown and into which nothing was folded is merely larger. A fold or drain
// that is cut in two leaves its segment folding, draining or released, durably; resume_jobs() goes on.
// Between the volume letting go of the segment and the removal of the backing, the backing is an orphan,
// which the next start removes.
#include <fmt/format.h>

#include <algorithm>

#include "agent/volume_host.h"
#include "base/log.h"
#include "base/size.h"
#include "base/types.h"

namespace foreshadow::agent {
namespace {

// First touches may take what the primary has grown by before the fold sets it aside for itself. Each try
// asks for more; a writer that outruns them all keeps its shadow a little longer.
constexpr int kGrowTries = 5;
constexpr uint64_t kGrowMargin = kMiB;
// A shadow that leaves takes its free space with it: until another is granted, this much is for new writes.
constexpr uint64_t kFreeBeside = 64 * kMiB;

bool is_leaving(const volume::SegmentInfo& info) {
  return info.state == extent::SegmentState::kFolding || info.state == extent::SegmentState::kDraining ||
         info.state == extent::SegmentState::kReleased;
}

}  // namespace

void VolumeHost::stop_jobs() {
  jobs_stopped_ = true;
  volume_->stop_jobs();
}

io::Task<Status> VolumeHost::fold_shadow(Uuid segment) {
  const Gate::Turn turn = co_await jobs_.enter();
  const Status folded = co_await fold_now(segment);
  co_return folded;
}

io::Task<Status> VolumeHost::drain_segment(Uuid segment) {
  const Gate::Turn turn = co_await jobs_.enter();
  const Status drained = co_await drain_now(segment);
  co_return drained;
}

io::Task<Status> VolumeHost::resize_segment(Uuid segment, uint64_t bytes) {
  const Gate::Turn turn = co_await jobs_.enter();
  const Status resized = co_await resize_now(segment, bytes);
  co_return resized;
}

io::Task<Status> VolumeHost::fold_now(Uuid segment) {
  note_leaving(segment);
  Status folded;
  uint64_t margin = 0;
  for (int tries = 0; tries < kGrowTries; ++tries) {
    folded = co_await fold_into_primary(segment, margin);
    if (folded || (folded.error().code == Code::kNotFound && !has_segment(segment))) {
      const Status returned = co_await return_backing(segment);
      co_return returned;
    }
    if (folded.error().code != Code::kFailedPrecondition) co_return folded;
    margin = std::max(margin * 4, kGrowMargin);
  }
  co_return folded;
}

// What new writes lack outside of the primary once it is gone.
uint64_t VolumeHost::lack_beside(const volume::SegmentInfo& leaving) const {
  uint64_t there = 0;
  for (const volume::SegmentInfo& info : volume_->segments()) {
    const bool counts = info.uuid != leaving.uuid && info.role == extent::SegmentRole::kShadow &&
                        info.state != extent::SegmentState::kSealed && !is_leaving(info);
    there += counts ? info.capacity - std::min(info.used, info.capacity) : 0;
  }
  return kFreeBeside - std::min(there, kFreeBeside);
}

// How large the primary's backing must be to take in all of it, and `more`.
Result<uint64_t> VolumeHost::primary_for(const volume::SegmentInfo& leaving, uint64_t more) const {
  const volume::SegmentInfo primary = volume_->segments().front();
  const uint64_t free = primary.capacity - std::min(primary.used, primary.capacity);
  const uint64_t wanted = leaving.used + more;
  const uint64_t bytes = std::max(primary.backing, primary.occupied + (wanted - std::min(wanted, free)));
  if (bytes <= primary.backing_max) return bytes;
  return fail(
      Code::kNoSpace,
      fmt::format("segment {} holds {}, the primary of volume {} has room for {} and can grow from {} "
                  "to {} at most: drain or adopt the segment instead",
                  leaving.id.v, format_size(leaving.used), name(), format_size(free),
                  format_size(primary.occupied), format_size(primary.backing_max)));
}

// With room for new writes, where there is none beside it and the pool has it.
io::Task<Status> VolumeHost::fold_into_primary(Uuid shadow, uint64_t margin) {
  const std::optional<volume::SegmentInfo> leaving = find_segment(shadow);
  const Uuid primary = volume_->segments().front().uuid;
  if (!leaving || leaving->state == extent::SegmentState::kReleased || shadow == primary) {
    const Status folded = co_await volume_->fold_shadow(shadow, 0);
    co_return folded;
  }
  const Result<uint64_t> ample = primary_for(*leaving, margin + lack_beside(*leaving));
  if (ample) {
    const Status folded = co_await within_pool(primary, *ample, volume_->fold_shadow(shadow, *ample));
    if (folded || folded.error().code != Code::kNoSpace) co_return folded;
  }
  const Result<uint64_t> bytes = primary_for(*leaving, margin);
  if (!bytes && !is_leaving(*leaving)) co_return tl::unexpected(bytes.error());
  if (!bytes) {  // of an earlier life: it goes on, or the segment stays as it was before
    const Status folded = co_await volume_->fold_shadow(shadow, 0);
    co_return folded;
  }
  const Status folded = co_await within_pool(primary, *bytes, volume_->fold_shadow(shadow, *bytes));
  if (folded || folded.error().code != Code::kNoSpace) co_return folded;
  co_return fail(Code::kNoSpace, fmt::format("{}; add space to the pool, or adopt the segment instead",
                                             folded.error().message));
}

io::Task<Status> VolumeHost::resize_now(Uuid segment, uint64_t bytes) {
  if (!has_segment(segment)) {
    co_return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", name(), segment.str()));
  }
  const Status resized = co_await within_pool(segment, bytes, volume_->resize_segment(segment, bytes));
  co_return resized;
}

// What a segment grows by is set aside in its pool until the backing's own size has it.
io::Task<Status> VolumeHost::within_pool(Uuid segment, uint64_t bytes, io::Task<Status> growth) {
  if (jobs_stopped_) co_return fail(Code::kShutdown, fmt::format("volume {} is being closed", name()));
  if (bytes <= find_segment(segment)->backing) {
    const Status done = co_await growth;
    co_return done;
  }
  const auto pool = catalog_.pool(whereabouts_.pool_of[segment]);
  if (!pool) co_return tl::unexpected(pool.error());
  const std::string backing = Backing{id(), segment, {}}.name();
  Offload claim(catalog_.loop(), [&] { return (*pool)->set_aside(backing, bytes); });
  const Status aside = co_await claim;
  if (!aside) co_return aside;
  const Status grown = co_await growth;
  Offload settle(catalog_.loop(), [&] {
    (*pool)->let_go(backing);
    return true;
  });
  co_await settle;
  co_return grown;
}

io::Task<Status> VolumeHost::drain_now(Uuid segment) {
  note_leaving(segment);
  const Status drained = co_await volume_->drain_segment(segment);
  if (!drained && (drained.error().code != Code::kNotFound || has_segment(segment))) co_return drained;
  const Status returned = co_await return_backing(segment);
  co_return returned;
}

// Which pool a segment's backing is in is known only while it is the volume's. Noted before, so that the
// backing can be given back once it is not; an unknown segment may be one that is being granted.
void VolumeHost::note_leaving(const Uuid& segment) {
  if (has_segment(segment)) leaving_[segment] = whereabouts_.pool_of[segment];
}

io::Task<Status> VolumeHost::return_backing(Uuid segment) {
  const auto noted = leaving_.find(segment);
  if (noted == leaving_.end()) co_return Status{};
  if (has_segment(segment)) {
    co_return fail(Code::kInternal, fmt::format("segment {} is part of volume {}: its backing stays",
                                                segment.str(), name()));
  }
  const Backing backing{id(), segment, noted->second};
  const Status removed = co_await catalog_.remove_backing(backing);
  if (!removed) {
    co_return fail(
        removed.error().code,
        fmt::format("segment {} is no part of volume {} any more, but its backing stays in pool {}: {}",
                    segment.str(), name(), backing.pool, removed.error().message));
  }
  leaving_.erase(segment);
  whereabouts_.pool_of.erase(segment);
  co_return Status{};
}

// ---- after a crash

void VolumeHost::resume_jobs(const std::shared_ptr<VolumeHost>& self) {
  for (const volume::SegmentInfo& info : volume_->segments()) {
    if (!is_leaving(info)) continue;
    log::info("volume {}: going on with the release of segment {}", name(), info.id.v);
    io::spawn(resume_job(info.uuid, info.state == extent::SegmentState::kFolding),
              [self, info](const Status& outcome) { self->resumed(info, outcome); });
  }
}

io::Task<Status> VolumeHost::resume_job(Uuid segment, bool folds) {
  const Gate::Turn turn = co_await jobs_.enter();
  Status done;
  if (folds) {
    done = co_await fold_now(segment);
  } else {
    done = co_await drain_now(segment);
  }
  co_return done;
}

// Nobody asked for it in this run, so nobody would be answered.
void VolumeHost::resumed(const volume::SegmentInfo& segment, const Status& outcome) {
  if (outcome) {
    return tell(v1::VolumeEvent::KIND_SEGMENT_RELEASED, segment.id.v,
                fmt::format("segment {} is released; a restart had cut that in two", segment.id.v));
  }
  if (outcome.error().code == Code::kShutdown) return;  // the next start goes on
  tell(v1::VolumeEvent::KIND_JOB_REFUSED, segment.id.v,
       fmt::format("segment {} could not be released: {}", segment.id.v, outcome.error().message));
}

}  // namespace foreshadow::agent
