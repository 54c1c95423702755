#include "io/uring_loop.h"

#include <sched.h>
#include <sys/eventfd.h>

#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "io/thread_priority.h"

namespace foreshadow::io {
namespace {

constexpr unsigned kSubmissionEntries = 1024;
constexpr unsigned kCompletionEntries = 8192;
// Posted ops run in one turn before the kernel gets its turn too, so that ops that post each other cannot
// starve I/O.
constexpr uint32_t kPostedPerTurn = 16384;

// Bytes that start_here() copies in one turn: less than a client's socket takes by default (208 KiB), so that
// it is emptied before the client finds it full.
constexpr uint32_t kBytesPerTurn = 128 * 1024;

// Short, so that what arrives does not wait until the worker's slice of the same core is over.
constexpr Nanos kTimeSlice = std::chrono::microseconds(200);

// Best first. SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1) let the kernel finish I/O inside our own wait,
// without interrupts or locks; COOP_TASKRUN and SUBMIT_ALL came with 5.19 and 5.18.
constexpr unsigned kFlagSets[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
        IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    0,
};

// Checks what io_uring_enter came to. Interruptions, time-outs and passing shortage are part of life: the
// loop turns once more. Everything else means that the ring is used wrongly, by us.
void check_enter(int result) {
  if (result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN || result == -EBUSY) return;
  log::error("io_uring_enter failed: {}", std::strerror(-result));
  ASSERT(false);
}

}  // namespace

Result<std::unique_ptr<Loop>> Loop::create() {
  ASSIGN_OR_RETURN(std::unique_ptr<UringLoop> loop, UringLoop::create());
  return loop;
}

Result<std::unique_ptr<UringLoop>> UringLoop::create() {
  std::unique_ptr<UringLoop> loop(new UringLoop());
  int error = -EINVAL;
  for (const unsigned flags : kFlagSets) {
    io_uring_params params{};
    // Disabled at first: the thread that enables a SINGLE_ISSUER ring becomes its issuer, and that is
    // run()'s.
    params.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = kCompletionEntries;
    error = io_uring_queue_init_params(kSubmissionEntries, &loop->ring_, &params);
    if (error != -EINVAL) break;
  }
  if (error == -ENOSYS || error == -EPERM || error == -EACCES) {
    return fail(
        Code::kUnsupported,
        "io_uring is not available here: expected Linux 5.15 or later, sysctl kernel.io_uring_disabled = 0 "
        "and a container profile that allows it");
  }
  if (error < 0) return fail_errno(error, "setting up an io_uring");
  loop->ring_exists_ = true;
  loop->wake_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!loop->wake_fd_) return fail_errno(errno, "making an eventfd");
  loop->cancel_op_.done = [](Op*, int) {};
  return loop;
}

UringLoop::~UringLoop() {
  if (ring_exists_) io_uring_queue_exit(&ring_);
}

void UringLoop::enable() {
  if (enabled_) return;
  // What io_uring_enable_rings() does: liburing 2.3 declares that one, but its shared library does not export
  // it.
  const int error = io_uring_register(ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  if (error < 0) log::error("enabling the io_uring failed: {}", std::strerror(-error));
  ASSERT(error >= 0);
  enabled_ = true;
}

void UringLoop::run() {
  enable();
  set_time_slice(kTimeSlice);
  // A registered ring is found without taking a reference on its descriptor. Old kernels do without.
  const bool registered = io_uring_register_ring_fd(&ring_) == 1;
  if (!wake_reading_) start_wake_read();
  for (;;) {
    take_completions();
    run_ready();
    if (finished()) break;
    submit_and_wait();
  }
  stopping_.store(false);
  if (registered) io_uring_unregister_ring_fd(&ring_);
}

void UringLoop::stop() {
  stopping_.store(true);
  wake();
}

void UringLoop::run_on_loop(std::function<void()> f) {
  {
    const std::lock_guard lock(inbox_mutex_);
    inbox_.push_back(std::move(f));
  }
  wake();
}

void UringLoop::offload(std::function<void()> work, std::function<void()> done) {
  ++offloads_;
  worker_.add([this, work = std::move(work), done = std::move(done)]() mutable {
    work();
    run_on_loop([this, done = std::move(done)] {
      --offloads_;
      done();
    });
  });
}

void UringLoop::wake() {
  // The flag is cleared before the inbox is emptied (on_wake), so a wake-up that is left out here is never
  // missed.
  if (wake_pending_.exchange(true)) return;
  const uint64_t one = 1;
  const ssize_t written = ::write(wake_fd_.get(), &one, sizeof one);
  ASSERT(written == sizeof one);
}

void UringLoop::start_wake_read() {
  io_uring_sqe& entry = next_entry();
  io_uring_prep_read(&entry, wake_fd_.get(), &wake_value_, sizeof wake_value_, 0);
  start(entry, wake_op_, OpKind::kPlain, own_);
  wake_reading_ = true;
}

void UringLoop::on_wake(int) {
  start_wake_read();
  wake_pending_.store(false);
  std::vector<std::function<void()>> calls;
  {
    const std::lock_guard lock(inbox_mutex_);
    calls.swap(inbox_);
  }
  for (std::function<void()>& call : calls) {
    call();
    call = nullptr;  // what it holds may be what the next one waits for
  }
}

io_uring_sqe& UringLoop::next_entry() {
  for (;;) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry != nullptr) [[likely]]
      return *entry;
    // The queue is full: hand it over early. Before run() that makes this thread the issuer, as it promised
    // to be.
    enable();
    const int submitted = io_uring_submit(&ring_);
    check_enter(submitted);
    if (submitted <= 0) ::sched_yield();  // short of kernel memory; nothing to do but to let others go on
  }
}

void UringLoop::start(io_uring_sqe& entry, Op& op, OpKind kind, Endpoint& endpoint) {
  op.kind = static_cast<uint8_t>(kind);
  op.target = &endpoint;
  io_uring_sqe_set_data(&entry, &op);
  ++endpoint.in_flight_;
  ++in_flight_;
}

void UringLoop::start_here(Op& op, Endpoint& endpoint) {
  op.target = &endpoint;
  ++endpoint.in_flight_;
  ++in_flight_;
  here_.push(op);
}

void UringLoop::cancel_started(Op& op) {
  io_uring_sqe& entry = next_entry();
  io_uring_prep_cancel(&entry, &op, 0);
  start(entry, cancel_op_, OpKind::kPlain, own_);
}

void UringLoop::take_completions() {
  // What arrives after this point waits for the next turn, so that a turn ends.
  const unsigned end = io_uring_smp_load_acquire(ring_.cq.ktail);
  for (unsigned head = *ring_.cq.khead; head != end; ++head) {
    const io_uring_cqe& entry = ring_.cq.cqes[head & *ring_.cq.kring_mask];
    Op* op = static_cast<Op*>(io_uring_cqe_get_data(&entry));
    const int result = entry.res;
    // Freed before `done` runs, so that a submission from within it finds the room.
    io_uring_smp_store_release(ring_.cq.khead, head + 1);
    complete(*op, result);
  }
}

void UringLoop::complete(Op& op, int result) {
  Endpoint& endpoint = *static_cast<Endpoint*>(op.target);
  --in_flight_;
  --endpoint.in_flight_;
  const auto kind = static_cast<OpKind>(op.kind);
  if (kind == OpKind::kWhole && result > 0 && static_cast<uint32_t>(result) == op.length - op.progress)
      [[likely]] {
    op.done(&op, 0);
  } else if (kind == OpKind::kPlain) {
    op.done(&op, result);
  } else {
    endpoint.completed(op, result);
  }
}

void UringLoop::run_here() {
  while (!here_.empty() && share_ > 0) {
    Op& op = here_.front();
    Endpoint& endpoint = *static_cast<Endpoint*>(op.target);
    const std::optional<int> result = endpoint.advance(op, share_);
    if (!result) return;
    here_.pop();
    --in_flight_;
    --endpoint.in_flight_;
    finish_soon(op, *result);
  }
}

void UringLoop::run_ready() {
  uint32_t budget = kPostedPerTurn;
  share_ = kBytesPerTurn;
  for (;;) {
    for (; !posted_.empty() && budget > 0; --budget) {
      Op& op = posted_.pop();
      op.done(&op, op.result);
    }
    if (!timers_.empty()) fire_timers();
    if (share_ > 0) run_here();
    if (!posted_.empty() && budget > 0) continue;
    // Ops that these defer wait for the next pass: each is called once for one batch.
    for (OpQueue batch = std::exchange(deferred_, {}); !batch.empty();) {
      Op& op = batch.pop();
      op.done(&op, 0);
    }
    if ((posted_.empty() || budget == 0) && (here_.empty() || share_ == 0)) return;
  }
}

void UringLoop::fire_timers() {
  const MonoTime time = now();
  // One that is armed meanwhile, even for the past, waits for the next turn.
  const uint64_t before = timers_.next_sequence();
  while (Timer* timer = timers_.take_due(time, before)) timer->op.done(&timer->op, 0);
}

bool UringLoop::finished() {
  if (!stopping_.load(std::memory_order_acquire)) return false;
  const uint32_t own = wake_reading_ ? 1 : 0;
  if (in_flight_ > own || !posted_.empty() || !deferred_.empty() || offloads_ > 0) return false;
  const std::lock_guard lock(inbox_mutex_);
  return inbox_.empty();
}

void UringLoop::submit_and_wait() {
  if (!posted_.empty() || !deferred_.empty() || !here_.empty()) {
    check_enter(io_uring_submit_and_get_events(&ring_));
    return;
  }
  if (timers_.empty()) {
    check_enter(io_uring_submit_and_wait(&ring_, 1));
    return;
  }
  const Nanos left = timers_.next_deadline() - now();
  if (left <= Nanos::zero()) {
    check_enter(io_uring_submit_and_get_events(&ring_));
    return;
  }
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  __kernel_timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
  io_uring_cqe* unused = nullptr;
  check_enter(io_uring_submit_and_wait_timeout(&ring_, &unused, 1, &timeout, nullptr));
}

}  // namespace foreshadow::io
