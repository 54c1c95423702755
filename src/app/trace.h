#pragma once
// Recorded block traffic, as CSV: time_us,op,offset,length with op one of R, W, T(rim), Z(ero), F(lush).
#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "base/error.h"

namespace foreshadow::app {

struct TraceOp {
  uint64_t time_us = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint32_t line = 0;
  char kind = 'R';
};

// Empty lines, lines that begin with '#' and a heading are skipped. kInvalidArgument names `file`, the line,
// the text and what was expected; times must not go back.
Result<std::vector<TraceOp>> parse_trace(std::istream& in, const std::string& file);

}  // namespace foreshadow::app
