#include "extent/sealed_block.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "base/codec.h"
#include "base/crc32c.h"

namespace foreshadow::extent {
namespace {

uint32_t compute_crc(std::span<const std::byte> block, size_t crc_at) {
  constexpr std::array<std::byte, 4> kZero{};
  uint32_t crc = crc32c(block.first(crc_at));
  crc = crc32c(kZero, crc);
  return crc32c(block.subspan(crc_at + kZero.size()), crc);
}

}  // namespace

bool all_zero(std::span<const std::byte> bytes) {
  // A buffer is zero when its first byte is and it equals itself shifted by one; memcmp does that at memory
  // speed.
  if (bytes.empty()) return true;
  if (bytes[0] != std::byte{0}) return false;
  return std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

uint32_t seal_block(std::span<std::byte> block, size_t crc_at) {
  const uint32_t crc = compute_crc(block, crc_at);
  DiskWriter(block.subspan(crc_at)).u32(crc);
  return crc;
}

uint32_t stored_crc(std::span<const std::byte> block, size_t crc_at) {
  return DiskReader(block.subspan(crc_at)).u32();
}

bool is_sealed(std::span<const std::byte> block, std::string_view magic, size_t crc_at) {
  return std::memcmp(block.data(), magic.data(), magic.size()) == 0 &&
         stored_crc(block, crc_at) == compute_crc(block, crc_at);
}

Status check_block(std::span<const std::byte> block, std::string_view magic, size_t crc_at,
                   const std::string& where) {
  if (std::memcmp(block.data(), magic.data(), magic.size()) != 0) {
    return fail(Code::kCorrupt, fmt::format("{}: does not start with {}", where, magic));
  }
  const uint32_t computed = compute_crc(block, crc_at);
  if (const uint32_t stored = stored_crc(block, crc_at); stored != computed) {
    return fail(Code::kCorrupt, fmt::format("{}: checksum {:08x}, expected {:08x}", where, stored, computed));
  }
  return {};
}

}  // namespace foreshadow::extent
