#pragma once
// The thread that blocking work goes to.
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace foreshadow::io {

// Runs jobs one after another, in order, on one thread that starts with the first job. add() is for any
// thread. The destructor waits for the job that runs and drops those behind it; its owner sees to it that
// none is left.
class Worker {
 public:
  // The thread gives way to others by so much niceness. None for what somebody waits for: a shadow that is
  // being granted must not stand behind whatever else the machine does.
  explicit Worker(int nicer = 0) : nicer_(nicer) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();
  void add(std::function<void()> job);

 private:
  void work();

  const int nicer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  bool ending_ = false;                     // guarded by mutex_
  std::thread thread_;                      // started under mutex_
};

}  // namespace foreshadow::io
