#pragma once
// The single thread that everything with state runs on. Real: io::Loop (io_uring). Simulated: sim::Scheduler.
#include <cstdint>
#include <functional>

#include "base/types.h"
#include "io/op.h"

namespace foreshadow::io {

// A one-shot timer. The caller owns it and keeps it alive until it fired or was cancelled.
struct Timer {
  Op op;  // op.done is called with 0 when the time has come; op.target is the owner's to use
  MonoTime deadline{};
  uint64_t sequence = 0;  // orders equal deadlines; 0 while not armed
  bool armed() const { return sequence != 0; }
};

// Not thread-safe: every call comes from the executor's own thread.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual MonoTime now() const = 0;
  // Completes `op` with 0 soon, after the running completion has returned.
  virtual void post(Op& op) = 0;
  // Completes `op` with 0 once every completion that is ready now has run: the place to send what a batch
  // gathered.
  virtual void defer(Op& op) = 0;
  // Arms `timer` (set timer.op.done first). Arming an armed timer moves its deadline.
  virtual void arm(Timer& timer, MonoTime deadline) = 0;
  // A cancelled timer's op is never called. Cancelling an idle timer does nothing.
  virtual void cancel(Timer& timer) = 0;
  // Runs `work` where it may block (create a file, say) and then `done` on this executor. Order among
  // offloads is kept.
  virtual void offload(std::function<void()> work, std::function<void()> done) = 0;
};

}  // namespace foreshadow::io
