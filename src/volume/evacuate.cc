// Emptying segments: fold, drain, and segments that grow and shrink at their end. relocator.h has the crash
// argument of one cluster; here is that of the segment.
//
// A segment is released in three steps. (1) It is empty, in the map and in durable history: everything that
// was in it has a record that says where it is now. (2) A record says that it is released. (3) A checkpoint
// names neither its row nor its pages. Only then may the backing go: until then the superblock still counts
// it, and opening asks for it. A crash before (1) leaves it draining, before (3) released: asked again, the
// call goes on from there. After (3) the backing is in no row, an orphan.
//
// A segment grows when its backing has grown: the record that names the new clusters comes before any that
// uses one, and behind a sync of the backing, which makes the size durable. That is the committer's sync, so
// that one which fails poisons: it may have been told of the loss of anything that was written there. It
// shrinks the other way round: nothing past the new end is used in durable history, a record says so, a
// checkpoint is made (since what is replayed may still speak of what was there), and only then the backing is
// cut.
#include <fmt/format.h>

#include <algorithm>

#include "base/size.h"
#include "volume/await.h"
#include "volume/engine.h"
#include "volume/fold_room.h"

namespace foreshadow::volume {

using extent::Allocator;
using extent::SegmentState;

namespace {

// Room that a drain leaves for first touches: it must not be what makes a write wait.
constexpr uint64_t kDrainReserveBytes = 64 * kMiB;
constexpr uint32_t kDrainReserveShare = 16;  // of what the segments that stay hold

}  // namespace

struct Evacuator::DrainRoom {
  uint64_t room = 0;     // clusters
  uint64_t reserve = 0;  // clusters that a drain leaves free
};

Evacuator::Evacuator(Engine& engine)
    : engine_(engine),
      executor_(engine.executor_),
      geometry_(engine.geometry_),
      segments_(engine.segments_),
      committer_(engine.committer_),
      checkpointer_(engine.checkpointer_),
      relocator_(engine.relocator_),
      job_ended_(engine.executor_) {}

io::Task<Status> Evacuator::as_job(Job job, io::Task<Status> work) {
  const uint32_t goes_first = job.kind == Job::Kind::kSqueeze ? 0 : 1;
  jobs_waiting_ += goes_first;
  const auto ends = [&] { return engine_.closing_ || (stopped_ && job.kind != Job::Kind::kSqueeze); };
  while (job_.kind != Job::Kind::kNone && !ends()) co_await job_ended_.wait();
  jobs_waiting_ -= goes_first;
  Status outcome;
  if (ends()) {
    outcome = fail(Code::kShutdown, fmt::format("volume {} is closing", engine_.name()));
  } else if (committer_.poisoned()) {
    outcome = fail(Code::kReadOnly, committer_.poison_reason());
  } else {
    job_ = job;
    outcome = co_await work;
    job_ = {};
  }
  job_ended_.notify_all();
  co_return outcome;
}

void Evacuator::stop() {
  stopped_ = true;
  relocator_.stop();
  job_ended_.notify_all();  // who waits for a turn is told
}

JobInfo Evacuator::job() const {
  JobInfo out;
  out.kind = job_.kind;
  out.segment = job_.segment;
  if (job_.kind == JobKind::kSqueeze) {
    const Segment* segment = segments_.find(job_.segment);
    out.moved = engine_.squeezer_.report().taken * geometry_.cluster();
    out.total = (segment == nullptr ? 0 : uint64_t{segment->allocator.taken()}) * geometry_.cluster();
    out.total = std::max(out.total, out.moved);
    return out;
  }
  out.moved = relocator_.progress().moved * geometry_.cluster();
  out.total = relocator_.progress().total * geometry_.cluster();
  return out;
}

io::Task<Status> Evacuator::fold(Uuid segment, uint64_t primary_bytes) {
  auto done =
      co_await as_job({Job::Kind::kFold, segment}, evacuate(segment, SegmentState::kFolding, primary_bytes));
  co_return done;
}

io::Task<Status> Evacuator::drain(Uuid segment) {
  auto done = co_await as_job({Job::Kind::kDrain, segment}, evacuate(segment, SegmentState::kDraining, 0));
  co_return done;
}

io::Task<Status> Evacuator::resize(Uuid segment, uint64_t bytes) {
  auto done = co_await as_job({Job::Kind::kResize, segment}, resize_now(segment, bytes));
  co_return done;
}

Result<Segment*> Evacuator::find_segment(const Uuid& uuid) {
  if (Segment* found = segments_.find(uuid)) return found;
  return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", engine_.name(), uuid.str()));
}

// What the segments that stay have left for clusters from `leaving`, and what must remain of it.
Evacuator::DrainRoom Evacuator::drain_room(const Segment& leaving) const {
  DrainRoom out;
  uint64_t held = 0;
  for (const Segment* segment : segments_.all()) {
    if (segment == &leaving || segment->row.state != SegmentState::kMerged) continue;
    out.room += segment->room();
    held += segment->row.clusters;
  }
  out.reserve = std::min(kDrainReserveBytes / geometry_.cluster(), held / kDrainReserveShare);
  return out;
}

// The primary first, so that it ends up with what there is.
Allocator::Run Evacuator::take_for_drain(const Segment& leaving, uint32_t want) {
  const DrainRoom now = drain_room(leaving);
  if (now.room <= now.reserve) return {};
  want = static_cast<uint32_t>(std::min<uint64_t>(want, now.room - now.reserve));
  for (Segment* segment : segments_.all()) {
    if (segment == &leaving || segment->row.state != SegmentState::kMerged || segment->room() == 0) continue;
    return segment->allocator.allocate(std::min(want, segment->room()));
  }
  return {};
}

Status Evacuator::check_drain_room(const Segment& leaving) const {
  const uint64_t wanted = leaving.allocator.taken();
  const DrainRoom now = drain_room(leaving);
  if (now.room >= wanted + now.reserve || wanted == 0) return {};
  return fail(
      Code::kNoSpace,
      fmt::format("segment {} holds {}, the others have room for {}, of which {} must stay free: trim first",
                  leaving.row.id.v, format_size(wanted * geometry_.cluster()),
                  format_size(now.room * geometry_.cluster()),
                  format_size(now.reserve * geometry_.cluster())));
}

io::Task<Status> Evacuator::evacuate(Uuid uuid, SegmentState how, uint64_t primary_bytes) {
  const auto found = find_segment(uuid);
  if (!found) co_return tl::unexpected(found.error());
  Segment& segment = **found;
  if (segment.row.role != SegmentRole::kShadow) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("segment {} is the {} of volume {}: it cannot be released", segment.row.id.v,
                               &segment == engine_.base_.segment() ? "image" : "primary", engine_.name()));
  }
  if (segment.row.state != SegmentState::kReleased) {
    const SegmentState before = segment.row.state;
    std::optional<FoldRoom> fold;
    if (how == SegmentState::kFolding) {
      const uint64_t wanted = co_await engine_.base_.homeless(executor_, engine_.map_, segment);
      Segment& primary = segments_.primary();
      const auto clusters = clusters_of(primary, std::max(primary_bytes, primary.file->size()));
      if (!clusters) co_return tl::unexpected(clusters.error());
      fold.emplace(engine_, wanted, *clusters);
    }
    auto checked = fold ? fold->check(segment) : check_drain_room(segment);
    if (!checked) {
      // Of an earlier life, and what is beside it is not what it was: it does not stay half way for ever.
      if (segment.is_leaving()) co_await keep(segment, SegmentState::kMerged);
      co_return checked;
    }
    engine_.placement_.begin_evacuation(segment, how);
    if (fold) {
      fold->begin();
      // First touches may have come while it was counted; none do now.
      fold->recount(co_await engine_.base_.homeless(executor_, engine_.map_, segment));
      engine_.retry_later();
    }
    auto emptied = co_await empty(segment, 0, fold ? &*fold : nullptr);
    if (fold) {
      auto grown = co_await fold->end(!emptied);
      if (!grown && !emptied && emptied.error().code == Code::kNoSpace) emptied = grown;
      fold.reset();
      engine_.retry_later();  // what was set aside and not used is anybody's again
    }
    if (!emptied) {
      // Where it was before: part of the volume. What has moved stays moved.
      const bool over = emptied.error().code == Code::kShutdown || committer_.poisoned();
      if (!over) {
        auto kept = co_await keep(segment, before == SegmentState::kSealed ? before : SegmentState::kMerged);
        if (!kept) co_return kept;
      }
      co_return emptied;
    }
    engine_.placement_.end_evacuation(segment, SegmentState::kReleased);
  }
  auto released = co_await release(segment);
  co_return released;
}

io::Task<Status> Evacuator::keep(Segment& segment, SegmentState state) {
  engine_.placement_.end_evacuation(segment, state);
  engine_.retry_later();
  auto kept = co_await committer_.commit();
  co_return kept;
}

// Until durable history has nothing in the segment from cluster `first` on. What does not go into `fold` goes
// where there is room, the segment's own beginning included if it stays.
io::Task<Status> Evacuator::empty(Segment& segment, uint32_t first, FoldRoom* fold) {
  auto noted = co_await committer_.commit();
  if (!noted) co_return noted;
  while (segment.allocator.taken_past(first) > 0) {
    const uint32_t before = segment.allocator.taken_past(first);
    const bool departing = !engine_.departures_.empty();
    Evacuation what;
    what.from = &segment;
    what.first = first;
    what.take = [this, &segment, fold](uint32_t want) {
      if (fold != nullptr) return fold->take(want);
      if (!segment.is_leaving() && segment.room() > 0) return segment.allocator.allocate(want);
      return take_for_drain(segment, want);
    };
    if (fold != nullptr) {
      what.home = [this](Lcn lcn) { return engine_.base_.take_home(lcn); };
      what.more = [fold] { return fold->growing(); };
    }
    auto unpacked = co_await engine_.squeezer_.evacuate(what);
    if (!unpacked) co_return unpacked;
    auto moved = co_await relocator_.run(std::move(what));
    if (!moved) co_return moved;
    auto committed = co_await committer_.commit();  // what was freed is free now
    if (!committed) co_return committed;
    // A first touch that was under way when the evacuation began may have come after the last pass.
    // Places that were left before, or meanwhile, with reads still in them; the commit came before their end.
    if (departing || !engine_.departures_.empty() || committer_.frees_pending()) {
      co_await rest(executor_, std::chrono::milliseconds(1));
      continue;
    }
    if (segment.allocator.taken_past(first) == before && relocator_.progress().moved == 0) {
      co_return fail(Code::kInternal, fmt::format("{} clusters of segment {} belong to nothing in the map",
                                                  before, segment.row.id.v));
    }
  }
  co_return Status{};
}

io::Task<Status> Evacuator::release(Segment& segment) {
  auto recorded = co_await committer_.commit();
  if (!recorded) co_return recorded;
  auto forgotten = co_await checkpointer_.run_now();
  if (!forgotten) co_return forgotten;
  // Nobody syncs its file, writes its pages or reads it.
  auto commits = co_await committer_.block();
  auto checkpoints = co_await checkpointer_.block();
  while (engine_.checking_ > 0) co_await engine_.check_ended_.wait();
  segments_.remove(segment);
  checkpointer_.unblock();
  committer_.unblock();
  if (!commits) co_return commits;
  co_return checkpoints;
}

io::Task<Status> Evacuator::resize_now(Uuid uuid, uint64_t bytes) {
  const auto found = find_segment(uuid);
  if (!found) co_return tl::unexpected(found.error());
  Segment& segment = **found;
  if (&segment == engine_.base_.segment()) {
    co_return fail(Code::kInvalidArgument, fmt::format("segment {} is the image of volume {}: its size stays",
                                                       segment.row.id.v, engine_.name()));
  }
  if (segment.is_leaving()) {
    co_return fail(Code::kFailedPrecondition, fmt::format("segment {} of volume {} is being released",
                                                          segment.row.id.v, engine_.name()));
  }
  const auto clusters = clusters_of(segment, bytes);
  if (!clusters) co_return tl::unexpected(clusters.error());
  if (*clusters < segment.row.clusters) {
    auto shrunk = co_await shrink(segment, *clusters);
    co_return shrunk;
  }
  auto grown = co_await grow_segment(segment, *clusters);
  if (!grown) co_return grown;
  engine_.retry_later();
  auto recorded = co_await committer_.commit();
  co_return recorded;
}

Result<uint32_t> Evacuator::clusters_of(const Segment& segment, uint64_t bytes) const {
  const uint32_t clusters = extent::clusters_in(segment.layout, geometry_, bytes);
  // What it has already it can have, though less than a cluster more than its table describes is the rule.
  const uint64_t most =
      extent::bytes_for(segment.layout, geometry_, segment.layout.clusters) + geometry_.cluster();
  const bool wide = bytes > std::max(most, segment.file->size());
  if (clusters != 0 && !wide) return clusters;
  return fail(
      Code::kInvalidArgument,
      fmt::format("segment {} cannot be of {}: it can have {} to {}", segment.row.id.v, format_size(bytes),
                  format_size(extent::bytes_for(segment.layout, geometry_, 1)),
                  format_size(extent::bytes_for(segment.layout, geometry_, segment.layout.clusters))));
}

uint64_t Evacuator::backing_size(const Segment& segment, uint32_t clusters) const {
  return align_up(extent::bytes_for(segment.layout, geometry_, clusters), extent::kMetaBlock);
}

io::Task<Status> Evacuator::grow_segment(Segment& segment, uint32_t clusters) {
  const uint64_t bytes = backing_size(segment, clusters);
  if (segment.file->size() < bytes) {
    auto grown = co_await resize_backing(segment, bytes);
    if (!grown) co_return grown;
  }
  set_clusters(segment, clusters);
  co_return Status{};
}

io::Task<Status> Evacuator::resize_backing(Segment& segment, uint64_t bytes) {
  Status outcome;
  AwaitWorker work{executor_, [&outcome, &segment, bytes] { outcome = segment.file->resize(bytes); }};
  co_await work;
  co_return outcome;
}

void Evacuator::set_clusters(Segment& segment, uint32_t clusters) {
  segment.allocator.resize(clusters);
  if (segment.row.clusters == clusters) return;
  // The commit of the record syncs the backing first: then its new size is durable.
  segment.unsynced = segment.unsynced || clusters > segment.row.clusters;
  segment.row.clusters = clusters;
  engine_.on_state_changed(segment);
}

io::Task<Status> Evacuator::shrink(Segment& segment, uint32_t clusters) {
  segment.allocator.set_limit(clusters);
  const uint64_t wanted = segment.allocator.taken_past(clusters);
  const uint64_t room = segment.room() + drain_room(segment).room;
  Status emptied;
  if (wanted > room) {
    emptied = fail(Code::kNoSpace,
                   fmt::format("segment {} holds {} past its new end, there is room for {}: trim first",
                               segment.row.id.v, format_size(wanted * geometry_.cluster()),
                               format_size(room * geometry_.cluster())));
  } else {
    emptied = co_await empty(segment, clusters, nullptr);
  }
  if (!emptied) {
    segment.allocator.set_limit(segment.allocator.clusters());
    engine_.retry_later();
    co_return emptied;
  }
  set_clusters(segment, clusters);
  auto recorded = co_await committer_.commit();
  if (!recorded) co_return recorded;
  auto settled = co_await checkpointer_.run_now();
  if (!settled) co_return settled;
  auto cut = co_await resize_backing(segment, backing_size(segment, clusters));
  co_return cut;
}

}  // namespace foreshadow::volume
