// Another primary: the head of a live volume, its superblock and its journal, goes to another segment.
//
// The new one has been attached like any segment before, so both are in the segment table, whichever is the
// head. Then, with commits and checkpoints held:
//
// (1) A checkpoint is written to the old head. From here on its journal is empty, and what is durable is in
//     the tables, each of which lies in its own segment.
// (2) The same superblock is written to the new head, with a higher sequence and epoch, the rows of both
//     exchanged, and an empty journal from block 1 on: a claim (extent/head.h).
// (3) A mark in the old head says that the new one is it.
// (4) Commits go on, into the new journal.
//
// A crash before two copies of the claim are durable leaves the old head; after it the new one, whose claim
// is the higher. Both tell of the same volume until (4), since no commit is made meanwhile: whichever is
// chosen has all that was acknowledged. Opening makes what it has read durable, and writes the mark that may
// be missing, before it writes anything else; so when the two begin to differ, the old head is marked, and it
// is never chosen again, not even if the new one is lost: then the volume is refused. The new ring is fresh,
// so no block in it can be mistaken; the epoch is raised all the same, by which a rescue without any
// superblock tells the newer journal.
//
// Then the old head is a segment like others. Its row says draining from (2) on, so that a restart goes on
// with emptying it (evacuate.cc), asked or not.
#include <fmt/format.h>

#include <algorithm>

#include "extent/head.h"
#include "volume/engine.h"

namespace foreshadow::volume {

using extent::SegmentState;

io::Task<Status> Evacuator::replace(SegmentFile next) {
  const Uuid uuid = next.uuid;
  auto done = co_await as_job({Job::Kind::kMove, uuid}, replace_now(std::move(next)));
  co_return done;
}

io::Task<Status> Evacuator::replace_now(SegmentFile next) {
  const Uuid uuid = next.uuid;
  Segment& from = segments_.primary();
  if (from.row.uuid == uuid) co_return Status{};
  if (engine_.base_.segment() != nullptr) {
    co_return fail(Code::kFailedPrecondition,
                   fmt::format("volume {} lies over an image, whose table is in its primary: it cannot be "
                               "moved",
                               engine_.name()));
  }
  if (next.file == nullptr && segments_.find(uuid) == nullptr) {
    co_return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", engine_.name(), uuid.str()));
  }
  auto attached = co_await engine_.attach(std::move(next), SegmentRole::kPrimary, SegmentState::kMerged);
  if (!attached) co_return attached;
  Segment& to = *segments_.find(uuid);
  if (to.layout.journal_blocks == 0 || to.row.state != SegmentState::kMerged) {
    co_return fail(
        Code::kFailedPrecondition,
        fmt::format("segment {} of volume {} cannot become its primary: it {}", to.row.id.v, engine_.name(),
                    to.layout.journal_blocks == 0 ? "was made as a shadow" : "is being released"));
  }
  auto room = check_drain_room(from);
  if (!room) co_return room;
  auto most = co_await checkpointer_.run_now();  // so that little is left for the one that requests wait for
  if (!most) co_return most;
  auto moved = co_await move_head(from, to);
  if (!moved) co_return moved;
  engine_.retry_later();
  auto recorded = co_await committer_.commit();
  co_return recorded;
}

io::Task<Status> Evacuator::move_head(Segment& from, Segment& to) {
  auto done = co_await committer_.block();
  if (done) done = co_await checkpointer_.run_now();
  auto held = co_await checkpointer_.block();
  if (done && !held) done = held;
  if (done && committer_.poisoned()) done = fail(Code::kReadOnly, committer_.poison_reason());
  // A check, or a repair, must not see one that is half done.
  while (engine_.checking_ > 0) co_await engine_.check_ended_.wait();
  engine_.moving_head_ = true;
  if (done) done = co_await claim(from, to);
  engine_.moving_head_ = false;
  engine_.check_ended_.notify_all();
  checkpointer_.unblock();
  committer_.unblock();
  co_return done;
}

// Steps (2) and (3), and what they mean in memory. If either fails, nobody knows what is on disk.
io::Task<Status> Evacuator::claim(Segment& from, Segment& to) {
  extent::SegmentRow head = to.row;
  extent::SegmentRow left = from.row;
  std::swap(head.id, left.id);
  std::swap(head.role, left.role);
  left.state = SegmentState::kDraining;
  extent::Superblock super = checkpointer_.super();
  ++super.sequence;
  super.epoch = super.epoch.next();
  super.replay_from = super.epoch_start = BlockSeq(1);
  super.replay_prev_crc = 0;
  for (extent::SegmentRow& row : super.segments) {
    if (row.uuid == to.row.uuid) {
      row = left;
    } else if (row.uuid == from.row.uuid) {
      row = head;
    }
  }
  auto written = co_await extent::write_superblock(*to.file, super);
  if (written) written = co_await extent::write_superblock(*from.file, extent::make_mark(super, to.row.uuid));
  if (!written) {
    committer_.poison(fmt::format("a change of the primary failed: {}", written.error().message));
    co_return written;
  }
  to.row = head;
  from.row = left;
  segments_.make_primary(to);
  committer_.begin_ring(super.epoch, super.segments);
  checkpointer_.moved(std::move(super));
  // Said in the journal as well, for a rescue.
  engine_.on_state_changed(to);
  engine_.on_state_changed(from);
  co_return Status{};
}

}  // namespace foreshadow::volume
