#include "app/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "base/assert.h"

namespace foreshadow::app {

Table::Table(std::vector<std::string> headings) {
  for (std::string& heading : headings) {
    const bool right = heading.starts_with('>');
    right_.push_back(right);
    if (right) heading.erase(0, 1);
  }
  rows_.push_back(std::move(headings));
}

void Table::add(std::vector<std::string> row) {
  ASSERT(row.size() == right_.size());
  rows_.push_back(std::move(row));
}

std::string Table::str() const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += "  ";
      line += right_[i] ? fmt::format("{:>{}}", row[i], widths[i]) : fmt::format("{:<{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string Facts::str() const {
  size_t width = 0;
  for (const auto& [name, value] : facts_) width = std::max(width, name.size());
  std::string out;
  for (const auto& [name, value] : facts_) out += fmt::format("{:<{}}  {}\n", name + ":", width + 1, value);
  return out;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  if (seconds == 0) return "0s";
  if (seconds < 1e-3) return fmt::format("{:.0f}us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.3g}ms", std::min(seconds * 1e3, 999.0));
  if (seconds < 60) return fmt::format("{:.3g}s", std::min(seconds, 59.9));
  constexpr uint64_t kMinute = 60, kHour = 60 * kMinute, kDay = 24 * kHour;
  const auto whole = static_cast<uint64_t>(std::min(seconds, 1e15));
  const auto two = [](uint64_t large, const char* large_unit, uint64_t small, const char* small_unit) {
    if (small == 0) return fmt::format("{}{}", large, large_unit);
    return fmt::format("{}{} {}{}", large, large_unit, small, small_unit);
  };
  if (whole < kHour) return two(whole / kMinute, "min", whole % kMinute, "s");
  if (whole < kDay) return two(whole / kHour, "h", whole % kHour / kMinute, "min");
  return two(whole / kDay, "d", whole % kDay / kHour, "h");
}

std::string format_time_to_full(double seconds) {
  return seconds < 0 || !std::isfinite(seconds) ? "not within a year" : format_duration(seconds);
}

std::string format_time(uint64_t unix_ms) {
  if (unix_ms == 0) return "-";
  const auto seconds = static_cast<time_t>(unix_ms / 1000);
  std::tm parts{};
  if (::localtime_r(&seconds, &parts) == nullptr) return "-";
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts));
}

std::string format_share(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.0f}%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string printable(std::string_view text) {
  std::string out(text);
  std::replace_if(
      out.begin(), out.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return out;
}

}  // namespace foreshadow::app
