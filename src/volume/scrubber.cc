#include "volume/scrubber.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace foreshadow::volume {
namespace {

constexpr uint32_t kClustersAtATime = 4;  // 256 KiB: what a writer may have to wait for
constexpr Nanos kKeepEvery = std::chrono::seconds(30);
constexpr Nanos kBurst = std::chrono::milliseconds(100);  // that a pause may be made up for

}  // namespace

Scrubber::Scrubber(io::Executor& executor, ScrubSource& source, Pacer& pacer)
    : executor_(executor), source_(source), pacer_(pacer), ended_(executor) {
  timer_.op.target = this;
  timer_.op.done = [](io::Op* op, int) {
    auto* self = static_cast<Scrubber*>(op->target);
    if (self->sleeping_) std::exchange(self->sleeping_, nullptr).resume();
  };
}

Scrubber::~Scrubber() {
  executor_.cancel(timer_);
  ASSERT(!progress_.running);
}

void Scrubber::Sleep::await_suspend(std::coroutine_handle<> h) {
  self.sleeping_ = h;
  self.executor_.arm(self.timer_, until);
}

void Scrubber::stop() {
  stopping_ = true;
  if (sleeping_) executor_.arm(timer_, executor_.now());
}

io::Task<Status> Scrubber::wait_idle() {
  while (progress_.running) co_await ended_.wait();
  co_return Status{};
}

io::Task<Result<ScrubProgress>> Scrubber::run(ScrubOptions options) {
  if (progress_.running) co_return fail(Code::kBusy, "a scrub of the volume runs already");
  stopping_ = false;
  progress_ = {true, options.from, options.from, 0};
  progress_.total = std::max(source_.stored_sub_blocks(), options.from.counts.read);
  auto walked = co_await walk(options.bytes_per_s);
  auto kept = co_await keep();
  if (walked) walked = kept;
  progress_.running = false;
  ended_.notify_all();
  if (!walked) co_return tl::unexpected(walked.error());
  co_return progress_;
}

io::Task<Status> Scrubber::walk(uint64_t bytes_per_s) {
  MonoTime due = executor_.now();
  MonoTime kept_at = due;
  while (!stopping_) {
    const Lcn first = source_.next_mapped(progress_.now.cursor);
    if (first >= source_.end()) {
      progress_.now.cursor = source_.end();
      break;
    }
    const uint32_t clusters = std::min(kClustersAtATime, source_.end().v - first.v);
    const MonoTime began = executor_.now();
    const uint64_t read_before = progress_.now.counts.read;
    pacer_.work_began();
    auto read = co_await source_.scrub_clusters(first, clusters, progress_.now.counts);
    pacer_.work_ended();
    if (!read) co_return read;
    progress_.now.cursor = first.next(clusters);
    const MonoTime now = executor_.now();
    if (now - kept_at >= kKeepEvery) {
      auto kept = co_await keep();
      if (!kept) co_return kept;
      kept_at = now;
    }
    MonoTime go_on = now + pacer_.rest_after(now, now - began);
    if (bytes_per_s > 0) {
      const uint64_t bytes = (progress_.now.counts.read - read_before) * source_.sub_block_bytes();
      due = std::max(due, now - kBurst) + Nanos(bytes * 1'000'000'000 / bytes_per_s);
      go_on = std::max(go_on, due);
    }
    if (go_on > now) co_await Sleep{*this, go_on};
  }
  co_return Status{};
}

io::Task<Status> Scrubber::keep() {
  const ScrubPoint point = progress_.now;
  if (point.counts.filled != progress_.resume.counts.filled) {
    auto kept = co_await source_.keep_checksums();
    if (!kept) co_return kept;
  }
  progress_.resume = point;
  co_return Status{};
}

}  // namespace foreshadow::volume
