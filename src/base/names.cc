#include "base/names.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"

namespace foreshadow {

Result<Name> Name::parse(std::string_view text, std::string_view what) {
  const auto lower_or_digit = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const bool good =
      !text.empty() && text.size() <= limits::kNameLength && lower_or_digit(text.front()) &&
      std::all_of(text.begin(), text.end(), [&](char c) { return lower_or_digit(c) || c == '-'; });
  if (!good) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("{} {} is not valid: 1 to {} characters of a-z, 0-9 and '-', not starting with '-'", what,
                    quoted(text), limits::kNameLength));
  }
  return Name(std::string(text));
}

std::string quoted(std::string_view untrusted) {
  constexpr size_t kShown = 64;
  std::string out = "\"";
  for (const char c : untrusted.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f || c == '"' || c == '\\') {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  out += untrusted.size() > kShown ? "\"..." : "\"";
  return out;
}

}  // namespace foreshadow
