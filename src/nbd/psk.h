#pragma once
// Pre-shared keys of TLS, as administrators keep them.
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace foreshadow::nbd {

using PskKeys = std::map<std::string, std::vector<std::byte>, std::less<>>;

// One key a line, USER:HEX, as psktool writes them: a user without blanks or colons of at most
// limits::kNbdPskUserBytes, a key of kNbdPskKeyBytesMin to kNbdPskKeyBytesMax bytes, at most
// limits::kNbdPskUsers lines (kLimit). An error names the line and never quotes a key.
Result<PskKeys> parse_psk(std::string_view text);

}  // namespace foreshadow::nbd
