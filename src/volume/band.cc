#include "volume/band.h"

#include <algorithm>

#include "base/limits.h"
#include "volume/engine.h"

namespace foreshadow::volume {

Band::Band(Engine& engine) : engine_(engine) {
  timer_.op.target = this;
  timer_.op.done = [](io::Op* op, int) { static_cast<Band*>(op->target)->on_due(); };
}

Band::~Band() {
  engine_.executor_.cancel(timer_);
}

uint64_t Band::clusters() const {
  const WallPolicy& policy = engine_.options_;
  const uint64_t share = engine_.placement_.clusters() * policy.band_percent / 100;
  return std::min(share, policy.band_bytes / engine_.geometry_.cluster());
}

bool Band::pace(IoTask& task) {
  const uint64_t most = engine_.options_.band_bytes / engine_.geometry_.cluster();
  const uint64_t room = engine_.placement_.room(most);
  if (told_) look();
  if (task.was_paced || task.was_held || engine_.closing_ || room >= most) return false;
  const uint64_t below = clusters();
  if (room >= below || waiting_.size() >= limits::kHeldRequests) return false;
  const bool first_touch = std::any_of(task.plans.begin(), task.plans.end(), [](const ClusterPlan& plan) {
    return plan.fresh && plan.placed != 0 && plan.target.v == 0;
  });
  if (!first_touch) return false;  // a move, which could also have stayed in place
  const auto longest = std::chrono::duration_cast<Nanos>(limits::kPaceMax);
  const Nanos delay = longest * static_cast<int64_t>(below - room) / static_cast<int64_t>(below);
  task.plans.clear();
  task.was_paced = true;
  task.paced_since = engine_.executor_.now();
  task.pace_deadline = task.paced_since + delay;
  // In order of arrival; nobody waits longer for it than the longest delay.
  if (!waiting_.empty()) task.pace_deadline = std::max(task.pace_deadline, waiting_.back()->pace_deadline);
  waiting_.push_back(&task);
  ++engine_.stats_.paced;
  ++engine_.stats_.paced_now;
  if (!told_) {
    told_ = true;
    engine_.tell([](Listener& listener) { listener.on_pace_began(); });
  }
  engine_.executor_.arm(timer_, waiting_.front()->pace_deadline);
  engine_.locks_.release(task);  // last: whoever gets the locks now may go on at once
  return true;
}

// Leaving the band takes a quarter more than entering it, so that its edge is not told of at every write.
void Band::look() {
  if (!told_) return;
  const uint64_t enough = clusters() * 5 / 4;
  if (engine_.placement_.room(enough) < enough) return;
  told_ = false;
  engine_.tell([](Listener& listener) { listener.on_pace_ended(); });
  release();
}

void Band::release() {
  if (waiting_.empty()) return;
  const MonoTime now = engine_.executor_.now();
  for (IoTask* task : waiting_) task->pace_deadline = std::min(task->pace_deadline, now);
  engine_.executor_.arm(timer_, now);
}

void Band::on_due() {
  const MonoTime now = engine_.executor_.now();
  while (!waiting_.empty() && waiting_.front()->pace_deadline <= now) {
    IoTask& task = *waiting_.front();
    waiting_.pop_front();
    const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(now - task.paced_since);
    const auto waited_us = static_cast<uint64_t>(waited.count());
    --engine_.stats_.paced_now;
    engine_.stats_.pace_us_total += waited_us;
    engine_.stats_.pace_us_max = std::max(engine_.stats_.pace_us_max, waited_us);
    engine_.try_again(task);
  }
  if (!waiting_.empty()) engine_.executor_.arm(timer_, waiting_.front()->pace_deadline);
}

void Engine::set_wall(const WallPolicy& policy) {
  static_cast<WallPolicy&>(options_) = policy;
  for (IoTask* task : held_) task->hold_deadline = task->held_since + policy.hold_timeout;
  if (!held_.empty()) executor_.arm(hold_timer_, held_.front()->hold_deadline);
  retry_later();  // looks at the band
}

}  // namespace foreshadow::volume
