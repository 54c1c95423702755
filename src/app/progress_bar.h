#pragma once
// One line on standard error that says how far something is; nothing where it is no terminal.
#include <chrono>
#include <cstdint>
#include <string>

namespace foreshadow::app {

// "[##########----------]  50%  1.2 GiB of 2.4 GiB  310 MiB/s  4s left". Pure. `rate` in bytes a second, 0 if
// it is not known.
std::string progress_line(uint64_t done, uint64_t total, double rate, size_t columns);

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();  // ends the line
  ProgressBar(const ProgressBar&) = delete;
  void show(uint64_t done, uint64_t total);

 private:
  bool terminal_;
  bool shown_ = false;
  // The rate is over what was seen here: what was done before does not count.
  std::chrono::steady_clock::time_point began_{};
  uint64_t first_ = 0;
};

}  // namespace foreshadow::app
