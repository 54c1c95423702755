#pragma once
// Sizes as people write them.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace foreshadow {

// "4096", "256MiB", "1TiB", "10G" (units of 1024; B, K, M, G, T with optional "iB"). Decimal fractions are
// allowed where the result is whole ("1.5GiB"). kInvalidArgument names the text.
Result<uint64_t> parse_size(std::string_view text);
// The shortest exact or one-decimal form: 268435456 -> "256MiB", 1610612736 -> "1.5GiB".
std::string format_size(uint64_t bytes);

}  // namespace foreshadow
