#pragma once
// Where a squeezed cluster lies within its container, in 16 bits: the part of a map entry that is zero for a
// raw place.
//
//   bits 0..3   first slot of the blob
//   bits 4..7   slots it takes, 1 to 15
//   bits 8..9   codec
//   bits 10..14 zero
//   bit  15     set, so that a pack is never zero
#include <cstdint>

namespace foreshadow::extent {

// Numbers are on disk.
enum class SqueezeCodec : uint8_t { kLz4 = 1, kZstd = 2 };

inline constexpr uint32_t kSlots = 16;  // of one sub-block each, in a container cluster

struct Pack {
  uint16_t v = 0;

  static constexpr Pack make(uint32_t slot, uint32_t count, SqueezeCodec codec) {
    return Pack{static_cast<uint16_t>(0x8000u | static_cast<uint32_t>(codec) << 8 | count << 4 | slot)};
  }
  constexpr bool is_raw() const { return v == 0; }
  constexpr uint32_t slot() const { return v & 0xfu; }
  constexpr uint32_t count() const { return v >> 4 & 0xfu; }
  constexpr SqueezeCodec codec() const { return static_cast<SqueezeCodec>(v >> 8 & 3u); }
  // Of a place in a container; a raw place is none.
  constexpr bool is_valid() const {
    return (v & 0xfc00u) == 0x8000u && count() > 0 && slot() + count() <= kSlots &&
           (codec() == SqueezeCodec::kLz4 || codec() == SqueezeCodec::kZstd);
  }
  bool operator==(const Pack&) const = default;
};

}  // namespace foreshadow::extent
