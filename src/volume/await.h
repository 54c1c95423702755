#pragma once
// What a background pass waits for, besides one read or write: many writes, work on another thread, and time.
#include <coroutine>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "io/executor.h"
#include "io/file.h"

namespace foreshadow::volume {

// Submits every write of the list, and goes on when all of them have ended, in whatever order; the outcome is
// that of one that failed, or 0.
struct PendingWrites {
  struct Write : io::Op {
    PendingWrites* all = nullptr;
    io::File* file = nullptr;
    uint64_t at = 0;
    std::span<const std::byte> from;
  };
  std::vector<Write> list;
  size_t left = 0;
  int outcome = 0;
  std::coroutine_handle<> waiter{};

  void add(io::File& file, uint64_t at, std::span<const std::byte> from) {
    Write& write = list.emplace_back();
    write.all = this;
    write.file = &file;
    write.at = at;
    write.from = from;
    write.done = [](io::Op* op, int result) { static_cast<Write*>(op)->all->on_done(result); };
  }
  void clear() {  // for the next list
    list.clear();
    outcome = 0;
  }
  bool await_ready() const noexcept { return list.empty(); }
  bool await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    left = list.size() + 1;  // one for this function, so that no completion finishes it early
    for (Write& write : list) write.file->write(write, write.at, write.from);
    return --left != 0;
  }
  int await_resume() const noexcept { return outcome; }

 private:
  void on_done(int result) {
    if (result < 0) outcome = result;
    if (--left == 0) waiter.resume();
  }
};

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
