#pragma once
// What people read: aligned tables, sizes, durations, times.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace foreshadow::app {

// Columns two spaces apart. A column whose heading begins with '>' is aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  void add(std::vector<std::string> row);  // as many cells as there are headings
  std::string str() const;                 // every line ends in a line break

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;  // the headings first
};

// "name:  value" lines, the values in one column.
class Facts {
 public:
  void add(std::string name, std::string value) { facts_.emplace_back(std::move(name), std::move(value)); }
  std::string str() const;

 private:
  std::vector<std::pair<std::string, std::string>> facts_;
};

// "850us", "12.5ms", "3.2s", "4min 10s", "2h 5min", "3d 4h".
std::string format_duration(double seconds);
// As above; negative is "not within a year".
std::string format_time_to_full(double seconds);
// Local time, "2025-01-31 13:45:10"; "-" for 0.
std::string format_time(uint64_t unix_ms);
// "37%", "-" where the whole is 0.
std::string format_share(uint64_t part, uint64_t whole);
// From a peer, to a terminal: no control characters.
std::string printable(std::string_view text);

}  // namespace foreshadow::app
