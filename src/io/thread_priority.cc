#include "io/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace foreshadow::io {
namespace {

// struct sched_attr of linux/sched/types.h, as it was first (SCHED_ATTR_SIZE_VER0). That header defines
// sched_param, and so does the C library, which has neither this nor the two calls in its version 2.36.
struct SchedAttr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;  // ns
  uint64_t deadline;
  uint64_t period;
};
static_assert(sizeof(SchedAttr) == 48);

}  // namespace

void set_time_slice(Nanos length) {
  SchedAttr attr{};
  // A hint: where it is refused nothing is lost.
  if (::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0 || attr.policy != SCHED_OTHER) return;
  attr.runtime = static_cast<uint64_t>(length.count());
  (void)::syscall(SYS_sched_setattr, 0, &attr, 0);
}

void be_nicer(int by) {
  const auto self = static_cast<id_t>(::gettid());
  errno = 0;
  const int now = ::getpriority(PRIO_PROCESS, self);  // of a thread, on Linux
  if (errno == 0) (void)::setpriority(PRIO_PROCESS, self, now + by);
}

}  // namespace foreshadow::io
