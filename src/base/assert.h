#pragma once
// ASSERT: for what only we can break. On in every build, also release; input never reaches one.

namespace foreshadow {
[[noreturn]] void assert_failed(const char* expression, const char* file, int line);
}

#define ASSERT(expression)                                          \
  do {                                                              \
    if (!(expression)) [[unlikely]]                                 \
      ::foreshadow::assert_failed(#expression, __FILE__, __LINE__); \
  } while (false)
