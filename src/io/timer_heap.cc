#include "io/timer_heap.h"

#include "base/assert.h"

namespace foreshadow::io {

void TimerHeap::arm(Timer& timer, MonoTime deadline) {
  ASSERT(timer.op.done != nullptr);
  if (timer.armed()) remove_at(timer.op.offset);
  timer.deadline = deadline;
  timer.sequence = next_sequence_++;
  const Entry entry{deadline, timer.sequence, &timer};
  heap_.push_back(entry);
  sift_up(heap_.size() - 1, entry);
}

void TimerHeap::cancel(Timer& timer) {
  if (!timer.armed()) return;
  remove_at(timer.op.offset);
  timer.sequence = 0;
}

Timer* TimerHeap::take_due(MonoTime now, uint64_t before) {
  if (heap_.empty()) return nullptr;
  const Entry first = heap_.front();
  if (first.deadline > now || first.sequence >= before) return nullptr;
  remove_at(0);
  first.timer->sequence = 0;
  return first.timer;
}

void TimerHeap::place(size_t index, const Entry& entry) {
  heap_[index] = entry;
  entry.timer->op.offset = index;
}

void TimerHeap::sift_up(size_t index, const Entry& entry) {
  while (index > 0) {
    const size_t parent = (index - 1) / 2;
    if (!(entry < heap_[parent])) break;
    place(index, heap_[parent]);
    index = parent;
  }
  place(index, entry);
}

void TimerHeap::sift_down(size_t index, const Entry& entry) {
  for (;;) {
    size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1] < heap_[child]) ++child;
    if (!(heap_[child] < entry)) break;
    place(index, heap_[child]);
    index = child;
  }
  place(index, entry);
}

void TimerHeap::remove_at(size_t index) {
  ASSERT(index < heap_.size());
  const Entry last = heap_.back();
  heap_.pop_back();
  if (index == heap_.size()) return;
  // The last entry fills the gap. It may belong above it or below, since it comes from another branch.
  if (index > 0 && last < heap_[(index - 1) / 2]) {
    sift_up(index, last);
  } else {
    sift_down(index, last);
  }
}

}  // namespace foreshadow::io
