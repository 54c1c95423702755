#pragma once
// Memory that every File accepts.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "base/assert.h"

namespace foreshadow::io {

inline constexpr size_t kBufferAlignment = 4096;

// An owned block of 4 KiB-aligned memory; its size is rounded up to 4 KiB. Not zeroed.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes)
      : size_((bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment),
        data_(static_cast<std::byte*>(::operator new(size_, std::align_val_t(kBufferAlignment)))) {}
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> span() const { return {data_.get(), size_}; }
  std::span<std::byte> first(size_t n) const { return span().first(n); }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t(kBufferAlignment)); }
  };
  size_t size_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

// Recycles buffers of a few size classes (4 KiB times a power of two, to 128 MiB), so that the hot path does
// not allocate. Single-threaded. Keeps at most `keep_bytes` idle.
class BufferPool {
 public:
  explicit BufferPool(size_t keep_bytes) : keep_bytes_(keep_bytes) {}
  // At least `bytes` long.
  Buffer take(size_t bytes);
  void give(Buffer buffer);

 private:
  static constexpr size_t kClasses = 16;
  static size_t class_of(size_t bytes);
  std::vector<Buffer> idle_[kClasses];
  size_t idle_bytes_ = 0;
  size_t keep_bytes_;
};

}  // namespace foreshadow::io
