#pragma once
// What coroutines of the agent wait with: blocking work elsewhere, a turn at something, a call back. gcc 12:
// name each of these, and the lambda given to it, before the co_await.
#include <coroutine>
#include <deque>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/assert.h"
#include "io/executor.h"
#include "io/task.h"

namespace foreshadow::agent {

// Runs `work`, which may block, where it stops nobody, and resumes on the executor with its value.
template <typename Work>
class Offload {
 public:
  using Value = std::invoke_result_t<Work&>;
  Offload(io::Executor& executor, Work work) : executor_(executor), work_(std::move(work)) {}
  Offload(const Offload&) = delete;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    executor_.offload([this] { value_.emplace(work_()); }, [waiter] { waiter.resume(); });
  }
  Value await_resume() { return std::move(*value_); }

 private:
  io::Executor& executor_;
  Work work_;
  std::optional<Value> value_;
};

// One holder at a time, in the order they came. Everything on one executor.
class Gate {
 public:
  explicit Gate(io::Executor& executor) : executor_(executor) {}
  Gate(const Gate&) = delete;
  ~Gate() { ASSERT(!held_ && waiting_.empty()); }

  // Leaves when it is destroyed.
  class [[nodiscard]] Turn {
   public:
    explicit Turn(Gate* gate) : gate_(gate) {}
    Turn(Turn&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (gate_ != nullptr) gate_->leave();
    }

   private:
    Gate* gate_;
  };

  struct Awaiter : io::AwaitOp {
    Gate& gate;
    explicit Awaiter(Gate& g) : gate(g) {}
    bool await_ready() const noexcept {
      if (gate.held_) return false;
      gate.held_ = true;
      return true;
    }
    void await_suspend(std::coroutine_handle<> h) {
      waiter = h;
      gate.waiting_.push_back(this);
    }
    Turn await_resume() const noexcept { return Turn(&gate); }
  };
  Awaiter enter() { return Awaiter(*this); }

 private:
  // The next one holds the gate from now on, though it runs a little later: nobody slips in between.
  void leave() {
    if (waiting_.empty()) {
      held_ = false;
      return;
    }
    Awaiter* next = waiting_.front();
    waiting_.pop_front();
    executor_.post(*next);
  }

  io::Executor& executor_;
  bool held_ = false;
  std::deque<Awaiter*> waiting_;
};

// A call back, awaited: hand out `[&] { signal.set(); }`, then co_await the signal. For one waiter.
class Signal {
 public:
  void set() {
    set_ = true;
    if (waiter_) std::exchange(waiter_, {}).resume();
  }
  bool await_ready() const noexcept { return set_; }
  void await_suspend(std::coroutine_handle<> waiter) { waiter_ = waiter; }
  void await_resume() const noexcept {}

 private:
  bool set_ = false;
  std::coroutine_handle<> waiter_;
};

}  // namespace foreshadow::agent
