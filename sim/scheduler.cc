#include "sim/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace foreshadow::sim {

void Scheduler::push_ready(io::Op& op, int result) {
  op.result = result;
  ready_.push_back({&op, next_sequence_++});
}

void Scheduler::post(io::Op& op) {
  push_ready(op, 0);
}

void Scheduler::defer(io::Op& op) {
  if (deferred_.empty()) before_deferred_ = ready_.size();
  deferred_.push_back({&op, next_sequence_});
}

void Scheduler::offload(std::function<void()> work, std::function<void()> done) {
  offloads_.push_back({std::move(work), std::move(done)});
  if (offloads_.size() == 1) post(offload_op_);
}

// Work and done are two steps, so that whatever else is ready can come between them, as with a real thread.
void Scheduler::run_offload(int) {
  if (!offload_worked_) {
    offload_worked_ = true;
    offloads_.front().work();
    post(offload_op_);
    return;
  }
  offload_worked_ = false;
  const Offload finished = std::move(offloads_.front());
  offloads_.pop_front();
  if (!offloads_.empty()) post(offload_op_);
  finished.done();
}

void Scheduler::start(io::Op& op, Device& device, Nanos delay) {
  op.target = &device;
  in_flight_.push_back({&op, now_ + delay});
}

void Scheduler::run_ready(size_t index) {
  const Ready picked = ready_[index];
  if (orderly_) {
    ready_.erase(ready_.begin() + static_cast<ptrdiff_t>(index));
  } else {
    ready_[index] = ready_.back();
    ready_.pop_back();
  }
  if (!deferred_.empty() && picked.sequence < deferred_.front().after) --before_deferred_;
  picked.op->done(picked.op, picked.op->result);
}

void Scheduler::promote_deferred() {
  while (!deferred_.empty() && before_deferred_ == 0) {
    io::Op* op = deferred_.front().op;
    deferred_.pop_front();
    if (!deferred_.empty()) {
      const uint64_t after = deferred_.front().after;
      before_deferred_ = static_cast<size_t>(
          std::count_if(ready_.begin(), ready_.end(), [&](const Ready& r) { return r.sequence < after; }));
    }
    push_ready(*op, 0);
  }
}

void Scheduler::finish_at(size_t index) {
  io::Op* op = in_flight_[index].op;
  if (orderly_) {
    in_flight_.erase(in_flight_.begin() + static_cast<ptrdiff_t>(index));
  } else {
    in_flight_[index] = in_flight_.back();
    in_flight_.pop_back();
  }
  const int result = static_cast<Device*>(op->target)->finish(*op);
  push_ready(*op, result);
}

bool Scheduler::complete_some() {
  if (orderly_) {
    finish_at(0);
    return true;
  }
  now_ += Nanos(1'000 + rng_.below(100'000));
  // Now and then the device is so slow that the next timer comes first.
  if (!timers_.empty() && rng_.below(64) == 0) now_ = std::max(now_, timers_.next_deadline());
  size_t want = rng_.below(4) == 0 ? 1 + rng_.below(in_flight_.size()) : 1;
  bool any = false;
  for (; want > 0 && !in_flight_.empty(); --want) {
    const size_t index = rng_.below(in_flight_.size());
    if (in_flight_[index].due > now_) continue;
    finish_at(index);
    any = true;
  }
  if (any) return true;
  // Only slow operations were drawn: go to the earliest, unless a timer is due before it.
  const auto first = std::min_element(in_flight_.begin(), in_flight_.end(),
                                      [](const InFlight& a, const InFlight& b) { return a.due < b.due; });
  if (!timers_.empty() && timers_.next_deadline() < first->due) return false;
  now_ = std::max(now_, first->due);
  finish_at(static_cast<size_t>(first - in_flight_.begin()));
  return true;
}

bool Scheduler::fire_timer() {
  if (timers_.empty()) return false;
  now_ = std::max(now_, timers_.next_deadline());
  io::Timer* timer = timers_.take_due(now_, timers_.next_sequence());
  ASSERT(timer != nullptr);
  timer->op.done(&timer->op, 0);
  return true;
}

bool Scheduler::step() {
  ++steps_;
  promote_deferred();
  const bool timer_due = !timers_.empty() && timers_.next_deadline() <= now_;
  if (timer_due && (ready_.empty() || orderly_ || rng_.below(2) == 0)) return fire_timer();
  if (!ready_.empty() && (orderly_ || in_flight_.empty() || rng_.below(8) != 0)) {
    run_ready(orderly_ ? 0 : rng_.below(ready_.size()));
    return true;
  }
  if (!in_flight_.empty() && complete_some()) return true;
  if (!ready_.empty()) {
    run_ready(rng_.below(ready_.size()));
    return true;
  }
  return fire_timer();
}

bool Scheduler::run_until_idle(uint64_t steps_max) {
  return run_until([] { return false; }, steps_max) || idle();
}

bool Scheduler::delivered(uint64_t ticket) const {
  return ticket < next_sequence_ &&
         std::none_of(ready_.begin(), ready_.end(), [&](const Ready& r) { return r.sequence == ticket; });
}

void Scheduler::crash() {
  ready_.clear();
  deferred_.clear();
  before_deferred_ = 0;
  in_flight_.clear();
  offloads_.clear();
  offload_worked_ = false;
  while (!timers_.empty()) (void)timers_.take_due(MonoTime::max(), timers_.next_sequence());
}

}  // namespace foreshadow::sim
