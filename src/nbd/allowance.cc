#include "nbd/allowance.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/assert.h"

namespace foreshadow::nbd {
namespace {

static_assert(limits::kNbdSharedBytes + limits::kNbdConnections * limits::kNbdShareBytes == 1ull << 30);

// What of a holding is beyond the connection's own share.
uint64_t beyond(uint64_t held, uint64_t share) {
  return held > share ? held - share : 0;
}

}  // namespace

Allowance::Allowance(io::Executor& executor, std::function<void()> stalled, Bounds bounds)
    : executor_(executor), stalled_(std::move(stalled)), bounds_(bounds), stall_{{}, this} {
  // Else a request could wait for ever.
  ASSERT(bounds_.bytes >= limits::kNbdRequestBytes && bounds_.requests > 0);
  stall_.timer.op.done = on_stall;
}

Allowance::~Allowance() {
  ASSERT(first_ == nullptr && !wake_posted_ && bytes_ == 0 && requests_ == 0);
}

void Allowance::on_stall(io::Op* op, int) {
  auto* timer = static_cast<std::byte*>(static_cast<void*>(op)) - offsetof(io::Timer, op);
  Allowance& self = *static_cast<Stall*>(static_cast<void*>(timer))->owner;
  self.stalled_();
  if (self.first_ != nullptr)
    self.executor_.arm(self.stall_.timer, self.executor_.now() + limits::kNbdStallTime);
}

void Allowance::wake() {
  if (first_ == nullptr || wake_posted_) return;
  wake_posted_ = true;
  executor_.post(wake_op_);
}

// Whoever waits longest tries first; where even that does not fit, nobody else may.
void Allowance::on_wake(int) {
  while (Account* const account = first_) {
    account->room_again_();
    if (first_ == account) break;
  }
  wake_posted_ = false;
}

Allowance::Account::~Account() {
  ASSERT(bytes_ == 0 && requests_ == 0);
  leave_queue();
}

bool Allowance::Account::fits_all(uint64_t bytes) const {
  const uint64_t more_bytes =
      beyond(bytes_ + bytes, limits::kNbdShareBytes) - beyond(bytes_, limits::kNbdShareBytes);
  const bool more_requests = requests_ >= limits::kNbdShareRequests;
  if (more_bytes == 0 && !more_requests) return true;
  if (all_.first_ != nullptr && all_.first_ != this) return false;
  return all_.bytes_ + more_bytes <= all_.bounds_.bytes &&
         all_.requests_ + (more_requests ? 1 : 0) <= all_.bounds_.requests;
}

bool Allowance::Account::admit(uint64_t bytes) {
  const bool own = requests_ < limits::kNbdInFlightRequests && bytes_ + bytes <= limits::kNbdInFlightBytes;
  if (own && fits_all(bytes)) {
    leave_queue();
    return true;
  }
  if (own && !waits_) {
    waits_ = true;
    before_ = std::exchange(all_.last_, this);
    (before_ == nullptr ? all_.first_ : before_->after_) = this;
    if (before_ == nullptr)
      all_.executor_.arm(all_.stall_.timer, all_.executor_.now() + limits::kNbdStallTime);
  }
  return false;
}

void Allowance::Account::leave_queue() {
  if (!std::exchange(waits_, false)) return;
  (before_ == nullptr ? all_.first_ : before_->after_) = after_;
  (after_ == nullptr ? all_.last_ : after_->before_) = before_;
  before_ = after_ = nullptr;
  if (all_.first_ == nullptr) all_.executor_.cancel(all_.stall_.timer);
  all_.wake();
}

void Allowance::Account::add_request() {
  if (requests_++ >= limits::kNbdShareRequests) all_.requests_++;
}

void Allowance::Account::drop_request() {
  ASSERT(requests_ > 0);
  if (--requests_ < limits::kNbdShareRequests) return;
  all_.requests_--;
  all_.wake();
}

void Allowance::Account::add_bytes(uint64_t bytes) {
  const uint64_t before = beyond(bytes_, limits::kNbdShareBytes);
  bytes_ += bytes;
  all_.bytes_ += beyond(bytes_, limits::kNbdShareBytes) - before;
}

void Allowance::Account::drop_bytes(uint64_t bytes) {
  ASSERT(bytes_ >= bytes);
  const uint64_t before = beyond(bytes_, limits::kNbdShareBytes);
  bytes_ -= bytes;
  if (before == 0) return;
  all_.bytes_ -= before - beyond(bytes_, limits::kNbdShareBytes);
  all_.wake();
}

}  // namespace foreshadow::nbd
