#include "io/worker.h"

#include <utility>

#include "io/thread_priority.h"

namespace foreshadow::io {

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Worker::add(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  }
  changed_.notify_one();
}

void Worker::work() {
  set_time_slice(Nanos::zero());  // not as short as that of the loop that has started it
  if (nicer_ > 0) be_nicer(nicer_);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    {
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      // What the job holds is let go of here too, outside the lock.
    }
    lock.lock();
  }
}

}  // namespace foreshadow::io
