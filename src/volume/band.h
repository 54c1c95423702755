#pragma once
// The backpressure band before the wall. While little is left, a first touch that takes a cluster waits for a
// moment, the longer the less there is, at most limits::kPaceMax and once a write: so a writer meets the wall
// late and calmly, and a shadow on its way has time to arrive. Reads, overwrites and writes beside data that
// has its cluster already are never paced. Like a held write it waits without its locks, in order of arrival;
// it takes its place only afterwards.
#include <cstdint>
#include <deque>

#include "io/executor.h"
#include "volume/io_task.h"

namespace foreshadow::volume {

class Engine;

// A part of the engine.
class Band {
 public:
  explicit Band(Engine& engine);
  ~Band();
  Band(const Band&) = delete;
  // True: the task waits, and comes back. It has its locks and its plans.
  bool pace(IoTask& task);
  // There may be room again: tells so, and lets all go on.
  void look();
  // All that wait go on, in a turn of their own.
  void release();

 private:
  uint64_t clusters() const;
  void on_due();

  Engine& engine_;
  std::deque<IoTask*> waiting_;  // by deadline
  io::Timer timer_;
  bool told_ = false;  // the listener knows that writes are paced
};

}  // namespace foreshadow::volume
