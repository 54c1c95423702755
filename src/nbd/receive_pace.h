#pragma once
// When to receive again.
//
// A server that is quicker than its client takes each command as it comes: one system call to receive, one to
// send, for one command. A client that still has replies to read loses nothing by a short pause, and every
// command the pause brings together shares those calls. Falling asleep has its own price (a timer to set, two
// switches), so a pause must bring many.
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/types.h"

namespace foreshadow::nbd {

// Decides by what was seen: a pause that ends with replies unread was none for the client, so the next may be
// longer; one that ends with everything read may have kept the client waiting, so the next is half as long,
// or there is none for a while. A client with few requests in flight has read its replies before it sends
// more, so it is not paused for. Belongs to one session.
class ReceivePace {
 public:
  static constexpr Nanos kShortest = std::chrono::microseconds(12);
  static constexpr Nanos kLongest = std::chrono::microseconds(64);
  static constexpr Nanos kStep = std::chrono::microseconds(4);
  static constexpr uint32_t kBatch = 20;  // commands at once are enough

  // How long to wait before the next receive; 0: not at all.
  Nanos pause() const { return pause_; }
  // After a receive that brought `commands`, paused for or not: is it worth asking what the client has
  // unread?
  bool asks(uint32_t commands) {
    if (commands > kBatch) {
      pause_ = pause_ < kShortest + kStep ? Nanos::zero() : pause_ - kStep;
      return false;
    }
    return pause_ == Nanos::zero() && ++receives_ % patience_ == 0;
  }
  // The answer to that, or what is unread at the end of a pause.
  void note(bool unread) {
    if (pause_ == Nanos::zero()) {
      if (unread) pause_ = kShortest;
      return;
    }
    if (unread) {
      pause_ = std::min(pause_ + kStep, kLongest);
      patience_ = kPatienceMin;
      return;
    }
    pause_ /= 2;
    if (pause_ >= kShortest) return;
    pause_ = Nanos::zero();
    patience_ = std::min(patience_ * 2, kPatienceMax);
  }

 private:
  static constexpr uint32_t kPatienceMin = 8;
  static constexpr uint32_t kPatienceMax = 64;
  Nanos pause_{};
  uint32_t receives_ = 0;
  uint32_t patience_ = kPatienceMin;
};

}  // namespace foreshadow::nbd
