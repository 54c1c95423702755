#include "io/reaper.h"

namespace foreshadow::io {

void Reaper::destroy(std::shared_ptr<void> held, uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    bytes_ += bytes;
    ++taken_;
  }
  worker_.add([this, bytes, held = std::move(held)]() mutable {
    held.reset();
    const std::lock_guard lock(mutex_);
    bytes_ -= bytes;
    ++gone_;
    changed_.notify_all();
  });
}

uint64_t Reaper::coming_back() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

bool Reaper::wait() {
  std::unique_lock lock(mutex_);
  const uint64_t until = taken_;
  if (gone_ == until) return false;
  changed_.wait(lock, [&] { return gone_ >= until; });
  return true;
}

}  // namespace foreshadow::io
