#pragma once
// The simulated executor: virtual time, and one seed that decides in which order everything happens.
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "base/rng.h"
#include "base/types.h"
#include "io/executor.h"
#include "io/timer_heap.h"

namespace foreshadow::sim {

// What an operation in flight belongs to. finish() performs it, at the moment it completes, and gives its
// result.
class Device {
 public:
  virtual ~Device() = default;
  virtual int finish(io::Op& op) = 0;
};

// An Executor whose every choice comes from its seed: which ready completion runs next, how many operations
// in flight complete together, how far time moves while they are in flight, and whether a timer overtakes
// them. Keeps what io/executor.h promises: a deferred op runs after everything that was ready when it was
// deferred, a timer never before its deadline, offloads in order.
//
// Single-threaded. Owns none of the ops, timers and devices. Steady state allocates nothing.
class Scheduler final : public io::Executor {
 public:
  explicit Scheduler(uint64_t seed) : rng_(seed) {}

  MonoTime now() const override { return now_; }
  void post(io::Op& op) override;
  void defer(io::Op& op) override;
  void arm(io::Timer& timer, MonoTime deadline) override { timers_.arm(timer, deadline); }
  void cancel(io::Timer& timer) override { timers_.cancel(timer); }
  void offload(std::function<void()> work, std::function<void()> done) override;

  // Puts `op` in flight: device.finish(op) decides its result some time after `delay`, then op.done gets it.
  void start(io::Op& op, Device& device, Nanos delay = Nanos(0));

  // Runs one completion, advancing time as needed. False if there is nothing left that could ever happen.
  bool step();
  // Steps until `predicate()`; false if there was nothing left to do, or `steps_max` was reached, before it
  // held.
  template <typename Predicate>
  bool run_until(Predicate predicate, uint64_t steps_max = kStepsMax) {
    for (uint64_t i = 0; i < steps_max; ++i) {
      if (predicate()) return true;
      if (!step()) return predicate();
    }
    return predicate();
  }
  // False if there was still work after `steps_max` steps: something runs for ever.
  bool run_until_idle(uint64_t steps_max = kStepsMax);
  // The ticket of the completion that is made ready next, and whether the one with this ticket has been
  // delivered.
  uint64_t next_ticket() const { return next_sequence_; }
  bool delivered(uint64_t ticket) const;
  // Forgets everything pending without calling it. For owners that free what the ops belong to.
  void crash();

  // First in, first out, and no time passes while there is work: for runs that enumerate instead of drawing.
  void set_orderly(bool orderly) { orderly_ = orderly; }
  uint64_t steps() const { return steps_; }
  bool idle() const { return ready_.empty() && deferred_.empty() && in_flight_.empty() && timers_.empty(); }

  static constexpr uint64_t kStepsMax = 2'000'000;

 private:
  struct Ready {
    io::Op* op;
    uint64_t sequence;
  };
  struct Deferred {
    io::Op* op;
    uint64_t after;  // runs when no ready op with a lower sequence is left
  };
  struct InFlight {
    io::Op* op;
    MonoTime due;
  };
  struct Offload {
    std::function<void()> work, done;
  };

  void push_ready(io::Op& op, int result);
  void run_ready(size_t index);
  void promote_deferred();
  // Moves one or more operations in flight to the ready ones. False if none may complete before the next
  // timer.
  bool complete_some();
  bool fire_timer();
  void finish_at(size_t index);
  void run_offload(int result);

  SeededRng rng_;
  MonoTime now_{Nanos(1)};
  uint64_t steps_ = 0;
  uint64_t next_sequence_ = 0;
  bool orderly_ = false;
  std::vector<Ready> ready_;
  std::deque<Deferred> deferred_;
  size_t before_deferred_ = 0;  // ready ops that the first deferred one waits for
  std::vector<InFlight> in_flight_;
  io::TimerHeap timers_;
  std::deque<Offload> offloads_;
  bool offload_worked_ = false;  // the first offload's work has run, its done has not
  io::MemberOp<Scheduler, &Scheduler::run_offload> offload_op_{this};
};

}  // namespace foreshadow::sim
