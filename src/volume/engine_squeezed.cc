// Squeezed clusters in the way of requests: reads decode them, writes lay an overlay above them, and a place
// that is left while requests may be in it is given back when they have ended.
#include <algorithm>
#include <cmath>

#include "base/assert.h"
#include "volume/engine.h"

namespace foreshadow::volume {
namespace {
constexpr size_t kDecodeHere = 2;  // a request for more clusters is decoded on the worker thread
}

// [from, to) of the volume lies in the container of `mapping`.
void Engine::add_unpack(IoTask& task, const extent::Mapping& mapping, uint64_t from, uint64_t to) {
  Unpack& part = task.unpacks.emplace_back();
  part.lcn = Lcn(static_cast<uint32_t>(from >> geometry_.cluster_bits()));
  part.container = mapping.container();
  part.pack = mapping.container_pack();
  part.from = static_cast<uint32_t>(from & (geometry_.cluster() - 1));
  part.into = {task.memory + (from - task.begin), to - from};
  part.task = &task;
  part.done = [](Unpack* done, Code code) { done->task->engine->on_unpacked(*done->task, code); };
}

// Sends pieces and unpacks on their way. False: everything was at hand, and nothing is in flight.
bool Engine::submit_with_unpacks(IoTask& task) {
  const bool aside = task.unpacks.size() > kDecodeHere;
  for (Unpack& part : task.unpacks) task.pending += unpacker_.want(part, aside) ? 0 : 1;
  if (task.pending > 0 || !task.pieces.empty()) {
    submit_pieces(task);
    return true;
  }
  task.unpacks.clear();
  return false;
}

void Engine::on_unpacked(IoTask& task, Code code) {
  if (code != Code::kOk && task.code == Code::kOk) task.code = code;
  if (--task.pending == 0) pieces_done(task);
}

// `lcn` has left `place`, by a change of the map that holds nobody up: what is in the cluster now may still
// read there. The place is given back when all of it has ended.
void Engine::give_back_later(Lcn lcn, Pcn place) {
  if (idle_watches_.empty()) {
    idle_watches_.push_back(watches_.emplace_back(std::make_unique<Watch>()).get());
    idle_watches_.back()->engine = this;
    idle_watches_.back()->granted = [](LockOwner* owner) {
      auto* watch = static_cast<Watch*>(owner);
      Engine& engine = *watch->engine;
      engine.locks_.release(*watch);
      engine.idle_watches_.push_back(watch);
      const auto left = engine.leaving_.find(watch->place);
      if (--left->second == 0) engine.leaving_.erase(left);
      engine.give_back(watch->place);
    };
  }
  Watch* watch = idle_watches_.back();
  idle_watches_.pop_back();
  watch->place = place;
  ++leaving_[place];
  locks_.add_watch(*watch, lcn);
  if (locks_.acquire(*watch)) watch->granted(watch);
}

// Nobody can be in `place` any more on behalf of the cluster that left it. Free, when that is durable, unless
// it is a container of others, or others leave it.
void Engine::give_back(Pcn place) {
  if (containers_.find(place) != nullptr || leaving_.contains(place)) return;
  stats_.freed_bytes += geometry_.cluster();
  committer_.free_when_durable(place);
  if (!held_.empty()) committer_.request();
}

// A part of a squeezed cluster is trimmed or zeroed: zeros are written above it. True: the task goes on with
// that. False: it has other clusters before, and comes to this one in its next step.
bool Engine::zero_squeezed(IoTask& task, const LockNode& node) {
  const uint64_t base = uint64_t{node.lcn.v} << geometry_.cluster_bits();
  const uint64_t from = std::max(task.step_begin, base);
  if (task.nodes.front() != &node) {
    task.cursor = from;
    return false;
  }
  task.cursor = std::min(task.step_end, base + geometry_.cluster());
  locks_.release(task);
  start_write(task, from, task.cursor, zeros_.data(), false);
  return true;
}

// These sub-blocks are about to change where they are.
void Engine::mark_dirty(Lcn lcn, uint16_t bits) {
  if (Move* move = moves_.find(lcn)) move->dirty |= bits & move->copying;
}

io::Task<Result<SqueezeReport>> Engine::squeeze_segment(Uuid segment, SqueezeOptions options) {
  const Status level = check_level(options.how);
  if (!level) co_return tl::unexpected(level.error());
  auto report = co_await squeezer_.run(segment, options);
  co_return report;
}

Squeezed Engine::squeezed() const {
  Squeezed out;
  const auto& by_slots = containers_.by_slots();
  const auto members = static_cast<double>(containers_.members());
  out.logical = containers_.members() * geometry_.cluster();
  out.physical = containers_.count() * geometry_.cluster();
  if (members == 0) return out;
  double sum = 0;
  double squares = 0;
  uint64_t below = 0;
  for (uint32_t slots = 1; slots < by_slots.size(); ++slots) {
    const double ratio = static_cast<double>(slots) / extent::kSlots;
    const auto count = static_cast<double>(by_slots[slots]);
    sum += count * ratio;
    squares += count * ratio * ratio;
    below += by_slots[slots];
    if (out.ratio_p10 == 0 && static_cast<double>(below) >= 0.1 * members) out.ratio_p10 = ratio;
    if (out.ratio_p90 == 0 && static_cast<double>(below) >= 0.9 * members) out.ratio_p90 = ratio;
  }
  out.ratio_mean = sum / members;
  out.ratio_stddev = std::sqrt(std::max(0.0, squares / members - out.ratio_mean * out.ratio_mean));
  return out;
}

}  // namespace foreshadow::volume
