#include "base/rng.h"

#include <sys/random.h>

#include "base/assert.h"

namespace foreshadow {
uint64_t SystemRng::next() {
  uint64_t out = 0;
  ASSERT(getrandom(&out, sizeof(out), 0) == sizeof(out));
  return out;
}
}  // namespace foreshadow
