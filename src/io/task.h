#pragma once
// Coroutines for operations of several steps (recover, commit, checkpoint, adopt). The hot read/write path
// does not use them. gcc 12 miscompiles temporaries with destructors inside a co_await expression: name them
// first.
#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "io/executor.h"
#include "io/file.h"
#include "io/op.h"

namespace foreshadow::io {

// A lazily started coroutine: runs when awaited (or spawned), resumes its awaiter when it returns. Owned by
// whoever holds the Task; destroying a Task that is suspended destroys its frame, so nothing it waits for may
// still be in flight.
template <typename T>
class [[nodiscard]] Task {
 public:
  struct promise_type {
    std::optional<T> value;
    std::coroutine_handle<> awaiter;
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    struct Final {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> h) noexcept {
        const std::coroutine_handle<> next = h.promise().awaiter;
        return next ? next : std::noop_coroutine();
      }
      void await_resume() noexcept {}
    };
    Final final_suspend() noexcept { return {}; }
    template <typename U>
    void return_value(U&& v) {
      value.emplace(std::forward<U>(v));
    }
    void unhandled_exception() { std::terminate(); }
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiter) noexcept {
    handle_.promise().awaiter = awaiter;
    return handle_;
  }
  T await_resume() {
    ASSERT(handle_.promise().value.has_value());
    return std::move(*handle_.promise().value);
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> h) : handle_(h) {}
  std::coroutine_handle<promise_type> handle_;
};

// A coroutine nobody awaits: it starts at once and frees itself at the end.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

// Starts `task` now and hands its value to `then(T)` when it is done. The owner must keep the executor
// running until then.
template <typename T, typename Then>
Detached spawn(Task<T> task, Then then) {
  T value = co_await task;
  then(std::move(value));
}

// Base of the awaiters below: an Op whose completion resumes the coroutine. await_resume gives the result.
struct AwaitOp : Op {
  std::coroutine_handle<> waiter;
  int outcome = 0;
  AwaitOp() {
    done = [](Op* op, int r) {
      auto* self = static_cast<AwaitOp*>(op);
      self->outcome = r;
      self->waiter.resume();
    };
  }
  bool await_ready() const noexcept { return false; }
  int await_resume() const noexcept { return outcome; }
};

struct AwaitRead : AwaitOp {
  File& file;
  uint64_t at;
  std::span<std::byte> into;
  AwaitRead(File& f, uint64_t o, std::span<std::byte> i) : file(f), at(o), into(i) {}
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    file.read(*this, at, into);
  }
};
struct AwaitWrite : AwaitOp {
  File& file;
  uint64_t at;
  std::span<const std::byte> from;
  bool durable;
  AwaitWrite(File& f, uint64_t o, std::span<const std::byte> d, bool dur)
      : file(f), at(o), from(d), durable(dur) {}
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    durable ? file.write_durable(*this, at, from) : file.write(*this, at, from);
  }
};
struct AwaitSync : AwaitOp {
  File& file;
  explicit AwaitSync(File& f) : file(f) {}
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    file.sync(*this);
  }
};
struct AwaitPost : AwaitOp {
  Executor& executor;
  explicit AwaitPost(Executor& e) : executor(e) {}
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    executor.post(*this);
  }
};

inline AwaitRead read(File& f, uint64_t offset, std::span<std::byte> into) {
  return {f, offset, into};
}
inline AwaitWrite write(File& f, uint64_t offset, std::span<const std::byte> from) {
  return {f, offset, from, false};
}
inline AwaitWrite write_durable(File& f, uint64_t offset, std::span<const std::byte> from) {
  return {f, offset, from, true};
}
inline AwaitSync sync(File& f) {
  return AwaitSync(f);
}
inline AwaitPost yield(Executor& e) {
  return AwaitPost(e);
}

// A gate coroutines wait at; notify_all() lets all present waiters go on, through the executor.
class Event {
 public:
  explicit Event(Executor& executor) : executor_(executor) {}
  Event(const Event&) = delete;
  ~Event() { ASSERT(head_ == nullptr); }
  struct Awaiter : AwaitOp {
    Event& event;
    explicit Awaiter(Event& e) : event(e) {}
    void await_suspend(std::coroutine_handle<> h) {
      waiter = h;
      next = event.head_;
      event.head_ = this;
    }
  };
  Awaiter wait() { return Awaiter(*this); }
  bool has_waiters() const { return head_ != nullptr; }
  void notify_all() {
    Op* op = std::exchange(head_, nullptr);
    while (op != nullptr) {
      Op* following = std::exchange(op->next, nullptr);
      executor_.post(*op);
      op = following;
    }
  }

 private:
  Executor& executor_;
  Op* head_ = nullptr;
};

}  // namespace foreshadow::io
