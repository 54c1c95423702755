#pragma once
// Armed timers of one executor, earliest first.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "io/executor.h"

namespace foreshadow::io {

// A binary heap ordered by (deadline, sequence): equal deadlines fire in the order they were armed. Each
// timer carries its place in the heap (in the scratch of its op), so that moving and cancelling cost O(log
// n). Memory grows to the largest number of timers armed at once and is then reused. Does not own the timers.
class TimerHeap {
 public:
  // Arms `timer`, or moves it if it is armed; either way it goes behind others of the same deadline.
  void arm(Timer& timer, MonoTime deadline);
  void cancel(Timer& timer);
  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  MonoTime next_deadline() const { return heap_.front().deadline; }
  // Takes out the first timer if it is due at `now` and was armed before sequence number `before`; null if
  // none is.
  Timer* take_due(MonoTime now, uint64_t before);
  // The sequence number the next arm() will use.
  uint64_t next_sequence() const { return next_sequence_; }

 private:
  // The key is copied here, so that sifting does not chase pointers.
  struct Entry {
    MonoTime deadline;
    uint64_t sequence;
    Timer* timer;
    bool operator<(const Entry& other) const {
      return deadline != other.deadline ? deadline < other.deadline : sequence < other.sequence;
    }
  };
  void place(size_t index, const Entry& entry);
  void sift_up(size_t index, const Entry& entry);
  void sift_down(size_t index, const Entry& entry);
  void remove_at(size_t index);

  std::vector<Entry> heap_;
  uint64_t next_sequence_ = 1;
};

}  // namespace foreshadow::io
