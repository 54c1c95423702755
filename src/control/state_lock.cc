#include "control/state_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/names.h"

namespace foreshadow::control {

Result<StateLock> StateLock::take(const std::string& directory) {
  if (directory.empty()) return fail(Code::kInvalidArgument, "state directory \"\": a path was expected");
  const std::filesystem::path path(directory);
  std::error_code ec;
  // Only a directory that we make gets our mode; one that exists is the administrator's affair.
  if (!std::filesystem::exists(path, ec)) {
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ec);
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
      return fail_errno(errno, fmt::format("state directory {}", foreshadow::quoted(directory)));
    }
  }
  const std::string file = directory + "/control.lock";
  StateLock lock(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.fd_ < 0) return fail_errno(errno, fmt::format("lock file {}", foreshadow::quoted(file)));
  if (::flock(lock.fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno(errno, fmt::format("lock file {}", foreshadow::quoted(file)));
    return fail(Code::kBusy, fmt::format("state directory {} is in use by another control plane",
                                         foreshadow::quoted(directory)));
  }
  return lock;
}

StateLock::StateLock(StateLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

StateLock& StateLock::operator=(StateLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

StateLock::~StateLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace foreshadow::control
