#pragma once
// One process per state directory.
#include <string>
#include <utility>

#include "base/error.h"
#include "control/sqlite.h"

namespace foreshadow::control {

// Holds `control.lock` in the directory for as long as it lives: an empty database in an exclusive
// transaction, so that the lock is SQLite's own and the kernel lets go of it when the process dies. A crash
// leaves nothing to clean up.
class StateLock {
 public:
  // Makes the directory (mode 0700) if it is absent. kBusy, naming the directory, while another process or
  // another StateLock of this one holds it.
  static Result<StateLock> take(const std::string& directory);

 private:
  explicit StateLock(sqlite::Connection held) : held_(std::move(held)) {}
  sqlite::Connection held_;
};

}  // namespace foreshadow::control
