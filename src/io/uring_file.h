#pragma once
// io::File on a descriptor, and the two steps that make one.
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "io/file.h"
#include "io/mapped_file.h"
#include "io/unique_fd.h"
#include "io/uring_loop.h"

namespace foreshadow::io {

// How a file system wants to be talked to.
struct FileAccess {
  bool in_memory = false;  // tmpfs, ramfs: I/O is done on the loop's thread
  bool direct = false;     // opened with O_DIRECT
  uint32_t alignment = 1;  // of offsets, lengths and memory
};

// An open regular file, or block device. Owns the descriptor, and with it the lock on the file. Made on any
// thread; used and destroyed on the loop's (or destroyed anywhere, once nothing is in flight).
//
// On a disk every call becomes one submission to the ring; what a short transfer left over is submitted
// again. In memory the ring would only pass the call to a kernel thread, so the loop copies itself: a large
// write a share each turn, all else inside the call, and what is small by way of a mapping. The completion is
// posted.
class UringFile final : public File, private Endpoint {
 public:
  UringFile(UringLoop& loop, UniqueFd fd, uint64_t size, FileAccess access, Directory::Mode mode);
  ~UringFile() override;

  void read(Op& op, uint64_t offset, std::span<std::byte> into) override;
  void write(Op& op, uint64_t offset, std::span<const std::byte> from) override;
  void write_durable(Op& op, uint64_t offset, std::span<const std::byte> from) override;
  void sync(Op& op) override;
  bool read_now(uint64_t offset, std::span<std::byte> into) override;
  bool write_now(uint64_t offset, std::span<const std::byte> from) override;
  uint64_t size() const override { return size_.load(std::memory_order_relaxed); }
  Status resize(uint64_t bytes) override;
  bool in_memory() const override { return access_.in_memory; }
  uint32_t alignment() const override { return access_.alignment; }
  bool direct() const { return access_.direct; }

 private:
  void completed(Op& op, int result) override;
  bool refused(Op& op, uint64_t offset, uint64_t length, bool writes);
  void start_transfer(Op& op, uint8_t direction, uint64_t offset, std::byte* data, size_t length);
  void submit_rest(Op& op);
  std::optional<int> advance(Op& op, uint32_t& share) override;
  bool maps(uint64_t offset, uint64_t length);

  UringLoop& loop_;
  UniqueFd fd_;
  std::atomic<uint64_t> size_;  // resize() comes from another thread
  const FileAccess access_;
  const bool writable_;
  MappedFile mapped_;         // in memory only
  uint64_t mapped_size_ = 0;  // the size it was last made for
};

// The one writer's lock: of this open file, not of the process, so that a second File in here is refused as
// well. It goes when the descriptor is closed, also by a crash.
Status lock_for_writing(int fd, const std::string& path);

// Finds out how to talk to `fd`, a regular file or block device that was opened without O_DIRECT, and
// switches O_DIRECT on where that is the way. O_NONBLOCK is cleared.
Result<FileAccess> prepare_access(int fd, const std::string& path);

// Makes room for zero bytes from `from`, the present end of file `fd`, to `size`, so that no later write can
// fail for lack of space. Where the file system cannot reserve, zeros are written. kNoSpace if it does not
// fit, not even when what the reaper has is back; the file then ends anywhere between.
Status reserve_space(int fd, uint64_t from, uint64_t size, const std::string& path, Reaper& reaper);
// The second way by itself.
Status write_zeros(int fd, uint64_t from, uint64_t size, const std::string& path);

}  // namespace foreshadow::io
