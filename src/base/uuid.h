#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/rng.h"

namespace foreshadow {

// 128 random bits that name a volume or a segment for ever (RFC 9562 version 4 layout).
struct Uuid {
  std::array<std::byte, 16> bytes{};
  static Uuid random(Rng& rng);
  static Result<Uuid> parse(std::string_view text);  // 8-4-4-4-12 hexadecimal digits
  std::string str() const;
  bool is_nil() const { return bytes == std::array<std::byte, 16>{}; }
  auto operator<=>(const Uuid&) const = default;
};

}  // namespace foreshadow
