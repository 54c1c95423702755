#pragma once
#include <atomic>
#include <cstddef>

namespace foreshadow::control {

// One of a limited number of places, counted in for the lifetime of the object. Thread-safe.
class Seat {
 public:
  Seat(std::atomic<size_t>& taken, size_t limit) : taken_(taken), granted_(taken.fetch_add(1) < limit) {}
  ~Seat() { taken_.fetch_sub(1); }
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;
  bool granted() const { return granted_; }

 private:
  std::atomic<size_t>& taken_;
  bool granted_;
};

}  // namespace foreshadow::control
