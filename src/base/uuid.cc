#include "base/uuid.h"

#include <fmt/format.h>

#include <cstring>

#include "base/names.h"

namespace foreshadow {

Uuid Uuid::random(Rng& rng) {
  Uuid out;
  const uint64_t words[2] = {rng.next(), rng.next()};
  std::memcpy(out.bytes.data(), words, sizeof(words));
  out.bytes[6] = (out.bytes[6] & std::byte{0x0f}) | std::byte{0x40};
  out.bytes[8] = (out.bytes[8] & std::byte{0x3f}) | std::byte{0x80};
  return out;
}

Result<Uuid> Uuid::parse(std::string_view text) {
  Uuid out;
  size_t digit = 0;
  bool good = text.size() == 36;
  for (size_t i = 0; good && i < text.size(); ++i) {
    const char c = text[i];
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      good = c == '-';
      continue;
    }
    int value = -1;
    if (c >= '0' && c <= '9') value = c - '0';
    if (c >= 'a' && c <= 'f') value = c - 'a' + 10;
    good = value >= 0;
    if (good) {
      out.bytes[digit / 2] |= static_cast<std::byte>(digit % 2 == 0 ? value << 4 : value);
      ++digit;
    }
  }
  if (!good) return fail(Code::kInvalidArgument, fmt::format("{} is not a UUID", quoted(text)));
  return out;
}

std::string Uuid::str() const {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += fmt::format("{:02x}", static_cast<unsigned>(bytes[i]));
  }
  return out;
}

}  // namespace foreshadow
