#pragma once
// What every metadata block has in common: a magic at its start, and a crc32c over the whole with the field
// itself as zero.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace foreshadow::extent {

bool all_zero(std::span<const std::byte> bytes);
// Puts the checksum into the four bytes at `crc_at` and returns it.
uint32_t seal_block(std::span<std::byte> block, size_t crc_at);
uint32_t stored_crc(std::span<const std::byte> block, size_t crc_at);
bool is_sealed(std::span<const std::byte> block, std::string_view magic, size_t crc_at);
// is_sealed with the reason: kCorrupt naming `where` and which of the two does not fit.
Status check_block(std::span<const std::byte> block, std::string_view magic, size_t crc_at,
                   const std::string& where);

}  // namespace foreshadow::extent
