#pragma once
// The one codec for bytes on a disk (little endian) or an NBD wire (big endian). A Reader never reads past
// its span: after an overrun every further read gives zero and ok() is false, so a decoder checks once, at
// the end.
#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/assert.h"

namespace foreshadow {

enum class Endian : uint8_t { kLittle, kBig };

template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 1)
    return value;
  else if constexpr (sizeof(T) == 2)
    return __builtin_bswap16(value);
  else if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(value);
  else
    return __builtin_bswap64(value);
}

template <Endian kOrder, std::unsigned_integral T>
inline constexpr bool kIsSwapped = sizeof(T) > 1 && (std::endian::native == std::endian::little) !=
                                                        (kOrder == Endian::kLittle);

template <Endian kOrder, std::unsigned_integral T>
constexpr T to_order(T value) {
  return kIsSwapped<kOrder, T> ? byte_swap(value) : value;
}

template <Endian kOrder>
class BasicReader {
 public:
  explicit BasicReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <std::unsigned_integral T>
  T get() {
    T value{};
    if (bytes_.size() < sizeof(T)) {
      ok_ = false;
      bytes_ = {};
      return T{};
    }
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return to_order<kOrder>(value);
  }
  // As many as `out` has; zeros after an overrun.
  template <std::unsigned_integral T>
  void get_all(std::span<T> out) {
    const auto raw = bytes(out.size_bytes());
    if (raw.empty()) return std::fill(out.begin(), out.end(), T{});
    std::memcpy(out.data(), raw.data(), raw.size());
    if constexpr (kIsSwapped<kOrder, T>) std::transform(out.begin(), out.end(), out.begin(), byte_swap<T>);
  }
  uint8_t u8() { return get<uint8_t>(); }
  uint16_t u16() { return get<uint16_t>(); }
  uint32_t u32() { return get<uint32_t>(); }
  uint64_t u64() { return get<uint64_t>(); }
  std::span<const std::byte> bytes(size_t n) {
    if (bytes_.size() < n) {
      ok_ = false;
      bytes_ = {};
      return {};
    }
    auto out = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return out;
  }
  std::string text(size_t n) {
    auto raw = bytes(n);
    std::string out(raw.size(), '\0');
    if (!raw.empty()) std::memcpy(out.data(), raw.data(), raw.size());
    return out;
  }
  void skip(size_t n) { (void)bytes(n); }
  size_t left() const { return bytes_.size(); }
  bool ok() const { return ok_; }

 private:
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

// Writes into a span it does not own. Overrunning it is a defect of ours: asserted.
template <Endian kOrder>
class BasicWriter {
 public:
  explicit BasicWriter(std::span<std::byte> out) : out_(out) {}
  template <std::unsigned_integral T>
  void put(T value) {
    ASSERT(out_.size() - used_ >= sizeof(T));
    const T ordered = to_order<kOrder>(value);
    std::memcpy(out_.data() + used_, &ordered, sizeof(T));
    used_ += sizeof(T);
  }
  template <std::unsigned_integral T>
  void put_all(std::span<const T> values) {
    if constexpr (kIsSwapped<kOrder, T>) {
      for (const T value : values) put(value);
    } else {
      bytes(std::as_bytes(values));
    }
  }
  void u8(uint8_t v) { put(v); }
  void u16(uint16_t v) { put(v); }
  void u32(uint32_t v) { put(v); }
  void u64(uint64_t v) { put(v); }
  void bytes(std::span<const std::byte> data) {
    ASSERT(out_.size() - used_ >= data.size());
    if (!data.empty()) std::memcpy(out_.data() + used_, data.data(), data.size());
    used_ += data.size();
  }
  void text(std::string_view s) { bytes(std::as_bytes(std::span(s.data(), s.size()))); }
  void zeros(size_t n) {
    ASSERT(out_.size() - used_ >= n);
    if (n > 0) std::memset(out_.data() + used_, 0, n);
    used_ += n;
  }
  size_t used() const { return used_; }

 private:
  std::span<std::byte> out_;
  size_t used_ = 0;
};

using DiskReader = BasicReader<Endian::kLittle>;
using DiskWriter = BasicWriter<Endian::kLittle>;
using WireReader = BasicReader<Endian::kBig>;
using WireWriter = BasicWriter<Endian::kBig>;

}  // namespace foreshadow
