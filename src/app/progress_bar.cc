#include "app/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "app/output.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

constexpr size_t kColumns = 80;

size_t columns_of_terminal() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumns;
  return size.ws_col;
}

}  // namespace

std::string progress_line(uint64_t done, uint64_t total, double rate, size_t columns) {
  done = std::min(done, total);
  const double share = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  std::string text = fmt::format(" {:3.0f}%  {} of {}", share * 100, format_size(done), format_size(total));
  if (rate >= 1) {
    text += fmt::format("  {}/s  {} left", format_size(static_cast<uint64_t>(rate)),
                        format_duration(static_cast<double>(total - done) / rate));
  }
  constexpr size_t kBarMin = 10;
  constexpr size_t kBarMax = 40;
  if (columns < text.size() + kBarMin + 3) return text.substr(1, columns);
  const size_t width = std::min(kBarMax, columns - text.size() - 3);
  const auto full = static_cast<size_t>(share * static_cast<double>(width));
  return "[" + std::string(full, '#') + std::string(width - full, '-') + "]" + text;
}

ProgressBar::ProgressBar() : terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (shown_) std::fputc('\n', stderr);
}

void ProgressBar::show(uint64_t done, uint64_t total) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (!shown_) {
    began_ = now;
    first_ = done;
    shown_ = true;
  }
  const double seconds = std::chrono::duration<double>(now - began_).count();
  const double rate = seconds > 0.5 && done > first_ ? static_cast<double>(done - first_) / seconds : 0;
  fmt::print(stderr, "\r\033[K{}", progress_line(done, total, rate, columns_of_terminal() - 1));
  std::fflush(stderr);
}

}  // namespace foreshadow::app
