#pragma once
// What a background pass waits for, besides I/O: work on another thread, and time.
#include <coroutine>
#include <functional>
#include <utility>

#include "io/executor.h"

namespace foreshadow::volume {

// Runs `work` on the worker thread. Name it before the co_await (see io/task.h).
struct AwaitWorker {
  io::Executor& executor;
  std::function<void()> work;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    executor.offload(std::move(work), [h] { h.resume(); });
  }
  void await_resume() const noexcept {}
};

struct AwaitTime {
  io::Executor& executor;
  MonoTime deadline;
  io::Timer timer;
  std::coroutine_handle<> waiter;
  AwaitTime(io::Executor& e, MonoTime d) : executor(e), deadline(d) {
    timer.op.target = this;
    timer.op.done = [](io::Op* op, int) { static_cast<AwaitTime*>(op->target)->waiter.resume(); };
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    executor.arm(timer, deadline);
  }
  void await_resume() const noexcept {}
};
inline AwaitTime rest(io::Executor& executor, Nanos time) {
  return {executor, executor.now() + time};
}

}  // namespace foreshadow::volume
