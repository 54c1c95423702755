// open_device: a file or block device that was there before us.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>

#include "io/loop.h"
#include "io/uring_file.h"

namespace foreshadow::io {
namespace {

constexpr uint64_t kSector = 512;

Result<uint64_t> size_of(int fd, const struct stat& facts, const std::string& path) {
  if (S_ISREG(facts.st_mode)) return static_cast<uint64_t>(facts.st_size);
  uint64_t bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0) return fail_errno(errno, path + ": asking for its size");
  return bytes;
}

}  // namespace

Result<std::unique_ptr<File>> open_device(Loop& loop, const std::string& path, Directory::Mode mode) {
  const bool writes = mode == Directory::Mode::kReadWriteLocked;
  struct stat facts{};
  if (::stat(path.c_str(), &facts) != 0) return fail_errno(errno, path + ": looking at it");
  const bool block = S_ISBLK(facts.st_mode);
  if (!block && !S_ISREG(facts.st_mode)) {
    return fail(Code::kInvalidArgument, path + ": expected a regular file or a block device");
  }
  // O_EXCL without O_CREAT claims a block device: refused while it is mounted or part of another one.
  const int flags = (writes ? O_RDWR : O_RDONLY) | (writes && block ? O_EXCL : 0);
  UniqueFd fd(::open(path.c_str(), flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd && errno == EBUSY) {
    return fail(Code::kBusy, path + ": in use: mounted, or part of another device");
  }
  if (!fd) return fail_errno(errno, path + ": opening it");
  if (::fstat(fd.get(), &facts) != 0) return fail_errno(errno, path + ": asking what it is");
  if (S_ISBLK(facts.st_mode) != block || (!block && !S_ISREG(facts.st_mode))) {
    return fail(Code::kInvalidArgument, path + ": it was replaced while it was opened");
  }
  if (writes) TRY(lock_for_writing(fd.get(), path));
  ASSIGN_OR_RETURN(const uint64_t bytes, size_of(fd.get(), facts, path));
  ASSIGN_OR_RETURN(FileAccess access, prepare_access(fd.get(), path));
  const uint64_t size = bytes / kSector * kSector;
  if (access.direct && size % access.alignment != 0) {  // its end could not be reached by direct I/O
    const int now = ::fcntl(fd.get(), F_GETFL);
    if (now < 0 || ::fcntl(fd.get(), F_SETFL, now & ~O_DIRECT) != 0)
      return fail_errno(errno, path + ": setting its flags");
    access.direct = false;
    access.alignment = 1;
  }
  return std::make_unique<UringFile>(static_cast<UringLoop&>(loop), std::move(fd), size, access, mode);
}

}  // namespace foreshadow::io
