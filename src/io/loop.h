#pragma once
// The real executor: one thread, one io_uring.
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "io/executor.h"
#include "io/file.h"

namespace foreshadow::io {

// Everything but the two calls marked "any thread" belongs to the thread that calls run().
//
// One turn of the loop: take all completions and run their `done`; run posted ops until none is left; run
// deferred ops once; submit all new work and wait with a single io_uring_enter. Set up with SINGLE_ISSUER |
// DEFER_TASKRUN | COOP_TASKRUN where the kernel has them, else without.
class Loop : public Executor {
 public:
  static Result<std::unique_ptr<Loop>> create();
  // Runs until stop(); then returns once nothing is in flight.
  virtual void run() = 0;
  virtual void stop() = 0;                                // any thread
  virtual void run_on_loop(std::function<void()> f) = 0;  // any thread: f runs on the loop
};

// The directory at `path`, which must exist. Files are opened with O_DIRECT where the file system has it and
// is not in memory; on tmpfs the loop itself copies, which is cheaper there than any queue.
Result<std::unique_ptr<Directory>> open_directory(Loop& loop, const std::string& path);

// The regular file or block device at `path`, which is somebody else's: its bytes are what they are. Symbolic
// links are followed. Its size counts in whole sectors of 512. kReadWriteLocked takes the writer's lock of a
// file, and a block device for itself alone; kBusy if it is in use (locked, mounted, part of another device).
// Blocks.
Result<std::unique_ptr<File>> open_device(Loop& loop, const std::string& path, Directory::Mode mode);

}  // namespace foreshadow::io
