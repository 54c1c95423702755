#pragma once
// Storage: the only way any layer above touches a disk.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/op.h"

namespace foreshadow::io {

// A random-access backing, of fixed size between calls of resize(). Calls may overlap; overlapping writes in
// flight have no order.
//
// Durability is that of a disk with a volatile cache: a completed write is visible to later reads, and
// durable only after a sync() that was *started after* the write completed has succeeded. Without that, a
// crash may keep, lose or tear it, in any order, at 512-byte sectors. write_durable() is a write that is
// durable itself when it completes; it says nothing about other writes.
//
// Offsets, lengths and memory are multiples of alignment(). A call completes in full (result 0) or fails.
class File {
 public:
  virtual ~File() = default;  // no call may be in flight
  virtual void read(Op& op, uint64_t offset, std::span<std::byte> into) = 0;
  virtual void write(Op& op, uint64_t offset, std::span<const std::byte> from) = 0;
  virtual void write_durable(Op& op, uint64_t offset, std::span<const std::byte> from) = 0;
  virtual void sync(Op& op) = 0;
  // read() and write() done inside the call, for a file where that takes no waiting; memory may lie anywhere.
  // False: not here or not now, and a part may have been transferred; start the ordinary call.
  virtual bool read_now(uint64_t /*offset*/, std::span<std::byte> /*into*/) { return false; }
  virtual bool write_now(uint64_t /*offset*/, std::span<const std::byte> /*from*/) { return false; }
  // A transfer takes the executor's own time, and no waiting: nobody is served meanwhile.
  virtual bool in_memory() const { return false; }
  virtual uint64_t size() const = 0;
  virtual uint32_t alignment() const = 0;  // 1 to 4096
  // Blocks: through Executor::offload. Nothing may be in flight past the smaller of both sizes. Growing
  // reserves the space and reads as zero there; the new size is durable with the next sync(), which alone is
  // told if something written before was lost. kNoSpace changes nothing that size() shows.
  virtual Status resize(uint64_t bytes) = 0;
};

// The entries of one directory, by plain name (no '/'). Every call may block: use it at start-up or through
// Executor::offload. A File made here belongs to the executor the Directory was opened for.
class Directory {
 public:
  enum class Mode { kReadOnly, kReadWriteLocked };
  virtual ~Directory() = default;
  // A new file of `size` bytes, all zero, its space reserved, durable with its name, opened with the lock.
  // kNoSpace leaves nothing behind.
  virtual Result<std::unique_ptr<File>> create(const std::string& name, uint64_t size) = 0;
  // kReadWriteLocked takes the one writer's lock; kBusy if another process (or another File) holds it.
  virtual Result<std::unique_ptr<File>> open(const std::string& name, Mode mode) = 0;
  virtual Status remove(const std::string& name) = 0;  // durable on return; kNotFound if absent
  virtual Result<std::vector<std::string>> list() = 0;
  virtual Result<uint64_t> size_of(const std::string& name) = 0;
  // Bytes the file system could still take for new files.
  virtual Result<uint64_t> free_bytes() = 0;
};

}  // namespace foreshadow::io
