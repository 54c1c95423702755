#pragma once
// One process per state directory.
#include <string>

#include "base/error.h"

namespace foreshadow::control {

// Holds an advisory lock on `control.lock` in the directory for as long as it lives; the kernel lets go of it
// when the process dies, so a crash leaves nothing to clean up.
class StateLock {
 public:
  // Makes the directory (mode 0700) if it is absent. kBusy, naming the directory, while another process or
  // another StateLock of this one holds it.
  static Result<StateLock> take(const std::string& directory);
  StateLock(StateLock&& other) noexcept;
  StateLock& operator=(StateLock&& other) noexcept;
  ~StateLock();

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace foreshadow::control
