#pragma once
// A file that lies in memory, used as memory.
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace foreshadow::io {

// A shared mapping of a file on tmpfs: 4 KiB moves at the cost of the copy, without a system call and without
// the kernel's search for the page. A page costs one fault the first time, so this pays for small transfers
// that come back, not for large ones. Memory: 2 MiB a TiB.
//
// A file that somebody cuts short while it is mapped gives no error but a signal (SIGBUS). It is caught
// around each copy, which then says false; the caller's ordinary read or write tells what is wrong. Outside
// of a copy the signal does what it did before. One thread at a time; copies of different threads do not
// disturb each other.
class MappedFile {
 public:
  MappedFile() = default;
  // Maps the first `size` bytes of `fd`. Maps nothing if that fails, or if not all of them have memory yet: a
  // touch would take some, and there may be none left.
  MappedFile(int fd, uint64_t size, bool writable);
  // The same for a file that has grown, without another fault for what was touched before.
  void extend(int fd, uint64_t size);
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        touched_(std::move(other.touched_)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(touched_, other.touched_);
    return *this;
  }
  ~MappedFile();

  uint64_t size() const { return size_; }
  bool covers(uint64_t offset, uint64_t length) const { return offset <= size_ && length <= size_ - offset; }
  // Asserted: the range is covered, and for write() the mapping is writable. False: the memory is not there
  // any more; a part may have been copied.
  bool read(uint64_t offset, std::span<std::byte> into) const;
  bool write(uint64_t offset, std::span<const std::byte> from);

 private:
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;          // 0: nothing is mapped
  std::vector<bool> touched_;  // by 64 KiB: a page of them has been read
};

}  // namespace foreshadow::io
