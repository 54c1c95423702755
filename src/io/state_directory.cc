#include "io/state_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "io/unique_fd.h"

namespace foreshadow::io {
namespace {

Status write_all(int fd, const std::string& text, const std::string& what) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, what + ": writing it");
    done += static_cast<size_t>(n);
  }
  return {};
}

}  // namespace

Result<StateDirectory> StateDirectory::open(const std::string& directory, const std::string& lock_file) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(errno, directory + ": making the state directory");
  }
  UniqueFd dir(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return fail_errno(errno, directory + ": opening the state directory");
  UniqueFd lock(::openat(dir.get(), lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno(errno, fmt::format("{}/{}: opening it", directory, lock_file));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      return fail_errno(errno, fmt::format("{}/{}: locking it", directory, lock_file));
    return fail(Code::kBusy,
                fmt::format("state directory {}: another agent runs on it; stop that one, or name "
                            "another directory",
                            directory));
  }
  return StateDirectory(directory, dir.release(), lock.release());
}

StateDirectory::StateDirectory(StateDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      directory_fd_(std::exchange(other.directory_fd_, -1)),
      lock_fd_(std::exchange(other.lock_fd_, -1)) {}

StateDirectory::~StateDirectory() {
  if (directory_fd_ >= 0) ::close(directory_fd_);
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

Status StateDirectory::replace(const std::string& name, const std::string& text) const {
  const std::string fresh = name + ".new";
  const std::string path = path_ + "/" + fresh;
  const UniqueFd file(
      ::openat(directory_fd_, fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_errno(errno, path + ": creating it");
  TRY(write_all(file.get(), text, path));
  if (::fsync(file.get()) != 0) return fail_errno(errno, path + ": making it durable");
  if (::renameat(directory_fd_, fresh.c_str(), directory_fd_, name.c_str()) != 0) {
    return fail_errno(errno, path + ": putting it in place");
  }
  if (::fsync(directory_fd_) != 0) return fail_errno(errno, path_ + ": making its names durable");
  return {};
}

Result<std::optional<std::string>> read_small_file(const std::string& path, size_t bytes_max) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::nullopt;
  if (!file) return fail_errno(errno, path + ": opening it");
  std::string text;
  char chunk[16384];
  for (;;) {
    const ssize_t n = ::read(file.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, path + ": reading it");
    if (n == 0) return text;
    text.append(chunk, static_cast<size_t>(n));
    if (text.size() > bytes_max) {
      return fail(Code::kCorrupt, fmt::format("{}: expected at most {} bytes", path, bytes_max));
    }
  }
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

}  // namespace foreshadow::io
