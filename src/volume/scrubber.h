#pragma once
// Scrub: reads everything that is stored, in the background, verifies what has a checksum and gives one to
// what has none.
#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/types.h"
#include "io/executor.h"
#include "io/task.h"
#include "volume/pacer.h"

namespace foreshadow::volume {

// In sub-blocks.
struct ScrubCounts {
  uint64_t read = 0;        // all of them
  uint64_t verified = 0;    // they fit their checksum
  uint64_t filled = 0;      // they had none, and have one now
  uint64_t corrupt = 0;     // they do not fit
  uint64_t unreadable = 0;  // the backing gave an error instead
};

// Where a scrub is, and all that is needed to go on from there.
struct ScrubPoint {
  Lcn cursor;  // clusters before this one are done
  ScrubCounts counts;
};

struct ScrubOptions {
  ScrubPoint from;
  uint64_t bytes_per_s = 0;  // 0: as fast as the foreground lets it
};

struct ScrubProgress {
  bool running = false;
  ScrubPoint now;
  ScrubPoint
      resume;  // as now, but with all checksums that were filled in on disk: a crash loses nothing of it
  uint64_t total = 0;  // sub-blocks to read, about
};

// What the scrubber works on: the engine.
class ScrubSource {
 public:
  virtual ~ScrubSource() = default;
  virtual Lcn next_mapped(Lcn from) = 0;  // end() if none is left
  virtual Lcn end() = 0;
  virtual uint64_t stored_sub_blocks() = 0;
  virtual uint64_t sub_block_bytes() = 0;
  // Reads `clusters` from `first`, with nobody writing there meanwhile, and counts. kShutdown if closing.
  virtual io::Task<Status> scrub_clusters(Lcn first, uint32_t clusters, ScrubCounts& counts) = 0;
  virtual io::Task<Status> keep_checksums() = 0;  // a checkpoint
};

class Engine;
std::unique_ptr<ScrubSource> make_scrub_reader(Engine& engine);

// One scrub at a time, on the engine's executor. It reads alone while nobody is served, and rests as the
// pacer says while somebody is.
class Scrubber {
 public:
  Scrubber(io::Executor& executor, ScrubSource& source, Pacer& pacer);
  ~Scrubber();
  // To the end, or until stop(). kBusy while one runs; the error of a checkpoint that failed.
  io::Task<Result<ScrubProgress>> run(ScrubOptions options);
  void stop();                   // run() returns soon
  io::Task<Status> wait_idle();  // until it has
  const ScrubProgress& progress() const { return progress_; }

 private:
  struct Sleep {
    Scrubber& self;
    MonoTime until;
    bool await_ready() const noexcept { return self.stopping_; }
    void await_suspend(std::coroutine_handle<> h);
    void await_resume() const noexcept {}
  };
  io::Task<Status> walk(uint64_t bytes_per_s);
  io::Task<Status> keep();

  io::Executor& executor_;
  ScrubSource& source_;
  Pacer& pacer_;
  ScrubProgress progress_;
  bool stopping_ = false;
  io::Timer timer_;
  std::coroutine_handle<> sleeping_;
  io::Event ended_;
};

}  // namespace foreshadow::volume
