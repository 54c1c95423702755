#pragma once
// Strong types for the numbers that must not be mixed up, and the few times used everywhere.
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>

namespace foreshadow {

// An integer with a name. Explicit in, explicit out (`.v`); ordered and hashable; no arithmetic across tags.
template <typename Tag, typename Rep>
struct Strong {
  using rep = Rep;
  Rep v{};
  constexpr Strong() = default;
  constexpr explicit Strong(Rep value) : v(value) {}
  constexpr auto operator<=>(const Strong&) const = default;
  constexpr Strong next(Rep by = 1) const { return Strong(static_cast<Rep>(v + by)); }
};

using Lcn = Strong<struct LcnTag, uint32_t>;              // logical cluster number within a volume
using Pcn = Strong<struct PcnTag, uint32_t>;              // physical cluster number, global in a volume
using SegmentId = Strong<struct SegmentIdTag, uint32_t>;  // 0 is the primary
using Epoch = Strong<struct EpochTag, uint64_t>;          // one per attach of a volume
using BlockSeq = Strong<struct BlockSeqTag, uint64_t>;    // journal block sequence number, from 1
using CkptSeq = Strong<struct CkptSeqTag, uint64_t>;      // checkpoint sequence number, from 1

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr uint64_t kTiB = 1024 * kGiB;

using Nanos = std::chrono::nanoseconds;
// Monotonic time since an arbitrary origin; comes only from an Executor.
using MonoTime = std::chrono::time_point<std::chrono::steady_clock, Nanos>;

constexpr uint64_t div_up(uint64_t a, uint64_t b) {
  return (a + b - 1) / b;
}
constexpr uint64_t align_down(uint64_t a, uint64_t unit) {
  return a / unit * unit;
}
constexpr uint64_t align_up(uint64_t a, uint64_t unit) {
  return div_up(a, unit) * unit;
}

}  // namespace foreshadow

template <typename Tag, typename Rep>
struct std::hash<foreshadow::Strong<Tag, Rep>> {
  size_t operator()(const foreshadow::Strong<Tag, Rep>& x) const noexcept { return std::hash<Rep>()(x.v); }
};
