#pragma once
// Test support: an executor whose clock the test moves, and a stream whose other end the test is. Not part of
// the product.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "io/executor.h"
#include "io/stream.h"
#include "nbd/codec.h"

namespace foreshadow::nbd {

class ManualExecutor final : public io::Executor {
 public:
  MonoTime now() const override { return now_; }
  void post(io::Op& op) override { posted_.push_back(&op); }
  void defer(io::Op& op) override { deferred_.push_back(&op); }
  void arm(io::Timer& timer, MonoTime deadline) override {
    cancel(timer);
    timer.deadline = deadline;
    timer.sequence = ++sequence_;
    timers_.push_back(&timer);
  }
  void cancel(io::Timer& timer) override {
    std::erase(timers_, &timer);
    timer.sequence = 0;
  }
  void offload(std::function<void()> work, std::function<void()> done) override {
    work();
    done();
  }

  void run() {
    while (!posted_.empty() || !deferred_.empty()) {
      auto& queue = posted_.empty() ? deferred_ : posted_;
      io::Op* op = queue.front();
      queue.pop_front();
      op->done(op, 0);
    }
  }
  void advance(Nanos by) {
    now_ += by;
    for (io::Timer* timer : std::vector<io::Timer*>(timers_)) {
      if (timer->deadline > now_) continue;
      cancel(*timer);
      timer->op.done(&timer->op, 0);
    }
    run();
  }
  size_t armed() const { return timers_.size(); }

 private:
  MonoTime now_{};
  uint64_t sequence_ = 0;
  std::deque<io::Op*> posted_;
  std::deque<io::Op*> deferred_;
  std::vector<io::Timer*> timers_;
};

// The peer is the test: it gives bytes when it likes, and takes what is sent only while `reading`.
class ManualStream final : public io::Stream {
 public:
  struct Peer {
    ManualStream* stream = nullptr;
    Bytes got;
    bool reading = true;
    bool closed = false;
  };
  ManualStream(ManualExecutor& executor, Peer& peer) : executor_(executor), peer_(peer) {
    peer_.stream = this;
  }
  ~ManualStream() override {
    EXPECT_TRUE(receive_ == nullptr && send_ == nullptr);
    peer_.stream = nullptr;
  }
  void receive(io::Op& op, std::span<std::byte> into) override {
    ASSERT_EQ(receive_, nullptr);
    receive_ = &op;
    into_ = into;
  }
  void receive_all(io::Op& op, std::span<std::byte> into) override { receive(op, into); }
  void send(io::Op& op, std::span<iovec> parts) override {
    ASSERT_EQ(send_, nullptr);
    send_ = &op;
    for (const iovec& part : parts) {
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      peer_.got.insert(peer_.got.end(), from, from + part.iov_len);
    }
    if (peer_.reading) finish(send_, 0);
  }
  void shut_down() override {
    peer_.closed = true;
    if (receive_ != nullptr) finish(receive_, 0);
    if (send_ != nullptr) finish(send_, -EPIPE);
  }
  void give(ByteView bytes) {
    ASSERT_NE(receive_, nullptr);
    ASSERT_LE(bytes.size(), into_.size());
    std::copy(bytes.begin(), bytes.end(), into_.begin());
    finish(receive_, static_cast<int>(bytes.size()));
    executor_.run();
  }
  bool receiving() const { return receive_ != nullptr; }
  size_t room() const { return into_.size(); }  // of the receive in flight

 private:
  struct Completion : io::Op {
    ManualStream* stream;
    io::Op** which;
    int value;
  };
  void finish(io::Op*& which, int value) {
    Completion& c = &which == &receive_ ? receive_done_ : send_done_;
    const bool queued = c.stream != nullptr;
    c.stream = this;
    c.which = &which;
    c.value = value;
    c.done = [](io::Op* op, int) {
      auto* self = static_cast<Completion*>(op);
      self->stream = nullptr;
      io::Op* waiting = std::exchange(*self->which, nullptr);
      waiting->done(waiting, self->value);
    };
    if (!queued) executor_.post(c);
  }

  ManualExecutor& executor_;
  Peer& peer_;
  io::Op* receive_ = nullptr;
  io::Op* send_ = nullptr;
  std::span<std::byte> into_;
  Completion receive_done_{};
  Completion send_done_{};
};

}  // namespace foreshadow::nbd
