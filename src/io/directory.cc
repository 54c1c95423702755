// open_directory: files of one directory, reached only through its descriptor.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/names.h"
#include "base/size.h"
#include "io/loop.h"
#include "io/uring_file.h"

namespace foreshadow::io {
namespace {

// One name of one directory: nothing that leads elsewhere.
Status check_name(const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos && name.size() <= NAME_MAX;
  if (plain) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("file name {}: expected a plain name of 1 to {} bytes without '/'", quoted(name),
                          NAME_MAX));
}

// Opens below `directory`, whatever others put there: no symbolic link is followed, and nothing outside is
// reached.
UniqueFd open_beneath(int directory, const std::string& name, int flags) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = (flags & O_CREAT) != 0 ? 0600 : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return UniqueFd(static_cast<int>(::syscall(SYS_openat2, directory, name.c_str(), &how, sizeof how)));
}

class FileDirectory final : public Directory {
 public:
  FileDirectory(UringLoop& loop, UniqueFd fd, std::string path)
      : loop_(loop), fd_(std::move(fd)), path_(std::move(path)) {}

  Result<std::unique_ptr<File>> create(const std::string& name, uint64_t size) override;
  Result<std::unique_ptr<File>> open(const std::string& name, Mode mode) override;
  Status remove(const std::string& name) override;
  Result<std::vector<std::string>> list() override;
  Result<uint64_t> size_of(const std::string& name) override;
  Result<uint64_t> free_bytes() override;

 private:
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  Result<std::unique_ptr<File>> fill(UniqueFd fd, const std::string& path, uint64_t size);
  Status sync_names();

  UringLoop& loop_;
  UniqueFd fd_;
  std::string path_;
};

Result<std::unique_ptr<File>> FileDirectory::create(const std::string& name, uint64_t size) {
  TRY(check_name(name));
  const std::string path = path_of(name);
  if (size > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: {} bytes are more than a file can have", path, size));
  }
  // Asked first, so that a size far too large is refused before the reservation has eaten all there is.
  ASSIGN_OR_RETURN(const uint64_t free, free_bytes());
  if (size > free) {
    return fail(Code::kNoSpace, fmt::format("{}: {} do not fit, {} has {} free", path, format_size(size),
                                            path_, format_size(free)));
  }
  UniqueFd fd = open_beneath(fd_.get(), name, O_RDWR | O_CREAT | O_EXCL);
  if (!fd) return fail_errno(errno, path + ": creating it");
  Result<std::unique_ptr<File>> file = fill(std::move(fd), path, size);
  if (!file) {
    // Leave nothing behind. The space comes back even if making the removal durable fails, so that is not
    // reported.
    ::unlinkat(fd_.get(), name.c_str(), 0);
    (void)sync_names();
  }
  return file;
}

// Turns a new, empty file into a finished one.
Result<std::unique_ptr<File>> FileDirectory::fill(UniqueFd fd, const std::string& path, uint64_t size) {
  TRY(lock_for_writing(fd.get(), path));
  TRY(reserve_space(fd.get(), 0, size, path, loop_.reaper()));
  if (::fsync(fd.get()) != 0) return fail_errno(errno, path + ": making it durable");
  TRY(sync_names());
  ASSIGN_OR_RETURN(const FileAccess access, prepare_access(fd.get(), path));
  return std::make_unique<UringFile>(loop_, std::move(fd), size, access, Mode::kReadWriteLocked);
}

Result<std::unique_ptr<File>> FileDirectory::open(const std::string& name, Mode mode) {
  TRY(check_name(name));
  const std::string path = path_of(name);
  const bool writes = mode == Mode::kReadWriteLocked;
  // O_NONBLOCK, so that a pipe by that name cannot keep us waiting for its other end.
  UniqueFd fd = open_beneath(fd_.get(), name, (writes ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY);
  if (!fd && (errno == ELOOP || errno == EXDEV)) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: expected a regular file, not a symbolic link", path));
  }
  if (!fd) return fail_errno(errno, path + ": opening it");
  struct stat facts {};
  if (::fstat(fd.get(), &facts) != 0) return fail_errno(errno, path + ": asking for its size");
  if (!S_ISREG(facts.st_mode)) return fail(Code::kInvalidArgument, path + ": expected a regular file");
  if (writes) TRY(lock_for_writing(fd.get(), path));
  ASSIGN_OR_RETURN(const FileAccess access, prepare_access(fd.get(), path));
  return std::make_unique<UringFile>(loop_, std::move(fd), static_cast<uint64_t>(facts.st_size), access,
                                     mode);
}

Status FileDirectory::remove(const std::string& name) {
  TRY(check_name(name));
  UniqueFd held(::openat(fd_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat facts {};
  const bool known = held && ::fstat(held.get(), &facts) == 0;
  if (::unlinkat(fd_.get(), name.c_str(), 0) != 0) return fail_errno(errno, path_of(name) + ": removing it");
  if (known) {
    constexpr uint64_t kStatBlock = 512;
    loop_.reaper().take(std::move(held), static_cast<uint64_t>(facts.st_blocks) * kStatBlock);
  }
  return sync_names();
}

Result<std::vector<std::string>> FileDirectory::list() {
  // A descriptor of its own: reading moves the position, which others must not share.
  UniqueFd fd(::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, path_ + ": listing it");
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(fd.get()), &::closedir);
  if (!entries) return fail_errno(errno, path_ + ": listing it");
  fd.release();
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(entries.get());
    if (entry == nullptr && errno != 0) return fail_errno(errno, path_ + ": listing it");
    if (entry == nullptr) return names;
    bool regular = entry->d_type == DT_REG;
    if (entry->d_type == DT_UNKNOWN) {
      struct stat facts {};
      regular =
          ::fstatat(fd_.get(), entry->d_name, &facts, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(facts.st_mode);
    }
    if (regular) names.emplace_back(entry->d_name);
  }
}

Result<uint64_t> FileDirectory::size_of(const std::string& name) {
  TRY(check_name(name));
  struct stat facts {};
  if (::fstatat(fd_.get(), name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) {
    return fail_errno(errno, path_of(name) + ": asking for its size");
  }
  if (!S_ISREG(facts.st_mode))
    return fail(Code::kInvalidArgument, path_of(name) + ": expected a regular file");
  return static_cast<uint64_t>(facts.st_size);
}

Result<uint64_t> FileDirectory::free_bytes() {
  struct statvfs facts {};
  if (::fstatvfs(fd_.get(), &facts) != 0) return fail_errno(errno, path_ + ": asking for its free space");
  // With what is on its way back: who needs it waits for it (reserve_space).
  const uint64_t coming = loop_.reaper().coming_back();
  if (facts.f_blocks != 0) return static_cast<uint64_t>(facts.f_bavail) * facts.f_frsize + coming;
  // A file system in memory without a limit of its own (ramfs, tmpfs with size=0) is limited by the memory.
  struct sysinfo memory {};
  if (::sysinfo(&memory) != 0) return fail_errno(errno, path_ + ": asking for free memory");
  return static_cast<uint64_t>(memory.freeram) * memory.mem_unit;
}

// Makes created and removed names durable.
Status FileDirectory::sync_names() {
  if (::fsync(fd_.get()) != 0) return fail_errno(errno, path_ + ": making its names durable");
  return {};
}

}  // namespace

Status lock_for_writing(int fd, const std::string& path) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;  // from 0, with length 0: the whole file
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES) {
    return fail(Code::kBusy, fmt::format("{}: locked by another process or volume", path));
  }
  return fail_errno(errno, path + ": locking it");
}

Result<std::unique_ptr<Directory>> open_directory(Loop& loop, const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, path + ": opening the directory");
  // There is no other Loop than the one on io_uring.
  return std::make_unique<FileDirectory>(static_cast<UringLoop&>(loop), std::move(fd), path);
}

}  // namespace foreshadow::io
