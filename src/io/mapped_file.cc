#include "io/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstring>

#include "base/assert.h"
#include "base/types.h"

namespace foreshadow::io {
namespace {

constexpr size_t kWithoutFetching = 2048;
constexpr uint64_t kFaultAround = 64 * kKiB;  // what the kernel maps with a page that is read first

// Where the running copy of this thread goes on if its memory is gone.
thread_local sigjmp_buf* escape = nullptr;
struct sigaction handler_before;

void on_bus_error(int, siginfo_t*, void*) {
  if (escape != nullptr) siglongjmp(*escape, 1);
  // Not ours: the instruction runs again, under whoever was here before.
  ::sigaction(SIGBUS, &handler_before, nullptr);
}

bool install_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  // NODEFER: a jump out of the handler leaves the signal unblocked, without a system call for each copy.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return ::sigaction(SIGBUS, &action, &handler_before) == 0;
}

// As std::memcpy. A page that is written as a whole is hardly ever in a cache: the string instruction does
// not fetch what it is about to overwrite, and takes 0.25 us for 4 KiB where the vector loop takes 0.4.
void copy(std::byte* to, const std::byte* from, size_t bytes) {
#if defined(__x86_64__)
  if (bytes >= kWithoutFetching) {
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

// Nothing in here has a destructor that a jump could pass over.
bool guarded_copy(std::byte* to, const std::byte* from, size_t bytes) {
  sigjmp_buf here;
  if (sigsetjmp(here, 0) != 0) {
    escape = nullptr;
    return false;
  }
  escape = &here;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  copy(to, from, bytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  escape = nullptr;
  return true;
}

bool has_memory(int fd, uint64_t size) {
  constexpr uint64_t kStatBlock = 512;
  struct stat facts {};
  return ::fstat(fd, &facts) == 0 && static_cast<uint64_t>(facts.st_blocks) * kStatBlock >= size;
}

}  // namespace

MappedFile::MappedFile(int fd, uint64_t size, bool writable) {
  static const bool handled = install_handler();
  if (!handled || size == 0 || !has_memory(fd, size)) return;
  void* data = ::mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return;
  data_ = static_cast<std::byte*>(data);
  size_ = size;
  touched_.resize(div_up(size, kFaultAround));
}

void MappedFile::extend(int fd, uint64_t size) {
  ASSERT(data_ != nullptr && size > size_);
  if (!has_memory(fd, size)) return;
  void* data = ::mremap(data_, size_, size, MREMAP_MAYMOVE);
  if (data == MAP_FAILED) return;
  data_ = static_cast<std::byte*>(data);
  size_ = size;
  touched_.resize(div_up(size, kFaultAround));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

bool MappedFile::read(uint64_t offset, std::span<std::byte> into) const {
  ASSERT(covers(offset, into.size()));
  return guarded_copy(into.data(), data_ + offset, into.size());
}

bool MappedFile::write(uint64_t offset, std::span<const std::byte> from) {
  ASSERT(covers(offset, from.size()));
  // A page that is read first is mapped together with its neighbours, for writing as well; a write would take
  // a fault for each. Once is enough: each time would fetch a line that is about to be overwritten.
  if (const uint64_t around = offset / kFaultAround; !touched_[around]) {
    std::byte first;
    if (!guarded_copy(&first, data_ + offset, 1)) return false;
    touched_[around] = true;
  }
  return guarded_copy(data_ + offset, from.data(), from.size());
}

}  // namespace foreshadow::io
