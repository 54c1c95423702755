#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace foreshadow {
void assert_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "foreshadow: assertion failed: %s (%s:%d)\n", expression, file, line);
  std::abort();
}
}  // namespace foreshadow
