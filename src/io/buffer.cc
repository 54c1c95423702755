#include "io/buffer.h"

#include <bit>
#include <utility>

namespace foreshadow::io {

size_t BufferPool::class_of(size_t bytes) {
  const size_t blocks = (bytes + kBufferAlignment - 1) / kBufferAlignment;
  return blocks <= 1 ? 0 : static_cast<size_t>(std::bit_width(blocks - 1));
}

Buffer BufferPool::take(size_t bytes) {
  const size_t index = class_of(bytes);
  ASSERT(index < kClasses);
  if (!idle_[index].empty()) {
    Buffer out = std::move(idle_[index].back());
    idle_[index].pop_back();
    idle_bytes_ -= out.size();
    return out;
  }
  return Buffer(kBufferAlignment << index);
}

void BufferPool::give(Buffer buffer) {
  if (buffer.size() == 0 || idle_bytes_ + buffer.size() > keep_bytes_) return;
  const size_t index = class_of(buffer.size());
  // One that was not taken from a pool may be shorter than its class promises, or longer than the last: not
  // kept.
  if (index >= kClasses || buffer.size() != kBufferAlignment << index) return;
  idle_bytes_ += buffer.size();
  idle_[index].push_back(std::move(buffer));
}

}  // namespace foreshadow::io
