// The wall. A first touch that finds no cluster waits, in order of arrival and without its locks, so that
// reads and overwrites pass; a shadow or freed clusters let it go on, hold_timeout ends it with a clean "no
// space". Nothing overtakes: a later first touch queues behind.
#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "volume/engine.h"

namespace foreshadow::volume {

void Engine::hold(IoTask& task) {
  task.plans.clear();
  const bool again = retrying_ == &task;
  if (closing_ || (!task.was_held && held_.size() >= limits::kHeldRequests)) {
    end_hold(task);
    locks_.release(task);
    return finish_later(task, closing_ ? Code::kShutdown : Code::kNoSpace);
  }
  if (again) retrying_ = nullptr;
  if (!task.was_held) {
    task.was_held = true;
    task.waited_for_freed = false;
    task.held_since = executor_.now();
    task.hold_deadline = task.held_since + options_.hold_timeout;
    ++stats_.holds;
    if (++stats_.held_now == 1) tell([](Listener& listener) { listener.on_hold_began(); });
  }
  // Only the oldest is ever retried, so what comes back belongs at the front. Behind one that is being
  // retried, which is in no queue, nobody has been tried yet.
  task.tried_first = again || (held_.empty() && retrying_ == nullptr);
  again ? held_.push_front(&task) : held_.push_back(&task);
  executor_.arm(hold_timer_, held_.front()->hold_deadline);
  if (committer_.frees_pending()) committer_.request();
  // Last: whoever gets the locks now finds this one waiting before it.
  locks_.release(task);
}

// Always tried, room or not: the write before it may have brought the cluster this one needs.
void Engine::retry_held() {
  if (retrying_ != nullptr || held_.empty()) return;
  retrying_ = held_.front();
  held_.pop_front();
  try_again(*retrying_);
}

// A write that had given up its locks to wait.
void Engine::try_again(IoTask& task) {
  if (task.step_begin != task.begin || task.step_end != task.end) {
    task.step = IoTask::Step::kFill;  // the edges may have changed meanwhile
    task.filled = false;
  }
  lock_write(task);
}

// The task has its place, or has failed: it waits no more.
void Engine::end_hold(IoTask& task) {
  if (!task.was_held) return;
  task.was_held = false;
  const auto waited =
      std::chrono::duration_cast<std::chrono::microseconds>(executor_.now() - task.held_since);
  stats_.hold_us_max = std::max(stats_.hold_us_max, static_cast<uint64_t>(waited.count()));
  if (--stats_.held_now == 0) tell([](Listener& listener) { listener.on_hold_ended(); });
  if (retrying_ != &task) return;
  retrying_ = nullptr;
  retry_later();
}

// In a turn of its own: whoever made room is not done yet.
void Engine::retry_later() {
  if (!held_.empty()) held_.front()->tried_first = false;
  if (std::exchange(retry_posted_, true)) return;
  executor_.post(retry_op_);
}

void Engine::on_retry(int) {
  retry_posted_ = false;
  band_.look();
  retry_held();
}

// One at a time: the one behind may need less, and is tried before its own time counts as up. Nor is it up
// while the commit is under way that gives back what was trimmed before; of those it waits for one, so that a
// stream of trims that help nothing keeps nobody for ever.
void Engine::expire_held() {
  if (held_.empty() || freed_waiter_.waits) return;
  IoTask* oldest = held_.front();
  if (oldest->hold_deadline > executor_.now()) return executor_.arm(hold_timer_, oldest->hold_deadline);
  if (!oldest->tried_first) return retry_later();  // hold() arms the timer again, or the end of a retry
  if (committer_.frees_pending() && !std::exchange(oldest->waited_for_freed, true)) {
    freed_waiter_.waits = true;
    return committer_.wait(freed_waiter_);
  }
  held_.pop_front();
  end_hold(*oldest);
  finish_later(*oldest, Code::kNoSpace);
  if (held_.empty()) return;
  executor_.arm(hold_timer_, held_.front()->hold_deadline);
  retry_later();
}

void Engine::fail_held(Code code) {
  while (!held_.empty()) {
    IoTask* task = held_.front();
    held_.pop_front();
    end_hold(*task);
    finish_later(*task, code);
  }
}

void Engine::park(IoTask& task) {
  parked_.push_back(&task);
}

void Engine::on_batch_sealed() {
  relocator_.on_batch_sealed();
  std::deque<IoTask*> ready;
  ready.swap(parked_);
  for (IoTask* task : ready) go(*task);
}

void Engine::on_freed(const std::vector<Pcn>& clusters) {
  for (const Pcn pcn : clusters) {
    unpacker_.forget(pcn);
    segments_.of(pcn).allocator.release(pcn);
    if (checksums_.on()) checksums_.forget(pcn);
  }
  retry_later();
}

void Engine::on_poisoned(const std::string& reason) {
  fail_held(Code::kReadOnly);
  band_.release();
  resume_noting();
  tell([reason](Listener& listener) { listener.on_read_only(reason); });
}

}  // namespace foreshadow::volume
