#pragma once
#include "base/types.h"

namespace foreshadow::io {

// Asks the scheduler for time slices of that length for the calling thread; zero: of its default length. A
// thread that wakes up with a shorter slice than the one that runs is let in before that one's is over
// (EEVDF, Linux 6.12; before it, this changes nothing). Threads that it starts inherit it.
void set_time_slice(Nanos length);

// The calling thread gives way to others: its niceness becomes larger by `by`, at most the largest there is.
void be_nicer(int by);

}  // namespace foreshadow::io
