#include "io/uring_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <vector>

#include "base/assert.h"
#include "base/types.h"
#include "io/buffer.h"

namespace foreshadow::io {
namespace {

// Op::flags of a transfer: its direction, and whether a write is durable by itself.
enum Direction : uint8_t { kRead, kWrite, kWriteDurable };

// In memory, a larger write takes its turn with the sockets, which bring the next one meanwhile. A smaller
// one, the journal's above all, does not wait behind it.
constexpr uint32_t kWrittenAtOnce = 16 * 1024;

// In memory, more than this is copied by the kernel, which needs no page fault for it.
constexpr uint32_t kMappedAtOnce = 16 * 1024;

// What takes well under a millisecond where it is pages to be found, and where it is extents.
constexpr uint64_t kReservedAtOnceInMemory = 256 * kKiB;
constexpr uint64_t kReservedAtOnce = 16 * kMiB;

// Unmapping more than this takes longer than somebody who is served should wait.
constexpr uint64_t kUnmappedAtOnce = 4 * kMiB;

// Past the end of a file of fixed size there is nothing to read and nothing to be written.
constexpr int kPastEnd = -EIO;

}  // namespace

UringFile::UringFile(UringLoop& loop, UniqueFd fd, uint64_t size, FileAccess access, Directory::Mode mode)
    : loop_(loop),
      fd_(std::move(fd)),
      size_(size),
      access_(access),
      writable_(mode == Directory::Mode::kReadWriteLocked) {}

UringFile::~UringFile() {
  ASSERT(in_flight() == 0);
  // Closing would do, were the ring not free to keep its last reference to the file a little longer: the next
  // owner must find the lock free at once. A file without the lock loses nothing.
  struct flock lock {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  ::fcntl(fd_.get(), F_OFD_SETLK, &lock);
  if (mapped_.size() >= kUnmappedAtOnce) loop_.reaper().take(std::move(mapped_), 0);
}

void UringFile::read(Op& op, uint64_t offset, std::span<std::byte> into) {
  if (refused(op, offset, into.size(), false)) return;
  start_transfer(op, kRead, offset, into.data(), into.size());
}

void UringFile::write(Op& op, uint64_t offset, std::span<const std::byte> from) {
  if (refused(op, offset, from.size(), true)) return;
  // The scratch of an Op has one pointer for both directions; a write never stores through it.
  start_transfer(op, kWrite, offset, const_cast<std::byte*>(from.data()), from.size());
}

void UringFile::write_durable(Op& op, uint64_t offset, std::span<const std::byte> from) {
  if (refused(op, offset, from.size(), true)) return;
  start_transfer(op, kWriteDurable, offset, const_cast<std::byte*>(from.data()), from.size());
}

void UringFile::sync(Op& op) {
  if (access_.in_memory) {
    loop_.finish_soon(op, 0);  // nothing outlives this memory anyway
    return;
  }
  io_uring_sqe& entry = loop_.next_entry();
  io_uring_prep_fsync(&entry, fd_.get(), IORING_FSYNC_DATASYNC);
  loop_.start(entry, op, OpKind::kPlain, *this);
}

// Completes `op` at once if the call cannot be done or has nothing to do.
bool UringFile::refused(Op& op, uint64_t offset, uint64_t length, bool writes) {
  int result = 0;
  if (writes && !writable_) {
    result = -EBADF;
  } else if (offset > size_ || length > size_ - offset) {
    result = kPastEnd;
  } else if (length > 0) {
    return false;
  }
  loop_.finish_soon(op, result);
  return true;
}

void UringFile::start_transfer(Op& op, uint8_t direction, uint64_t offset, std::byte* data, size_t length) {
  ASSERT(length <= std::numeric_limits<uint32_t>::max());
  op.flags = direction;
  op.data = data;
  op.offset = offset;
  op.length = static_cast<uint32_t>(length);
  op.progress = 0;
  if (access_.in_memory) {
    const std::span<std::byte> memory(data, length);
    if (direction == kRead ? read_now(offset, memory) : write_now(offset, memory)) {
      loop_.finish_soon(op, 0);
      return;
    }
    uint32_t all = op.length;
    if (direction != kWrite || op.length <= kWrittenAtOnce) {
      loop_.finish_soon(op, advance(op, all).value());
    } else {
      loop_.start_here(op, *this);
    }
  } else {
    submit_rest(op);
  }
}

void UringFile::submit_rest(Op& op) {
  io_uring_sqe& entry = loop_.next_entry();
  std::byte* data = op.data + op.progress;
  const uint32_t length = op.length - op.progress;
  const uint64_t offset = op.offset + op.progress;
  if (op.flags == kRead) {
    io_uring_prep_read(&entry, fd_.get(), data, length, offset);
  } else {
    io_uring_prep_write(&entry, fd_.get(), data, length, offset);
    if (op.flags == kWriteDurable) entry.rw_flags = RWF_DSYNC;
  }
  loop_.start(entry, op, OpKind::kWhole, *this);
}

// Reached only by what is not a full transfer.
void UringFile::completed(Op& op, int result) {
  if (result == -EINTR || result == -EAGAIN) {
    submit_rest(op);
  } else if (result < 0) {
    op.done(&op, result);
  } else if (result == 0) {
    op.done(&op, kPastEnd);  // somebody cut the file short
  } else {
    op.progress += static_cast<uint32_t>(result);
    ASSERT(op.progress < op.length);
    submit_rest(op);
  }
}

// Whether a transfer, which is within the file, can go through the mapping. That grows with the file, and
// stays as it is when the file becomes smaller: nobody asks for what is past its end.
bool UringFile::maps(uint64_t offset, uint64_t length) {
  if (!access_.in_memory || length > kMappedAtOnce) return false;
  const uint64_t size = size_;
  if (size > mapped_size_) {
    if (!mapped_.covers(0, 1)) {
      mapped_ = MappedFile(fd_.get(), size, writable_);
    } else {
      mapped_.extend(fd_.get(), size);
    }
    mapped_size_ = size;
  }
  return mapped_.covers(offset, length);
}

bool UringFile::read_now(uint64_t offset, std::span<std::byte> into) {
  return maps(offset, into.size()) && mapped_.read(offset, into);
}

bool UringFile::write_now(uint64_t offset, std::span<const std::byte> from) {
  return writable_ && maps(offset, from.size()) && mapped_.write(offset, from);
}

std::optional<int> UringFile::advance(Op& op, uint32_t& share) {
  while (op.progress < op.length) {
    if (share == 0) return std::nullopt;
    std::byte* data = op.data + op.progress;
    const uint32_t length = std::min(op.length - op.progress, share);
    const auto offset = static_cast<off_t>(op.offset + op.progress);
    const ssize_t moved = op.flags == kRead ? ::pread(fd_.get(), data, length, offset)
                                            : ::pwrite(fd_.get(), data, length, offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return -errno;
    if (moved == 0) return kPastEnd;
    op.progress += static_cast<uint32_t>(moved);
    share -= static_cast<uint32_t>(moved);
  }
  return 0;
}

Result<FileAccess> prepare_access(int fd, const std::string& path) {
  struct statfs system {};
  if (::fstatfs(fd, &system) != 0) return fail_errno(errno, path + ": asking for its file system");
  FileAccess access;
  struct stat kind {};
  if (::fstat(fd, &kind) != 0) return fail_errno(errno, path + ": asking what it is");
  // A block device is where its medium is, not where its name is: /dev is a file system in memory.
  access.in_memory = !S_ISBLK(kind.st_mode) && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail_errno(errno, path + ": reading its flags");
  const int buffered = flags & ~O_NONBLOCK;

  if (!access.in_memory) {
    access.alignment =
        kBufferAlignment;  // what every disk accepts, where the kernel does not say (before Linux 6.1)
    struct statx facts {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 &&
        (facts.stx_mask & STATX_DIOALIGN) != 0) {
      access.alignment = std::max(facts.stx_dio_mem_align, facts.stx_dio_offset_align);
    }
    // 0 says that there is no direct I/O here; more than our buffers are aligned to is as good as none.
    const bool usable = access.alignment > 0 && access.alignment <= kBufferAlignment;
    access.direct = usable && ::fcntl(fd, F_SETFL, buffered | O_DIRECT) == 0;
  }
  if (!access.direct) {
    access.alignment = 1;
    if (::fcntl(fd, F_SETFL, buffered) != 0) return fail_errno(errno, path + ": setting its flags");
  }
  return access;
}

Status reserve_space(int fd, uint64_t from, uint64_t size, const std::string& path, Reaper& reaper) {
  if (size <= from) return {};
  while (::fallocate(fd, 0, static_cast<off_t>(from), static_cast<off_t>(size - from)) != 0) {
    const int error = errno;
    const bool again = error == EINTR || (error == ENOSPC && reaper.wait());
    if (again) continue;
    if (error == EOPNOTSUPP || error == ENOSYS) return write_zeros(fd, from, size, path);
    return fail_errno(error, path + ": reserving its space");
  }
  return {};
}

Status write_zeros(int fd, uint64_t from, uint64_t size, const std::string& path) {
  if (size <= from) return {};
  const Buffer zeros(std::min<uint64_t>(kMiB, align_up(size - from, kBufferAlignment)));  // fit for O_DIRECT
  std::fill(zeros.span().begin(), zeros.span().end(), std::byte{0});
  for (uint64_t offset = from; offset < size;) {
    const size_t length = std::min<uint64_t>(zeros.size(), size - offset);
    const ssize_t written = ::pwrite(fd, zeros.data(), length, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_errno(errno, path + ": filling it with zeros");
    offset += static_cast<uint64_t>(written);
  }
  return {};
}

Status UringFile::resize(uint64_t bytes) {
  const std::string path = "a segment's backing";
  const uint64_t before = size_;
  if (!writable_) return fail(Code::kReadOnly, path + " is open for reading only");
  if (bytes % access_.alignment != 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: {} bytes are no multiple of {}", path, bytes, access_.alignment));
  }
  // A call of the kernel's keeps writers of the file out.
  const uint64_t step = access_.in_memory ? kReservedAtOnceInMemory : kReservedAtOnce;
  Status reserved;
  for (uint64_t at = before; at < bytes && reserved; at += step) {
    reserved = reserve_space(fd_.get(), at, std::min(bytes, at + step), path, loop_.reaper());
  }
  if (!reserved) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(before)) != 0)
      return fail_errno(errno, path + ": taking it back");
    return reserved;
  }
  if (bytes < before && ::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) {
    return fail_errno(errno, path + ": cutting it off");
  }
  size_ = bytes;
  return {};
}

}  // namespace foreshadow::io
