#include "nbd/psk.h"

#include <fmt/format.h>

#include <optional>

#include "base/limits.h"
#include "base/names.h"
#include "nbd/lines.h"

namespace foreshadow::nbd {
namespace {

std::optional<int> digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

std::optional<std::vector<std::byte>> from_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::vector<std::byte> out;
  out.reserve(text.size() / 2);
  for (size_t i = 0; i < text.size(); i += 2) {
    const auto high = digit(text[i]);
    const auto low = digit(text[i + 1]);
    if (!high || !low) return std::nullopt;
    out.push_back(static_cast<std::byte>(*high * 16 + *low));
  }
  return out;
}

}  // namespace

Result<PskKeys> parse_psk(std::string_view text) {
  PskKeys out;
  TRY(for_each_line(text, [&](std::string_view line, size_t number) -> Status {
    const size_t colon = line.find(':');
    const std::string_view user = line.substr(0, colon);
    // Neither side is shown in these errors: people put a key where the user belongs.
    if (colon == std::string_view::npos || user.empty() || user.size() > limits::kNbdPskUserBytes ||
        user.find_first_of(" \t") != std::string_view::npos) {
      return fail(Code::kInvalidArgument,
                  fmt::format("line {}: expected USER:HEX, the user of 1 to {} bytes without blanks", number,
                              limits::kNbdPskUserBytes));
    }
    auto key = from_hex(line.substr(colon + 1));
    if (!key || key->size() < limits::kNbdPskKeyBytesMin || key->size() > limits::kNbdPskKeyBytesMax) {
      return fail(Code::kInvalidArgument,
                  fmt::format("line {}: the key behind the colon: expected {} to {} bytes in hexadecimal",
                              number, limits::kNbdPskKeyBytesMin, limits::kNbdPskKeyBytesMax));
    }
    if (out.size() == limits::kNbdPskUsers) {
      return fail(Code::kLimit, fmt::format("line {}: more than {} users", number, limits::kNbdPskUsers));
    }
    if (!out.emplace(user, std::move(*key)).second) {
      return fail(Code::kInvalidArgument, fmt::format("line {}: {} has a key already", number, quoted(user)));
    }
    return {};
  }));
  return out;
}

}  // namespace foreshadow::nbd
