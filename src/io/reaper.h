#pragma once
// Lets go of what takes the kernel long: a file whose name is gone, whose blocks the file system takes back
// with the last reference to it, and a large mapping. In the background, so that nothing else waits for it.
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "io/worker.h"

namespace foreshadow::io {

// For any thread. The destructor lets go of what is left.
class Reaper {
 public:
  // To be destroyed. `bytes`: what the file system gets back by that.
  template <typename T>
  void take(T held, uint64_t bytes) {
    destroy(std::make_shared<T>(std::move(held)), bytes);
  }
  uint64_t coming_back() const;  // bytes
  // Until everything taken before has been let go of. False: there was nothing.
  bool wait();

 private:
  void destroy(std::shared_ptr<void> held, uint64_t bytes);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t bytes_ = 0;  // guarded by mutex_, as are the next two
  uint64_t taken_ = 0;
  uint64_t gone_ = 0;
  Worker worker_{19};  // last: its jobs use the others; nobody waits for it as a rule
};

}  // namespace foreshadow::io
