#pragma once
// For programs that do one thing at a time on a loop: tools, benchmarks, tests.
#include <optional>
#include <utility>

#include "io/loop.h"
#include "io/task.h"

namespace foreshadow::io {

// Runs the loop until the task has ended, and returns what it gave. Nothing else may stop the loop for good.
template <typename T>
T wait_for(Loop& loop, Task<T> task) {
  std::optional<T> out;
  spawn(std::move(task), [&](T value) {
    out.emplace(std::move(value));
    loop.stop();
  });
  while (!out) loop.run();
  return std::move(*out);
}

}  // namespace foreshadow::io
