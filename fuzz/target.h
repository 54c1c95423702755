#pragma once
// What fuzz targets share: their input taken apart, and their word for a property that does not hold.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

namespace foreshadow::fuzz {

// Ends the program, which is how a fuzzer is told. Unlike an assert it stays in every build.
inline void expect(bool holds, const char* property) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", property);
  std::abort();
}

// The input from its front on. Past the end every number is 0, so that a prefix of an input is one too.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(std::as_bytes(std::span(data, size))) {}
  bool empty() const { return left_.empty(); }
  uint8_t u8() {
    if (left_.empty()) return 0;
    const auto out = static_cast<uint8_t>(left_.front());
    left_ = left_.subspan(1);
    return out;
  }
  uint16_t u16() {
    const uint16_t low = u8();
    return static_cast<uint16_t>(low | u8() << 8);
  }
  uint32_t u32() {
    const uint32_t low = u16();
    return low | static_cast<uint32_t>(u16()) << 16;
  }
  uint64_t u64() {
    const uint64_t low = u32();
    return low | static_cast<uint64_t>(u32()) << 32;
  }
  std::span<const std::byte> bytes(size_t most) {
    const auto out = left_.first(std::min(most, left_.size()));
    left_ = left_.subspan(out.size());
    return out;
  }
  std::span<const std::byte> rest() { return bytes(left_.size()); }
  std::string text(size_t most) {
    const auto raw = bytes(most);
    std::string out(raw.size(), '\0');
    std::transform(raw.begin(), raw.end(), out.begin(), [](std::byte b) { return static_cast<char>(b); });
    return out;
  }

 private:
  std::span<const std::byte> left_;
};

}  // namespace foreshadow::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
