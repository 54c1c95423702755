#pragma once
// Growth of the size that clients see. Crash points: the GROW record is durable before info() shows the new
// size, so nobody ever sees a size that a crash could take back; a superblock names it from the next
// checkpoint on, and replay takes the largest. A cluster that the end of an image cuts short leaves the image
// before, by records of its own (base_places.h). The map is extended before, which says nothing to anybody:
// requests are judged by the size.
#include <cstdint>

#include "base/error.h"
#include "io/task.h"

namespace foreshadow::volume {

class Engine;

// A part of the engine.
class Growth {
 public:
  explicit Growth(Engine& engine);
  // One at a time; the others wait.
  io::Task<Status> run(uint64_t size);

 private:
  Status check(uint64_t size) const;
  io::Task<Status> grow_to(uint64_t size);
  io::Task<Status> move_tail();

  Engine& engine_;
  bool running_ = false;
  io::Event ended_;
};

}  // namespace foreshadow::volume
