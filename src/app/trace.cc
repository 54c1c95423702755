#include "app/trace.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <string_view>

#include "base/names.h"

namespace foreshadow::app {
namespace {

constexpr std::string_view kHeading = "time_us,op,offset,length";
constexpr uint64_t kLengthMax = 1ull << 47;

bool number(std::string_view text, uint64_t* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

// The four fields of a line; false unless there are exactly four.
bool split(std::string_view line, std::array<std::string_view, 4>* fields) {
  for (size_t i = 0; i < fields->size(); ++i) {
    const size_t comma = line.find(',');
    if ((comma == std::string_view::npos) != (i + 1 == fields->size())) return false;
    (*fields)[i] = line.substr(0, comma);
    if (comma != std::string_view::npos) line.remove_prefix(comma + 1);
  }
  return true;
}

bool parse_op(std::string_view line, TraceOp* op) {
  std::array<std::string_view, 4> fields;
  if (!split(line, &fields) || fields[1].size() != 1) return false;
  op->kind = fields[1].front();
  if (std::string_view("RWTZF").find(op->kind) == std::string_view::npos) return false;
  if (!number(fields[0], &op->time_us) || !number(fields[2], &op->offset) ||
      !number(fields[3], &op->length)) {
    return false;
  }
  return op->length <= kLengthMax && op->offset <= kLengthMax && (op->kind == 'F' || op->length > 0);
}

}  // namespace

Result<std::vector<TraceOp>> parse_trace(std::istream& in, const std::string& file) {
  std::vector<TraceOp> out;
  std::string line;
  for (uint32_t number_of_line = 1; std::getline(in, line); ++number_of_line) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.front() == '#' || line == kHeading) continue;
    TraceOp op;
    op.line = number_of_line;
    if (!parse_op(line, &op)) {
      return fail(Code::kInvalidArgument,
                  fmt::format("{}:{}: {}: expected {} with op one of R W T Z F, such as 1000,W,65536,4096",
                              file, number_of_line, foreshadow::quoted(line), kHeading));
    }
    if (!out.empty() && op.time_us < out.back().time_us) {
      return fail(Code::kInvalidArgument,
                  fmt::format("{}:{}: time {} is before that of line {}, {}", file, number_of_line,
                              op.time_us, out.back().line, out.back().time_us));
    }
    out.push_back(op);
  }
  if (in.bad()) return fail(Code::kIo, fmt::format("{}: cannot be read", file));
  if (out.empty()) return fail(Code::kInvalidArgument, fmt::format("{}: there is no operation in it", file));
  return out;
}

}  // namespace foreshadow::app
