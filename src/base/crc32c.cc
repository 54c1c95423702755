#include "base/crc32c.h"

#include <isa-l/crc.h>

namespace foreshadow {
uint32_t crc32c(std::span<const std::byte> data, uint32_t seed) {
  // isa-l works on the raw register: invert on the way in and on the way out. It takes a non-const pointer
  // and does not write through it.
  auto* bytes =
      const_cast<unsigned char*>(static_cast<const unsigned char*>(static_cast<const void*>(data.data())));
  return ~crc32_iscsi(bytes, static_cast<int>(data.size()), ~seed);
}
}  // namespace foreshadow
