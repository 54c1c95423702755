#pragma once
// How much a connection may have in flight, and how much all of them together.
#include <cstdint>
#include <functional>

#include "base/limits.h"
#include "io/executor.h"

namespace foreshadow::nbd {

// What a server's connections hold beyond their own shares. Each has a share that nobody can take from it
// (limits::kNbdShareBytes and kNbdShareRequests), so that a volume whose writes are held, or a client that
// does not read, never keeps another's small requests out. What is larger waits here, in order of arrival,
// until others give back. While somebody waits, `stalled` is called every limits::kNbdStallTime: the time to
// drop connections that hold memory and do nothing.
//
// Lives on the executor. Every Account has ended before it does.
class Allowance {
 public:
  struct Bounds {
    uint64_t bytes = limits::kNbdSharedBytes;  // at least one request's
    uint32_t requests = limits::kNbdSharedRequests;
  };
  class Account;

  Allowance(io::Executor& executor, std::function<void()> stalled, Bounds bounds);
  Allowance(io::Executor& executor, std::function<void()> stalled)
      : Allowance(executor, std::move(stalled), Bounds()) {}
  ~Allowance();
  Allowance(const Allowance&) = delete;
  Allowance& operator=(const Allowance&) = delete;

  uint64_t bytes() const { return bytes_; }
  uint32_t requests() const { return requests_; }

 private:
  struct Stall {
    io::Timer timer;  // first, so that its address is the Stall's
    Allowance* owner;
  };
  static void on_stall(io::Op* op, int result);
  void on_wake(int result);
  void wake();

  io::Executor& executor_;
  std::function<void()> stalled_;
  Bounds bounds_;
  uint64_t bytes_ = 0;
  uint32_t requests_ = 0;
  Account* first_ = nullptr;  // who waits longest
  Account* last_ = nullptr;
  bool wake_posted_ = false;
  io::MemberOp<Allowance, &Allowance::on_wake> wake_op_{this};
  Stall stall_;
};

// One connection's part of it. `room_again` is called, from the executor, when a request that did not fit may
// fit by now.
class Allowance::Account {
 public:
  Account(Allowance& all, std::function<void()> room_again) : all_(all), room_again_(std::move(room_again)) {}
  ~Account();
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  // Whether one more request of `bytes` fits, by the connection's own bounds and by everybody's. If it is
  // everybody's that are in the way, the account waits from now on.
  bool admit(uint64_t bytes);
  void leave_queue();

  void add_request();
  void drop_request();
  void add_bytes(uint64_t bytes);
  void drop_bytes(uint64_t bytes);

  uint64_t bytes() const { return bytes_; }
  uint32_t requests() const { return requests_; }
  bool waits() const { return waits_; }

 private:
  friend class Allowance;
  bool fits_all(uint64_t bytes) const;

  Allowance& all_;
  std::function<void()> room_again_;
  uint64_t bytes_ = 0;
  uint32_t requests_ = 0;
  bool waits_ = false;
  Account* before_ = nullptr;
  Account* after_ = nullptr;
};

}  // namespace foreshadow::nbd
