// Writes. In place where the volume owns the sub-block; else a first touch: take a cluster, write, and only
// when the data is down, map it and append one record, in the order of the acknowledgements. Nothing is
// copied for the sake of a partial cluster.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "extent/sealed_block.h"
#include "volume/engine.h"

namespace foreshadow::volume {

using extent::kFullMask;
using extent::Mapping;

// [begin, end) takes the bytes at `source`. A range that is not whole sub-blocks goes through a bounce buffer
// that is.
void Engine::start_write(IoTask& task, uint64_t begin, uint64_t end, const std::byte* source,
                         bool may_skip_zeros) {
  task.step_begin = task.begin = begin;
  task.step_end = task.end = end;
  task.source = source;
  task.may_skip_zeros = may_skip_zeros;
  task.was_paced = false;
  task.step = IoTask::Step::kWrite;
  if ((begin | end) % geometry_.sub_block() != 0) {
    task.step = IoTask::Step::kFill;
    task.filled = false;
    task.begin = align_down(begin, geometry_.sub_block());
    task.end = align_up(end, geometry_.sub_block());
    if (task.bounce.size() < task.end - task.begin) {
      if (task.bounce.size() > 0) buffers_.give(std::move(task.bounce));
      task.bounce = buffers_.take(task.end - task.begin);
    }
    task.memory = task.bounce.data();
  } else {
    // Nothing writes through this pointer: a File takes it as const.
    task.memory = const_cast<std::byte*>(source);
  }
  lock_write(task);
}

void Engine::lock_write(IoTask& task) {
  const uint64_t sub_block = geometry_.sub_block();
  const auto first = static_cast<uint32_t>(task.begin >> geometry_.cluster_bits());
  const auto last = static_cast<uint32_t>((task.end - 1) >> geometry_.cluster_bits());
  for (uint32_t lcn = first; lcn <= last; ++lcn) {
    uint16_t mask = bits_of(Lcn(lcn), task.begin, task.end);
    uint16_t exclusive = 0;
    if (redirect_ == Redirect::kAll) {
      mask = exclusive = kFullMask;  // a move may give a physical cluster up
    } else if (checksums_.on()) {
      exclusive = mask;  // nobody verifies against a write in flight, and of two the last is the one noted
    } else if (task.step == IoTask::Step::kFill) {
      if (lcn == first && task.step_begin % sub_block != 0) {
        exclusive |= bits_of(Lcn(lcn), task.begin, task.begin + sub_block);
      }
      if (lcn == last && task.step_end % sub_block != 0)
        exclusive |= bits_of(Lcn(lcn), task.end - sub_block, task.end);
    }
    locks_.add(task, Lcn(lcn), mask, exclusive, bits_of(Lcn(lcn), task.begin, task.end));
  }
  lock_and_go(task);
}

// Reads what the partly written sub-blocks at both ends hold now. False: reads are in flight, pieces_done()
// comes back.
bool Engine::fill_edges(IoTask& task) {
  const uint64_t sub_block = geometry_.sub_block();
  const auto fill = [&](uint64_t at) {
    const Mapping mapping = map_.get(Lcn(static_cast<uint32_t>(at >> geometry_.cluster_bits())));
    const auto bit = static_cast<uint16_t>(1u << (at / sub_block % extent::kSubBlocks));
    if ((mapping.mask() & bit) == 0) {
      std::memset(task.memory + (at - task.begin), 0, sub_block);
    } else if ((mapping.squeezed_mask() & bit) != 0) {
      add_unpack(task, mapping, at, at + sub_block);
    } else {
      add_piece(task, (mapping.mask_a & bit) != 0 ? mapping.a : mapping.b, at, at + sub_block, false);
    }
  };
  const bool head = task.step_begin % sub_block != 0;
  const bool tail = task.step_end % sub_block != 0;
  if (head) fill(task.begin);
  if (tail && !(head && task.end - task.begin == sub_block)) fill(task.end - sub_block);
  if (task.pieces.empty() && task.unpacks.empty()) return true;
  return !submit_with_unpacks(task);
}

void Engine::run_write(IoTask& task) {
  if (task.step == IoTask::Step::kFill) {
    if (!task.filled) {
      task.filled = true;
      if (!fill_edges(task)) return;
    }
    if (task.code == Code::kOk) {
      std::memcpy(task.memory + (task.step_begin - task.begin), task.source, task.step_end - task.step_begin);
    }
    task.step = IoTask::Step::kWrite;
  }
  if (committer_.poisoned() && task.code == Code::kOk) task.code = Code::kReadOnly;
  if (task.code != Code::kOk) {
    end_hold(task);
    locks_.release(task);
    return finish_later(task, task.code);
  }
  if (!claim_clusters(task)) return;
  end_hold(task);
  write_plans(task);
}

// Plans the write and takes the clusters it needs. False: the task waits, for the journal or at the wall.
bool Engine::claim_clusters(IoTask& task) {
  const bool others_first = retrying_ != &task && (retrying_ != nullptr || !held_.empty());
  uint32_t wanted = plan_write(task, true);
  bool placeable = wanted == 0 || (!others_first && placement_.can_place(wanted));
  if (!placeable && redirect_ == Redirect::kAll) {
    // An overwrite is never held: without room to move to, it goes in place.
    wanted = plan_write(task, false);
    placeable = wanted == 0 || (!others_first && placement_.can_place(wanted));
  }
  const bool maps =
      std::any_of(task.plans.begin(), task.plans.end(), [](const ClusterPlan& p) { return p.placed != 0; });
  if (maps && !committer_.has_room()) {
    park(task);
    return false;
  }
  if (!placeable) {
    hold(task);
    return false;
  }
  if (wanted > 0 && band_.pace(task)) return false;
  reserve(task, wanted);
  return true;
}

// Whether a write with FUA needs no commit: an overwrite in place, of places that the journal has as they
// are. Its data alone must be durable, which a disk does for many at once; a commit is one sync after the
// other. Until the write has ended its locks keep the places. With checksums, more than the data counts.
bool Engine::is_durable_alone(const IoTask& task) const {
  if (!task.request->fua || task.request->kind != block::OpKind::kWrite) return false;
  if (!moves_.empty() || checksums_.on() || !committer_.recorded()) return false;
  return std::none_of(task.plans.begin(), task.plans.end(),
                      [](const ClusterPlan& plan) { return plan.placed != 0; });
}

// Sends the data of all plans on its way.
void Engine::write_plans(IoTask& task) {
  const uint64_t sub_block = geometry_.sub_block();
  for (const ClusterPlan& plan : task.plans) {
    if (plan.skip) continue;
    if (!moves_.empty()) note_in_move(plan);
    const Mapping mapping = map_.get(plan.lcn);
    const uint64_t base = uint64_t{plan.lcn.v} << geometry_.cluster_bits();
    const auto owner_of = [&](uint32_t index) {
      const auto bit = static_cast<uint16_t>(1u << index);
      if ((plan.placed & bit) != 0) return plan.target;
      return (mapping.mask_a & bit) != 0 ? mapping.a : mapping.b;
    };
    const auto last = static_cast<uint32_t>(std::bit_width(plan.bits));
    for (auto index = static_cast<uint32_t>(std::countr_zero(plan.bits)); index < last;) {
      const Pcn owner = owner_of(index);
      uint32_t to = index + 1;
      while (to < last && owner_of(to) == owner) ++to;
      add_piece(task, owner, base + index * sub_block, base + to * sub_block, true);
      index = to;
    }
  }
  task.durable = is_durable_alone(task);
  if (!task.pieces.empty()) return submit_write(task);
  task.plans.clear();  // zeros onto nothing
  locks_.release(task);
  if (task.request->kind == block::OpKind::kWrite) return finish_later(task, Code::kOk);
  task.step = IoTask::Step::kUnmap;
  executor_.post(task.post_op);
}

// With checksums, a write waits until the regions it goes to are noted. It keeps its locks and its places, so
// nothing of the plan changes meanwhile; but a checkpoint may, and so all of it is asked again.
void Engine::submit_write(IoTask& task) {
  if (!checksums_.on()) return submit_pieces(task);
  bool now = true;
  for (const Piece& piece : task.pieces)
    now = checksums_.may_write(*piece.segment, piece.at, piece.memory.size()) && now;
  if (!now) return noting_.push_back(&task);
  for (const Piece& piece : task.pieces) checksums_.writing(*piece.segment, piece.at, piece.memory.size());
  submit_pieces(task);
}

// In a turn of its own: whoever noted the regions is not done yet.
void Engine::resume_noting() {
  if (noting_.empty() || std::exchange(noted_posted_, true)) return;
  executor_.post(noted_op_);
}

void Engine::on_regions_noted(int) {
  noted_posted_ = false;
  std::vector<IoTask*> waiting;
  waiting.swap(noting_);
  for (IoTask* task : waiting) {
    if (!committer_.poisoned()) {
      submit_write(*task);
      continue;
    }
    task->pieces.clear();
    task->code = Code::kReadOnly;
    write_done(*task);
  }
}

// Fills task.plans; returns how many clusters must be taken.
uint32_t Engine::plan_write(IoTask& task, bool may_move) {
  task.plans.clear();
  uint32_t wanted = 0;
  const auto first = static_cast<uint32_t>(task.begin >> geometry_.cluster_bits());
  const auto last = static_cast<uint32_t>((task.end - 1) >> geometry_.cluster_bits());
  for (uint32_t lcn = first; lcn <= last; ++lcn) {
    const ClusterPlan plan = plan_cluster(task, Lcn(lcn), may_move);
    wanted += plan.placed != 0 && plan.target.v == 0 ? 1 : 0;
    task.plans.push_back(plan);
  }
  return wanted;
}

ClusterPlan Engine::plan_cluster(const IoTask& task, Lcn lcn, bool may_move) {
  const Mapping mapping = map_.get(lcn);
  ClusterPlan plan;
  plan.lcn = lcn;
  plan.bits = bits_of(lcn, task.begin, task.end);
  plan.placed = plan.bits & static_cast<uint16_t>(~mapping.raw_mask());
  plan.fresh = (plan.bits & ~mapping.mask()) != 0;
  // Not where a fold would put the image's old bytes before the reader again.
  if ((plan.bits & mapping.mask()) == 0 && task.may_skip_zeros && !base_.has(lcn)) {
    const uint64_t base = uint64_t{lcn.v} << geometry_.cluster_bits();
    const uint64_t from = std::max(task.begin, base);
    const uint64_t to = std::min(task.end, base + geometry_.cluster());
    if (extent::all_zero({task.memory + (from - task.begin), to - from})) {
      plan.skip = true;
      plan.placed = 0;
      return plan;
    }
  }
  if (const Move* move = moves_.empty() ? nullptr : moves_.find(lcn)) {
    choose_in_move(plan, mapping, *move);
  } else {
    choose_target(plan, mapping, may_move);
  }
  plan.elsewhere = plan.placed & mapping.mask();
  const bool in_a = mapping.a != plan.target && (plan.elsewhere & mapping.mask_a) != 0;
  plan.elsewhere_at = in_a ? mapping.a : mapping.b;
  return plan;
}

// By the rules of move_table.h. What is being copied stays at the source, and so does, for the time of the
// copy, what the copy would overwrite at the target.
void Engine::choose_in_move(ClusterPlan& plan, const Mapping& mapping, const Move& move) {
  const uint16_t at_source = mapping.mask_of(move.source);
  if (move.target.v == 0 || (plan.placed & move.copying) != 0) {
    plan.target = plan.placed != 0 ? move.source : Pcn(0);
    return;
  }
  plan.placed |= plan.bits & at_source & static_cast<uint16_t>(~move.copying);
  plan.target = plan.placed != 0 ? move.target : Pcn(0);
}

// The write is on its way: the copy must not overwrite it, and its place is noted again if a trim has taken
// it out of the map.
void Engine::note_in_move(const ClusterPlan& plan) {
  Move* move = moves_.find(plan.lcn);
  if (move == nullptr) return;
  move->dirty |= plan.bits & move->copying;
  Mapping mapping = map_.get(plan.lcn);
  if (plan.placed == 0 || mapping.a == plan.target || mapping.b == plan.target) return;
  (mapping.a.v == 0 ? mapping.a : mapping.b) = plan.target;
  map_.set(plan.lcn, mapping);
}

// Where the bits that have no place of their own yet go, and with `redirect all` also which bits leave the
// place they have. What is written of a squeezed cluster goes to an overlay above it: nothing is compressed
// again.
void Engine::choose_target(ClusterPlan& plan, const Mapping& mapping, bool may_move) {
  Segment* active = may_move && redirect_ == Redirect::kAll ? placement_.active_with_room() : nullptr;
  const auto lies_in_active = [&](Pcn pcn) {
    return active != nullptr && pcn.v != 0 && &segments_.of(pcn) == active;
  };
  if (lies_in_active(mapping.raw_a()) || lies_in_active(mapping.raw_b())) {
    plan.target = lies_in_active(mapping.raw_a()) ? mapping.a : mapping.b;
    const uint16_t there = plan.target == mapping.a ? mapping.mask_a : mapping.mask_b;
    plan.placed = plan.bits & static_cast<uint16_t>(~there);
  } else if (active != nullptr && mapping.a.v != 0 && mapping.b.v == 0) {
    plan.placed = plan.bits;  // all of it moves, into a cluster still to be taken
  } else if (plan.placed != 0) {
    plan.target = mapping.raw_a();  // beside what is there; a new cluster if nothing is
    if (base_.barred(plan.target)) plan.target = mapping.b;
    if (mapping.a.v == 0 && base_.has(plan.lcn) && placement_.active_with_room() == nullptr) {
      plan.target = base_.home_of(plan.lcn);
      plan.home = plan.target.v != 0;
    }
  }
}

// Takes clusters for the plans that need one, and notes them in the map with no sub-block yet, so that a
// neighbour in the same cluster finds the place.
void Engine::reserve(IoTask& task, uint32_t clusters) {
  taken_.clear();
  if (clusters > 0) placement_.take(clusters, taken_);
  if (checksums_.on()) {
    for (const Pcn pcn : taken_) checksums_.forget(pcn);
  }
  size_t next = 0;
  for (ClusterPlan& plan : task.plans) {
    if (plan.home) {
      ASSERT(base_.take_home(plan.lcn) == plan.target);
      map_.set(plan.lcn, {plan.target, Pcn(0), 0, 0});
      stats_.allocated_bytes += geometry_.cluster();
    }
    if (plan.placed == 0 || plan.target.v != 0) continue;
    plan.target = taken_[next++];
    Mapping mapping = map_.get(plan.lcn);
    if (!mapping.pack_a.is_raw()) {
      mapping = {plan.target, mapping.a, 0, mapping.mask_a, {}, mapping.pack_a};
    } else {
      (mapping.a.v == 0 ? mapping.a : mapping.b) = plan.target;
    }
    map_.set(plan.lcn, mapping);
  }
  ASSERT(next == clusters);
  stats_.allocated_bytes += uint64_t{clusters} * geometry_.cluster();
}

void Engine::write_done(IoTask& task) {
  if (committer_.poisoned() && task.code == Code::kOk) task.code = Code::kReadOnly;
  if (task.code == Code::kOk) {
    for (const ClusterPlan& plan : task.plans) {
      if (plan.placed != 0) place(plan);
    }
  }
  task.plans.clear();
  locks_.release(task);
  if (task.request->kind == block::OpKind::kWrite || task.code != Code::kOk) return durable_or_finish(task);
  task.step = IoTask::Step::kUnmap;  // one step of a larger zero request
  next_unmap_step(task);
}

// The data of `plan` is down: its bits now lie with its target, but for those that another write has found
// another place for meanwhile. That write was there at the same time as this one, and counts as the later:
// behind it there may be an older one at the target, which must not come back. What still lies where it did
// when this was planned has no later write. (Containers are packed anew meanwhile, but nothing goes into one
// while a write of it is under way.)
void Engine::place(const ClusterPlan& plan) {
  const Mapping before = map_.get(plan.lcn);
  Mapping after = before;
  ASSERT(after.a == plan.target || after.b == plan.target);
  const bool into_a = after.a == plan.target;
  uint16_t& gaining = into_a ? after.mask_a : after.mask_b;
  uint16_t& losing = into_a ? after.mask_b : after.mask_a;
  const Pcn loser = into_a ? after.b : after.a;
  const bool there_still = loser == plan.elsewhere_at || loser == before.container();
  const auto wins = static_cast<uint16_t>(plan.placed & ~(losing & ~(there_still ? plan.elsewhere : 0)));
  gaining |= wins;
  losing &= static_cast<uint16_t>(~wins);
  const bool emptied = loser.v != 0 && losing == 0 && (into_a ? before.mask_b : before.mask_a) != 0;
  const bool leaves_container = emptied && loser == before.container();
  // A move gives its places back itself: somebody may still read there.
  const bool moving = !moves_.empty() && moves_.find(plan.lcn) != nullptr;
  if (emptied && (leaves_container || !moving)) {
    if (!leaves_container) committer_.free_when_durable(loser);
    after = {plan.target, Pcn(0), gaining, 0};
  }
  record_mapping(plan.lcn, before, after);
  if (leaves_container) departures_.leave(plan.lcn, loser);  // reads share the lock, and may be in it
}

void Engine::record_mapping(Lcn lcn, const Mapping& before, const Mapping& after) {
  if (before == after) return;
  map_.set(lcn, after);
  deltas_.clear();
  const bool fits = extent::append_deltas(lcn, before, after, containers_, deltas_);
  ASSERT(fits);
  extent::MapRecord record{lcn, after.a, after.b, after.mask_a, after.mask_b, after.pack_a, after.pack_b};
  if (record.mask_b == 0) record.b = Pcn(0);
  if (record.mask_a == 0) record = {lcn, record.b, Pcn(0), record.mask_b, 0, record.pack_b, {}};
  if (record.mask_a != 0) committer_.append(record, deltas_);
}

}  // namespace foreshadow::volume
