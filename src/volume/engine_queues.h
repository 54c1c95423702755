#pragma once
// Where the engine's requests wait, and what it keeps besides its parts: the state that has no parts of its
// own.
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "block/io_stats.h"
#include "extent/delta.h"
#include "io/executor.h"
#include "volume/committer.h"
#include "volume/io_task.h"
#include "volume/volume.h"

namespace foreshadow::volume {

class Engine;

// A private base of the Engine; every task is owned here, and is in one list at most.
struct EngineQueues {
  block::IoStats stats_;
  Listener* listener_ = nullptr;
  std::vector<std::unique_ptr<IoTask>> tasks_;
  std::vector<IoTask*> idle_tasks_;
  uint64_t sequential_next_ = UINT64_MAX;

  std::deque<IoTask*> held_;  // at the wall
  IoTask* retrying_ = nullptr;
  io::Timer hold_timer_;
  struct FreedWaiter : CommitWaiter {
    Engine* engine = nullptr;
    bool waits = false;
  };
  FreedWaiter freed_waiter_;     // of the oldest, whose time is up while clusters are on their way
  std::deque<IoTask*> parked_;   // until the batch has room
  std::vector<IoTask*> noting_;  // writes whose regions of checksums are being noted
  bool noted_posted_ = false;
  bool retry_posted_ = false;

  std::vector<Pcn> taken_;             // scratch of reserve()
  std::vector<extent::Delta> deltas_;  // scratch
  std::vector<std::function<void(Listener&)>> news_;
  uint32_t checking_ = 0;     // checks that read the segments' files now
  bool moving_head_ = false;  // head_move.cc
  bool closing_ = false;
};

}  // namespace foreshadow::volume
