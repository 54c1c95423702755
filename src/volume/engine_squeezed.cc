// Squeezed clusters in the way of requests: reads decode them, writes lay an overlay above them.
#include <fmt/format.h>

#include <algorithm>

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
  if (code != Code::kOk && task.scrub != nullptr)
    ++(code == Code::kCorrupt ? task.scrub->corrupt : task.scrub->unreadable);
  if (code != Code::kOk && task.code == Code::kOk) task.code = code;
  if (--task.pending == 0) pieces_done(task);
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

// A pass at a time, as a job; when another job waits it stops, lets it go first, and goes on where it was.
io::Task<Result<SqueezeReport>> Engine::squeeze_segment(Uuid segment, SqueezeOptions options) {
  const Status level = check_level(options.how);
  if (!level) co_return tl::unexpected(level.error());
  if (label_.base) {
    // What lies in its shadows is to be folded back as it is.
    co_return fail(Code::kFailedPrecondition,
                   fmt::format("volume {} lies over an image: it is not squeezed", name()));
  }
  Squeezer::Pass pass;
  pass.segment = segment;
  pass.options = options;
  while (!pass.finished) {
    while (evacuator_.others_wait() && !closing_) co_await evacuator_.ended().wait();
    auto done = co_await evacuator_.as_job({JobKind::kSqueeze, segment}, squeezer_.run(pass));
    if (!done) co_return tl::unexpected(done.error());
  }
  co_return pass.report;
}

}  // namespace foreshadow::volume
