#pragma once
// The small text files of an administrator: one thing a line.
#include <cstddef>
#include <string_view>

#include "base/error.h"

namespace foreshadow::nbd {

// Calls `each(line, number)` for every line that is neither empty nor a comment (# comes first), without the
// blanks around it, and stops at the first error.
template <typename Each>
Status for_each_line(std::string_view text, Each each) {
  constexpr std::string_view kBlanks = " \t\r";
  for (size_t number = 1; !text.empty(); number++) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const size_t first = line.find_first_not_of(kBlanks);
    if (first == std::string_view::npos || line[first] == '#') continue;
    line = line.substr(first, line.find_last_not_of(kBlanks) + 1 - first);
    TRY(each(line, number));
  }
  return {};
}

}  // namespace foreshadow::nbd
