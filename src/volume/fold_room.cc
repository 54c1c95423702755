#include "volume/fold_room.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/size.h"
#include "volume/await.h"
#include "volume/engine.h"

namespace foreshadow::volume {

namespace {
constexpr Nanos kLook = std::chrono::milliseconds(1);
constexpr int kGentleRest = 2;  // times what a step took
}  // namespace

FoldRoom::FoldRoom(Engine& engine, uint64_t wanted, uint32_t clusters)
    : engine_(engine),
      primary_(engine.segments_.primary()),
      left_(wanted),
      clusters_(std::max(clusters, primary_.row.clusters)),
      grown_(engine.executor_) {
  surplus_ = room_then() - std::min(room_then(), left_);
}

FoldRoom::~FoldRoom() {
  primary_.reserved = 0;
}

uint64_t FoldRoom::room_then() const {
  return uint64_t{primary_.room()} + clusters_ - primary_.row.clusters;
}

Status FoldRoom::check(const Segment& leaving) const {
  const uint64_t cluster = engine_.geometry_.cluster();
  const uint64_t room = room_then();
  if (room >= left_) return {};
  return fail(Code::kFailedPrecondition,
              fmt::format("segment {} holds {}, the primary has room for {}: let the primary grow first",
                          leaving.row.id.v, format_size(left_ * cluster), format_size(room * cluster)));
}

void FoldRoom::begin() {
  growing_ = primary_.row.clusters < clusters_;
  set_aside();
  if (growing_) grow();
}

void FoldRoom::recount(uint64_t wanted) {
  left_ = wanted;
  set_aside();
}

// While it grows, first touches find what they would find in the end.
void FoldRoom::set_aside() {
  const uint64_t free = primary_.allocator.free();
  const uint64_t for_others = growing_ ? std::min(free, surplus_) : 0;
  primary_.reserved = static_cast<uint32_t>(std::min(left_, free - for_others));
}

// What was set aside for it, and nothing else.
extent::Allocator::Run FoldRoom::take(uint32_t want) {
  const extent::Allocator::Run run = primary_.allocator.allocate(std::min(want, primary_.reserved));
  primary_.reserved -= run.count;
  left_ -= std::min<uint64_t>(left_, run.count);
  return run;
}

io::Detached FoldRoom::grow() {
  const uint32_t step = div_up(clusters_ - primary_.row.clusters, kSteps);
  const auto in_clusters = [&](uint64_t bytes) {
    return static_cast<uint32_t>(div_up(bytes, engine_.geometry_.cluster()));
  };
  const auto goes_on = [&] {
    return !ending_ && !engine_.evacuator_.stopping() && !engine_.closing_ && !engine_.committer_.poisoned();
  };
  while (primary_.row.clusters < clusters_ && goes_on()) {
    const MonoTime began = engine_.executor_.now();
    const bool gently = primary_.file->in_memory() && engine_.pacer_.foreground_active(began);
    const uint32_t ahead = gently ? in_clusters(kGentleAhead) : UINT32_MAX;
    if (primary_.reserved >= ahead) {
      co_await rest(engine_.executor_, kLook);
      continue;
    }
    const uint32_t most = gently ? in_clusters(kGentleStep) : step;
    const uint32_t next = primary_.row.clusters + std::min(most, clusters_ - primary_.row.clusters);
    auto grown = co_await engine_.evacuator_.grow_segment(primary_, next);
    if (!grown) {
      outcome_ = std::move(grown);
      break;
    }
    set_aside();
    engine_.retry_later();
    engine_.relocator_.on_room();
    if (gently) co_await rest(engine_.executor_, kGentleRest * (engine_.executor_.now() - began));
  }
  growing_ = false;
  set_aside();
  engine_.relocator_.on_room();
  grown_.notify_all();
}

io::Task<Status> FoldRoom::end(bool early) {
  ending_ = early;
  while (growing_) co_await grown_.wait();
  co_return outcome_;
}

}  // namespace foreshadow::volume
