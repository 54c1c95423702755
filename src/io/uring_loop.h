#pragma once
// io::Loop on io_uring, and what files and sockets use of it.
#include <liburing.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "io/loop.h"
#include "io/reaper.h"
#include "io/timer_heap.h"
#include "io/unique_fd.h"
#include "io/worker.h"

namespace foreshadow::io {

// What a file or a socket is to the ring: where those completions go that need more than handing on.
class Endpoint {
 public:
  virtual ~Endpoint() = default;
  // The result of one submission of `op`, when the loop cannot finish it by itself (see OpKind).
  virtual void completed(Op& op, int result) = 0;
  // A step of an op that this endpoint gave to start_here(): does up to `share` bytes of it and takes them
  // off. The result of the whole, or nothing as long as bytes are left, which they are only where `share` is
  // used up.
  virtual std::optional<int> advance(Op&, uint32_t& /*share*/) { return -EOPNOTSUPP; }
  // Submissions the kernel or the loop still has. The memory and descriptor they use stay until this is 0.
  uint32_t in_flight() const { return in_flight_; }

 private:
  friend class UringLoop;
  uint32_t in_flight_ = 0;
};

// How the loop finishes an op (kept in Op::kind). The usual transfer is finished without another indirect
// call.
enum class OpKind : uint8_t {
  kPlain,  // done gets the result as it is
  kWhole,  // done gets 0 once `length - progress` bytes were transferred; anything else goes to completed()
  kSteps,  // every result goes to completed()
};

// A queue of ops, linked through Op::next; does not own them.
class OpQueue {
 public:
  bool empty() const { return head_ == nullptr; }
  void push(Op& op) {
    op.next = nullptr;
    *(head_ == nullptr ? &head_ : &tail_->next) = &op;
    tail_ = &op;
  }
  Op& front() { return *head_; }
  Op& pop() {
    Op& op = *head_;
    head_ = op.next;
    return op;
  }

 private:
  Op* head_ = nullptr;
  Op* tail_ = nullptr;  // meaningful while head_ is not null
};

// See Loop. run() is called always by the same thread; it may be called again after it has returned.
//
// "In flight" are: ops that the kernel has, posted and deferred ops, offloads, and functions given to
// run_on_loop(). Armed timers are not: a timer that re-arms itself would keep a stopped loop forever. They
// fire as long as run() has not returned, and stay armed past it.
class UringLoop final : public Loop {
 public:
  static Result<std::unique_ptr<UringLoop>> create();
  ~UringLoop() override;

  MonoTime now() const override { return std::chrono::steady_clock::now(); }
  void post(Op& op) override { finish_soon(op, 0); }
  void defer(Op& op) override { deferred_.push(op); }
  void arm(Timer& timer, MonoTime deadline) override { timers_.arm(timer, deadline); }
  void cancel(Timer& timer) override { timers_.cancel(timer); }
  void offload(std::function<void()> work, std::function<void()> done) override;
  void run() override;
  void stop() override;
  void run_on_loop(std::function<void()> f) override;
  Reaper& reaper() { return reaper_; }

  // For files and sockets. Completes `op` with `result`, after the running completion has returned.
  void finish_soon(Op& op, int result) {
    op.result = result;
    posted_.push(op);
  }
  // A free submission entry; never fails. Prepare it, then hand it back to start() before asking for another.
  io_uring_sqe& next_entry();
  // Sends the entry with the next submission, on behalf of `op`. The endpoint outlives the completion.
  void start(io_uring_sqe& entry, Op& op, OpKind kind, Endpoint& endpoint);
  // Has `op` done on this thread, by the endpoint's advance(): in order, and a bounded share of it each turn,
  // so that the sockets do not wait for a large one. The endpoint outlives the completion.
  void start_here(Op& op, Endpoint& endpoint);
  // Asks the kernel to end `op` early. It completes as ever: with -ECANCELED or what it came to before.
  void cancel_started(Op& op);

 private:
  // The loop's own submissions: nothing here needs completed().
  struct OwnEndpoint final : Endpoint {
    void completed(Op&, int) override {}
  };

  UringLoop() = default;
  void enable();
  void wake();
  void start_wake_read();
  void on_wake(int result);
  void take_completions();
  void complete(Op& op, int result);
  void run_ready();
  void run_here();
  void fire_timers();
  bool finished();
  void submit_and_wait();

  io_uring ring_{};
  bool ring_exists_ = false;
  bool enabled_ = false;
  uint32_t in_flight_ = 0;  // submissions, the wake-up read included, and what is done on this thread
  uint32_t offloads_ = 0;   // whose done has not run yet
  OpQueue posted_;
  OpQueue deferred_;
  OpQueue here_;        // done on this thread, a share each turn
  uint32_t share_ = 0;  // bytes of them left in this turn
  TimerHeap timers_;

  OwnEndpoint own_;
  Op cancel_op_;  // shared by all cancellations: nobody asks how one went
  MemberOp<UringLoop, &UringLoop::on_wake> wake_op_{this};
  UniqueFd wake_fd_;           // an eventfd that other threads write to
  uint64_t wake_value_ = 0;    // where its reads go
  bool wake_reading_ = false;  // a read of it is in flight

  std::atomic<bool> wake_pending_ =
      false;  // the eventfd was written and not yet read: no need to write it again
  std::atomic<bool> stopping_ = false;
  std::mutex inbox_mutex_;
  std::vector<std::function<void()>> inbox_;  // guarded by inbox_mutex_

  // Last, so that its thread ends before anything it may post to.
  Reaper reaper_;
  Worker worker_;
};

}  // namespace foreshadow::io
