#include "base/size.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "base/names.h"
#include "base/types.h"

namespace foreshadow {
namespace {

constexpr std::array<std::pair<char, uint64_t>, 5> kUnits = {
    {{'T', kTiB}, {'G', kGiB}, {'M', kMiB}, {'K', kKiB}, {'B', 1}}};

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  const auto bad = [&] {
    return fail(
        Code::kInvalidArgument,
        fmt::format(
            "size {} is not valid: expected a number with an optional unit, such as 4096, 256MiB or 1TiB",
            quoted(text)));
  };
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string_view number = text.substr(0, digits);
  std::string_view unit = digits == std::string_view::npos ? std::string_view() : text.substr(digits);
  uint64_t scale = 1;
  if (!unit.empty()) {
    const char letter = unit.front() >= 'a' ? static_cast<char>(unit.front() - 32) : unit.front();
    bool known = false;
    for (const auto& [name, value] : kUnits) {
      if (letter == name) known = true, scale = value;
    }
    const std::string_view rest = unit.substr(1);
    if (!known || !(rest.empty() || (scale > 1 && (rest == "iB" || rest == "B" || rest == "ib"))))
      return bad();
  }
  if (number.empty() || number.front() == '.' || number.back() == '.') return bad();
  if (number.find('.') == std::string_view::npos) {
    uint64_t value = 0;
    const auto [end, ec] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (ec != std::errc() || end != number.data() + number.size()) return bad();
    if (value != 0 && scale > UINT64_MAX / value) return bad();
    return value * scale;
  }
  double value = 0;
  const auto [end, ec] = std::from_chars(number.data(), number.data() + number.size(), value);
  const double bytes = value * static_cast<double>(scale);
  if (ec != std::errc() || end != number.data() + number.size()) return bad();
  if (bytes >= 0x1p53 || bytes != std::floor(bytes)) return bad();
  return static_cast<uint64_t>(bytes);
}

std::string format_size(uint64_t bytes) {
  for (const auto& [letter, scale] : kUnits) {
    if (scale == 1) break;
    if (bytes < scale) continue;
    if (bytes % scale == 0) return fmt::format("{}{}iB", bytes / scale, letter);
    return fmt::format("{:.1f}{}iB", static_cast<double>(bytes) / static_cast<double>(scale), letter);
  }
  return fmt::format("{}B", bytes);
}

}  // namespace foreshadow
