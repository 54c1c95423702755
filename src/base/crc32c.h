#pragma once
// CRC-32C (Castagnoli, RFC 3720 B.4), as every checksum in docs/format.md. isa-l chooses what the processor
// has: 512-bit carry-less multiplication, else three interleaved streams of the crc32 instruction.
#include <cstddef>
#include <cstdint>
#include <span>

namespace foreshadow {
// crc32c of "123456789" is 0xe3069283. `seed` continues an earlier result.
uint32_t crc32c(std::span<const std::byte> data, uint32_t seed = 0);
}  // namespace foreshadow
