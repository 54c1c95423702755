#include <algorithm>
#include <cstring>
#include <utility>

#include "volume/engine.h"

namespace foreshadow::volume {

void Engine::start_read(IoTask& task) {
  block::Request& request = *task.request;
  task.step = IoTask::Step::kRead;
  task.step_begin = task.begin = request.offset;
  task.step_end = task.end = request.offset + request.length;
  task.memory = request.data.data();
  request.read_all_zero = false;
  if ((request.offset | request.length) % alignment_ != 0) {
    task.begin = align_down(task.begin, geometry_.sub_block());
    task.end = align_up(task.end, geometry_.sub_block());
    task.bounce = buffers_.take((task.end - task.begin) * (task.scrub != nullptr ? 2 : 1));
    task.memory = task.bounce.data();
  }
  const auto first = static_cast<uint32_t>(task.begin >> geometry_.cluster_bits());
  const auto last = static_cast<uint32_t>((task.end - 1) >> geometry_.cluster_bits());
  for (uint32_t lcn = first; lcn <= last; ++lcn)
    locks_.add(task, Lcn(lcn), bits_of(Lcn(lcn), task.begin, task.end), 0);
  lock_and_go(task);
}

void Engine::run_read(IoTask& task) {
  const uint64_t cluster = geometry_.cluster();
  const uint64_t sub_block = geometry_.sub_block();
  for (uint64_t at = task.begin; at < task.end;) {
    const uint64_t cluster_end = std::min(task.end, align_down(at, cluster) + cluster);
    const extent::Mapping mapping = map_.get(Lcn(static_cast<uint32_t>(at / cluster)));
    const auto owner_of = [&](uint64_t offset) {
      const auto bit = static_cast<uint16_t>(1u << (offset / sub_block % extent::kSubBlocks));
      if ((mapping.mask_a & bit) != 0) return mapping.a;
      return (mapping.mask_b & bit) != 0 ? mapping.b : Pcn(0);
    };
    bool has_blob = false;
    while (at < cluster_end) {
      const Pcn owner = owner_of(at);
      uint64_t to = cluster_end;
      if (mapping.mask_a != extent::kFullMask) {
        to = std::min(cluster_end, align_down(at, sub_block) + sub_block);
        while (to < cluster_end && owner_of(to) == owner) to = std::min(cluster_end, to + sub_block);
      }
      if (owner.v == 0) {
        std::memset(task.memory + (at - task.begin), 0, to - at);
      } else if (owner == mapping.container()) {
        const bool as_stored = task.scrub != nullptr && segments_.of(owner).checksums.exists();
        if (!as_stored) add_unpack(task, mapping, at, to);
        if (as_stored && !std::exchange(has_blob, true)) add_blob(task, mapping, align_down(at, cluster));
      } else {
        add_piece(task, owner, at, to, false);
      }
      at = to;
    }
  }
  if (!task.unpacks.empty()) {
    if (!submit_with_unpacks(task)) read_at_hand(task);
    return;
  }
  if (task.pieces.empty()) {
    task.request->read_all_zero = true;
    if (task.bounce.size() > 0) std::memset(task.request->data.data(), 0, task.request->length);
    locks_.release(task);
    return finish_later(task, Code::kOk);
  }
  submit_pieces(task);
}

// All of it was kept decoded: it is complete, in a later turn.
void Engine::read_at_hand(IoTask& task) {
  const block::Request& request = *task.request;
  if (task.bounce.size() > 0)
    std::memcpy(request.data.data(), task.memory + (request.offset - task.begin), request.length);
  locks_.release(task);
  finish_later(task, Code::kOk);
}

void Engine::read_done(IoTask& task) {
  block::Request& request = *task.request;
  if (task.code == Code::kOk && task.bounce.size() > 0) {
    std::memcpy(request.data.data(), task.memory + (request.offset - task.begin), request.length);
  }
  locks_.release(task);
  finish(task, task.code);
}

std::vector<block::Extent> Engine::extents(uint64_t offset, uint64_t length, size_t max_extents) const {
  std::vector<block::Extent> out;
  const uint64_t end = offset + length;
  const uint64_t cluster = geometry_.cluster();
  const auto add = [&](uint64_t bytes, bool hole) {
    if (!out.empty() && out.back().hole == hole) {
      out.back().length += bytes;
      return true;
    }
    if (out.size() == max_extents) return false;
    out.push_back({bytes, hole});
    return true;
  };
  for (uint64_t at = offset; at < end;) {
    const Lcn lcn(static_cast<uint32_t>(at / cluster));
    const Lcn populated = map_.next_populated(lcn);
    if (populated != lcn) {
      const uint64_t to = std::min(end, populated.v * cluster);
      if (!add(to - at, true)) break;
      at = to;
      continue;
    }
    const uint16_t mask = map_.get(lcn).mask();
    const uint64_t cluster_end = std::min(end, (lcn.v + 1) * cluster);
    bool full = false;
    while (at < cluster_end && !full) {
      const uint64_t to =
          std::min(cluster_end, align_down(at, geometry_.sub_block()) + geometry_.sub_block());
      const auto bit = static_cast<uint32_t>(at / geometry_.sub_block() % extent::kSubBlocks);
      full = !add(to - at, (mask >> bit & 1) == 0);
      at = to;
    }
    if (full) break;
  }
  return out;
}

}  // namespace foreshadow::volume
