#pragma once
// A directory with a lock and a few small files that are replaced whole: what a daemon keeps of its own.
#include <cstddef>
#include <optional>
#include <string>

#include "base/error.h"

namespace foreshadow::io {

// Holds an advisory lock on a file in the directory for as long as it lives; the kernel lets go of it when
// the process dies. Every call blocks; one thread at a time.
class StateDirectory {
 public:
  // Makes the directory (mode 0700) if it is absent. kBusy, naming the directory, while another process holds
  // the lock.
  static Result<StateDirectory> open(const std::string& directory, const std::string& lock_file);
  StateDirectory(StateDirectory&& other) noexcept;
  StateDirectory& operator=(StateDirectory&&) = delete;
  ~StateDirectory();

  const std::string& path() const { return path_; }
  // Durable on return; a crash leaves the old file or the new one, whole.
  Status replace(const std::string& name, const std::string& text) const;

 private:
  StateDirectory(std::string path, int directory_fd, int lock_fd)
      : path_(std::move(path)), directory_fd_(directory_fd), lock_fd_(lock_fd) {}
  std::string path_;
  int directory_fd_ = -1;
  int lock_fd_ = -1;
};

// A whole small file; nothing if there is none. kCorrupt, naming it, if it is longer than `bytes_max`.
Result<std::optional<std::string>> read_small_file(const std::string& path, size_t bytes_max);
// This machine's name, "unknown" if it has none.
std::string host_name();

}  // namespace foreshadow::io
