// Emptying segments: fold, drain, and segments that grow and shrink at their end. relocator.h has the crash
// argument of one cluster; here is that of the segment.
//
// A segment is released in three steps. (1) It is empty, in the map and in durable history: everything that
// was in it has a record that says where it is now. (2) A record says that it is released. (3) A checkpoint
// names neither its row nor its pages. Only then may the backing go: until then the superblock still counts
// it, and opening asks for it. A crash before (1) leaves it draining, before (3) released: asked again, the
// call goes on from there. After (3) the backing is in no row, an orphan.
//
// A segment grows when its backing has grown, durably: the record that names the new clusters comes before
// any that uses one. It shrinks the other way round: nothing past the new end is used in durable history, a
// record says so, a checkpoint is made (since what is replayed may still speak of what was there), and only
// then the backing is cut.
#include <fmt/format.h>

#include <algorithm>

#include "base/size.h"
#include "volume/await.h"
#include "volume/engine.h"

namespace foreshadow::volume {

using extent::Allocator;
using extent::SegmentState;

namespace {

// Room that a drain leaves for first touches: it must not be what makes a write wait.
constexpr uint64_t kDrainReserveBytes = 64 * kMiB;
constexpr uint32_t kDrainReserveShare = 16;  // of what the segments that stay hold

struct Offloaded {
  io::Executor& executor;
  std::function<Status()> work;
  Status outcome{};
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    executor.offload([this] { outcome = work(); }, [h] { h.resume(); });
  }
  Status await_resume() { return std::move(outcome); }
};

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

io::Task<Status> Evacuator::fold(Uuid segment) {
  auto done = co_await as_job({Job::Kind::kFold, segment}, evacuate(segment, SegmentState::kFolding));
  co_return done;
}

io::Task<Status> Evacuator::drain(Uuid segment) {
  auto done = co_await as_job({Job::Kind::kDrain, segment}, evacuate(segment, SegmentState::kDraining));
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

// What was set aside for it, and for nothing else.
Allocator::Run Evacuator::take_for_fold(uint32_t want) {
  Segment& primary = segments_.primary();
  const Allocator::Run run = primary.allocator.allocate(std::min(want, primary.reserved));
  primary.reserved -= run.count;
  return run;
}

Status Evacuator::check_room(const Segment& leaving, SegmentState how) {
  const uint64_t wanted = how == SegmentState::kFolding ? engine_.base_.homeless(engine_.map_, leaving)
                                                        : leaving.allocator.taken();
  const Segment& primary = segments_.primary();
  if (how == SegmentState::kFolding) {
    if (primary.room() >= wanted) return {};
    return fail(Code::kFailedPrecondition,
                fmt::format("segment {} holds {}, the primary has room for {}: let the primary grow first",
                            leaving.row.id.v, format_size(wanted * geometry_.cluster()),
                            format_size(uint64_t{primary.room()} * geometry_.cluster())));
  }
  const DrainRoom now = drain_room(leaving);
  if (now.room >= wanted + now.reserve || wanted == 0) return {};
  return fail(
      Code::kNoSpace,
      fmt::format("segment {} holds {}, the others have room for {}, of which {} must stay free: trim first",
                  leaving.row.id.v, format_size(wanted * geometry_.cluster()),
                  format_size(now.room * geometry_.cluster()),
                  format_size(now.reserve * geometry_.cluster())));
}

io::Task<Status> Evacuator::evacuate(Uuid uuid, SegmentState how) {
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
    auto checked = check_room(segment, how);
    if (!checked) co_return checked;
    if (how == SegmentState::kFolding) {
      segments_.primary().reserved = static_cast<uint32_t>(engine_.base_.homeless(engine_.map_, segment));
    }
    engine_.placement_.begin_evacuation(segment, how);
    auto emptied = co_await empty(segment, 0, how);
    segments_.primary().reserved = 0;
    if (!emptied) {
      // Where it was before: part of the volume. What has moved stays moved.
      const bool over = emptied.error().code == Code::kShutdown || committer_.poisoned();
      if (!over) {
        engine_.placement_.end_evacuation(segment,
                                          before == SegmentState::kSealed ? before : SegmentState::kMerged);
        engine_.retry_later();
        auto kept = co_await committer_.commit();
        if (!kept) co_return kept;
      }
      co_return emptied;
    }
    engine_.placement_.end_evacuation(segment, SegmentState::kReleased);
  }
  auto released = co_await release(segment);
  co_return released;
}

// Until durable history has nothing in the segment from cluster `first` on.
io::Task<Status> Evacuator::empty(Segment& segment, uint32_t first, SegmentState how) {
  auto noted = co_await committer_.commit();
  if (!noted) co_return noted;
  while (segment.allocator.taken_past(first) > 0) {
    const uint32_t before = segment.allocator.taken_past(first);
    const bool departing = !engine_.departures_.empty();
    Evacuation what;
    what.from = &segment;
    what.first = first;
    what.take = [this, &segment, how](uint32_t want) {
      if (how == SegmentState::kFolding) return take_for_fold(want);
      if (how == SegmentState::kMerged && segment.room() > 0) return segment.allocator.allocate(want);
      return take_for_drain(segment, want);
    };
    if (how == SegmentState::kFolding) what.home = [this](Lcn lcn) { return engine_.base_.take_home(lcn); };
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
  const uint32_t clusters = extent::clusters_in(segment.layout, geometry_, bytes);
  const uint64_t exact = align_up(extent::bytes_for(segment.layout, geometry_, clusters), extent::kMetaBlock);
  const bool wide =
      bytes > extent::bytes_for(segment.layout, geometry_, segment.layout.clusters) + geometry_.cluster();
  if (clusters == 0 || wide) {
    co_return fail(
        Code::kInvalidArgument,
        fmt::format("segment {} cannot be of {}: it can have {} to {}", segment.row.id.v, format_size(bytes),
                    format_size(extent::bytes_for(segment.layout, geometry_, 1)),
                    format_size(extent::bytes_for(segment.layout, geometry_, segment.layout.clusters))));
  }
  if (clusters < segment.row.clusters) {
    auto shrunk = co_await shrink(segment, clusters, exact);
    co_return shrunk;
  }
  if (segment.file->size() < exact) {
    Offloaded grown{executor_, [&segment, exact] { return segment.file->resize(exact); }};
    auto outcome = co_await grown;
    if (!outcome) co_return outcome;
  }
  set_clusters(segment, clusters);
  engine_.retry_later();
  auto recorded = co_await committer_.commit();
  co_return recorded;
}

void Evacuator::set_clusters(Segment& segment, uint32_t clusters) {
  segment.allocator.resize(clusters);
  if (segment.row.clusters == clusters) return;
  segment.row.clusters = clusters;
  engine_.on_state_changed(segment);
}

io::Task<Status> Evacuator::shrink(Segment& segment, uint32_t clusters, uint64_t bytes) {
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
    emptied = co_await empty(segment, clusters, SegmentState::kMerged);
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
  Offloaded cut{executor_, [&segment, bytes] { return segment.file->resize(bytes); }};
  auto outcome = co_await cut;
  co_return outcome;
}

}  // namespace foreshadow::volume
