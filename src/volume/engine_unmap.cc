// Zero and trim: sub-blocks leave the map, clusters that hold nothing more are free once that is durable. A
// request of any length goes step by step, a directory leaf at most at a time; what is not populated is
// skipped without a look at each cluster.
#include <algorithm>

#include "base/assert.h"
#include "volume/engine.h"

namespace foreshadow::volume {

using extent::kFullMask;
using extent::Mapping;

namespace {
constexpr uint32_t kStepClusters = 512;
}

void Engine::next_unmap_step(IoTask& task) {
  const block::Request& request = *task.request;
  const uint64_t sub_block = geometry_.sub_block();
  const uint64_t end = request.offset + request.length;
  const bool exact = request.kind == block::OpKind::kZero;
  if (task.code != Code::kOk) return finish_later(task, task.code);
  if (request.no_hole && task.cursor < end) {  // the range must stay allocated: real zeros
    const uint64_t from = task.cursor;
    task.cursor = std::min(end, from + zeros_.size() - from % zeros_.size());
    return start_write(task, from, task.cursor, zeros_.data(), false);
  }
  // Over an image, zeros are written, so that they are there when everything has been folded back.
  if (exact && task.cursor < end &&
      base_.has(Lcn(static_cast<uint32_t>(task.cursor >> geometry_.cluster_bits())))) {
    const uint64_t from = task.cursor;
    const uint64_t base_end = uint64_t{base_.segment()->row.clusters} << geometry_.cluster_bits();
    task.cursor = std::min({end, base_end, from + zeros_.size() - from % zeros_.size()});
    return start_write(task, from, task.cursor, zeros_.data(), false);
  }
  const uint64_t whole_end = align_down(end, sub_block);
  if (task.cursor < end &&
      task.cursor % sub_block != 0) {  // a partial sub-block at the head: written for zero, left for trim
    const uint64_t from = task.cursor;
    task.cursor = std::min(end, align_up(from, sub_block));
    if (exact) return start_write(task, from, task.cursor, zeros_.data(), true);
  }
  if (task.cursor < whole_end && lock_unmap(task)) return lock_and_go(task);
  if (task.cursor < end && exact) {  // and at the tail
    const uint64_t from = task.cursor;
    task.cursor = end;
    return start_write(task, from, end, zeros_.data(), true);
  }
  finish_later(task, Code::kOk);
}

// Enters the populated clusters of the next step; false if none is left.
bool Engine::lock_unmap(IoTask& task) {
  const uint64_t cluster = geometry_.cluster();
  const uint64_t whole_end = align_down(task.request->offset + task.request->length, geometry_.sub_block());
  task.step = IoTask::Step::kUnmap;
  while (task.cursor < whole_end) {
    const Lcn first = map_.next_populated(Lcn(static_cast<uint32_t>(task.cursor / cluster)));
    task.cursor = std::max(task.cursor, first.v * cluster);
    if (task.cursor >= whole_end) break;
    task.step_begin = task.cursor;
    task.step_end = std::min(whole_end, (align_down(first.v, kStepClusters) + kStepClusters) * cluster);
    task.cursor = task.step_end;
    const auto last = static_cast<uint32_t>((task.step_end - 1) / cluster);
    for (uint32_t lcn = first.v; lcn <= last; ++lcn) {
      if (map_.get(Lcn(lcn)).a.v != 0) locks_.add(task, Lcn(lcn), kFullMask, kFullMask, kFullMask);
    }
    if (!task.nodes.empty()) return true;
  }
  task.cursor = std::max(task.cursor, whole_end);
  return false;
}

void Engine::run_unmap(IoTask& task) {
  if (committer_.poisoned()) {
    locks_.release(task);
    return finish_later(task, Code::kReadOnly);
  }
  if (!committer_.has_room()) return park(task);
  // Clusters that become empty side by side share one record.
  extent::UnmapRecord run;
  deltas_.clear();
  std::vector<extent::Delta> run_deltas;
  const auto close_run = [&] {
    if (run.count > 0) committer_.append(run, run_deltas);
    run = {};
    run_deltas.clear();
  };
  for (const LockNode* node : task.nodes) {
    const Mapping before = map_.get(node->lcn);
    const uint16_t asked = bits_of(node->lcn, task.step_begin, task.step_end);
    if ((before.squeezed_mask() & static_cast<uint16_t>(~asked)) != 0) {
      close_run();
      if (zero_squeezed(task, *node)) return;
      break;
    }
    const uint16_t bits = bits_of(node->lcn, task.step_begin, task.step_end) & before.mask();
    Mapping after;
    Move* move = moves_.empty() ? nullptr : moves_.find(node->lcn);
    if (move != nullptr) move->dirty |= bits & move->copying;
    const auto keep = [&](Pcn pcn, uint16_t mask) {
      const auto left = static_cast<uint16_t>(mask & ~bits);
      if (pcn.v == 0) return;
      if (left == 0 && pcn == before.container()) return;
      if (left == 0) {
        if (move != nullptr) return;  // which gives its places back itself
        stats_.freed_bytes += geometry_.cluster();
        // A place taken by a write that failed was never in a record: it is free at once.
        if (mask == 0) {
          segments_.of(pcn).allocator.release(pcn);
          retry_later();
        } else {
          committer_.free_when_durable(pcn);
        }
      } else if (after.a.v == 0) {
        after.a = pcn;
        after.mask_a = left;
      } else {
        after.b = pcn;
        after.mask_b = left;
      }
    };
    keep(before.a, before.mask_a);
    keep(before.b, before.mask_b);
    if (after.a.v != 0 || before.mask() == 0) {
      close_run();
      record_mapping(node->lcn, before, after);
      if (before.is_squeezed()) departures_.give_back(before.container());
      continue;
    }
    if (run.count > 0 && run.lcn.next(run.count) != node->lcn) close_run();
    if (run.count == 0) run.lcn = node->lcn;
    ++run.count;
    const bool fits = extent::append_deltas(node->lcn, before, after, containers_, run_deltas);
    ASSERT(fits);
    map_.set(node->lcn, after);
    if (before.is_squeezed()) departures_.give_back(before.container());
  }
  close_run();
  locks_.release(task);
  if (!held_.empty() && committer_.frees_pending()) committer_.request();
  executor_.post(task.post_op);  // the next step, after others had their turn
}

}  // namespace foreshadow::volume
