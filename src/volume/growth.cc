#include "volume/growth.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "base/size.h"
#include "volume/engine.h"

namespace foreshadow::volume {

Growth::Growth(Engine& engine) : engine_(engine), ended_(engine.executor_) {}

io::Task<Status> Growth::run(uint64_t size) {
  while (running_) co_await ended_.wait();
  auto checked = check(size);
  if (!checked || size == engine_.size_) co_return checked;
  running_ = true;
  auto grown = co_await grow_to(size);
  running_ = false;
  ended_.notify_all();
  co_return grown;
}

Status Growth::check(uint64_t size) const {
  if (size == engine_.size_) return {};
  if (engine_.closing_) return fail(Code::kShutdown, fmt::format("volume {} is closing", engine_.name()));
  if (engine_.committer_.poisoned()) return fail(Code::kReadOnly, engine_.committer_.poison_reason());
  if (size < engine_.size_) {
    return fail(Code::kInvalidArgument,
                fmt::format("volume {} has {} already, and never shrinks to {}", engine_.name(),
                            format_size(engine_.size_), format_size(size)));
  }
  if (size > limits::kVolumeSizeMax || div_up(size, engine_.geometry_.cluster()) > UINT32_MAX) {
    return fail(Code::kInvalidArgument, fmt::format("volume size {}: at most {}", format_size(size),
                                                    format_size(limits::kVolumeSizeMax)));
  }
  if (size % engine_.geometry_.sub_block() != 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("volume size {} is not a multiple of {}", size, engine_.geometry_.sub_block()));
  }
  return {};
}

io::Task<Status> Growth::grow_to(uint64_t size) {
  // It is as large already if a growth has failed after this.
  const auto clusters = static_cast<uint32_t>(div_up(size, engine_.geometry_.cluster()));
  engine_.map_.grow(std::max(engine_.map_.clusters(), clusters));
  if (engine_.base_.tail_is_cut()) {
    auto moved =
        co_await engine_.evacuator_.as_job({Job::Kind::kResize, engine_.label_.base->uuid}, move_tail());
    if (!moved) co_return moved;
  }
  engine_.committer_.append(extent::GrowRecord{size}, {});
  auto committed = co_await engine_.committer_.commit();
  if (committed) engine_.size_ = size;
  co_return committed;
}

// A first touch under way may have found its place there just before it was barred, so: until none is left.
io::Task<Status> Growth::move_tail() {
  BasePlaces& base = engine_.base_;
  Segment& image = *base.segment();
  if (engine_.size_ > image.data_end) co_return Status{};
  base.bar_tail(true);
  Status outcome;
  while (outcome && base.tail_is_taken()) {
    Evacuation what;
    what.from = &image;
    what.first = image.row.clusters - 1;
    what.take = [this](uint32_t) {
      if (!engine_.placement_.can_place(1)) return extent::Allocator::Run{};
      engine_.taken_.clear();
      engine_.placement_.take(1, engine_.taken_);
      return extent::Allocator::Run{engine_.taken_.front(), 1};
    };
    outcome = co_await engine_.relocator_.run(std::move(what));
    if (outcome) outcome = co_await engine_.committer_.commit();  // what was freed is free now
  }
  if (!outcome) base.bar_tail(false);
  co_return outcome;
}

}  // namespace foreshadow::volume
