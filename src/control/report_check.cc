#include "control/report_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/limits.h"
#include "base/names.h"
#include "base/types.h"
#include "base/uuid.h"
#include "control/control_limits.h"

namespace foreshadow::control {
namespace {

namespace base_limits = foreshadow::limits;

constexpr uint64_t kClusterBytes = 64 * kKiB;
// Clusters can be taken before those they replace are freed, at most one commit batch of them.
constexpr uint64_t kUnfreedBytes = base_limits::kBatchRecords * kClusterBytes;
constexpr uint64_t kCapacityMax = base_limits::kSegments * base_limits::kSegmentSizeMax;
constexpr int kHistogramBuckets = 64;

tl::unexpected<Error> nonsense(std::string message) {
  return fail(Code::kInvalidArgument, std::move(message));
}

Status check_words(std::string_view value, std::string_view what, bool may_be_empty) {
  const bool printable = std::all_of(value.begin(), value.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (printable && value.size() <= limits::kIdLength && (may_be_empty || !value.empty())) return {};
  return nonsense(fmt::format("{} {}: expected {} to {} printable characters without spaces", what,
                              quoted(value), may_be_empty ? 0 : 1, limits::kIdLength));
}

Status check_space(uint64_t used, uint64_t capacity, uint64_t size) {
  if (capacity == 0) return nonsense("capacity 0: a volume with segments has some");
  if (capacity > kCapacityMax)
    return nonsense(fmt::format("capacity {}: at most {}", capacity, kCapacityMax));
  if (used > capacity) return nonsense(fmt::format("used {} is more than the capacity {}", used, capacity));
  // With `redirect all` a cluster may lie in two places, a part of it in each.
  if (used > 2 * size + kUnfreedBytes + kClusterBytes) {
    return nonsense(fmt::format("used {} is beyond the volume's size {}", used, size));
  }
  return {};
}

Status check_job(const v1::Job& job) {
  TRY(Uuid::parse(job.segment_uuid()));
  if (v1::JobKind_IsValid(job.kind())) return {};
  return nonsense(fmt::format("job of kind {}: expected one that is known", static_cast<int>(job.kind())));
}

}  // namespace

namespace {

// Written so that a NaN is refused too.
Status check_squeezed(const v1::Squeezed& squeezed) {
  for (const double ratio :
       {squeezed.ratio_mean(), squeezed.ratio_stddev(), squeezed.ratio_p10(), squeezed.ratio_p90()}) {
    if (!(ratio >= 0 && ratio <= 1))
      return nonsense(fmt::format("squeezed ratio {}: expected 0 to 1", ratio));
  }
  if (squeezed.logical() > kCapacityMax || squeezed.physical() > squeezed.logical()) {
    return nonsense(fmt::format("squeezed {} bytes into {}", squeezed.logical(), squeezed.physical()));
  }
  return {};
}

}  // namespace

Status check_volume_report(const v1::Volume& volume) {
  TRY(Uuid::parse(volume.id()));
  TRY(Name::parse(volume.name(), "volume name"));
  if (volume.size() < base_limits::kVolumeSizeMin || volume.size() > base_limits::kVolumeSizeMax) {
    return nonsense(fmt::format("size {}: expected {} to {}", volume.size(), base_limits::kVolumeSizeMin,
                                base_limits::kVolumeSizeMax));
  }
  TRY(check_space(volume.used(), volume.capacity(), volume.size()));
  TRY(check_squeezed(volume.squeezed()));
  if (!v1::SqueezeMode_IsValid(volume.squeeze())) {
    return nonsense(fmt::format("squeeze mode {}", static_cast<int>(volume.squeeze())));
  }
  const auto count = static_cast<size_t>(volume.segments_size());
  if (count == 0 || count > base_limits::kSegments) {
    return nonsense(fmt::format("{} segments: expected 1 to {}", count, base_limits::kSegments));
  }
  if (volume.has_job()) TRY(check_job(volume.job()));
  if (!v1::MergeMode_IsValid(volume.policy().merge())) {
    return nonsense(
        fmt::format("merge mode {}: expected adopt or fold", static_cast<int>(volume.policy().merge())));
  }
  std::set<uint32_t> ids;
  std::set<std::string> uuids;
  for (const v1::Segment& segment : volume.segments()) {
    TRY(Uuid::parse(segment.uuid()));
    if (!ids.insert(segment.id()).second || !uuids.insert(segment.uuid()).second) {
      return nonsense(fmt::format("segment {} ({}) is listed twice", segment.id(), segment.uuid()));
    }
    if (segment.used() > segment.capacity() || segment.capacity() > base_limits::kSegmentSizeMax) {
      return nonsense(fmt::format("segment {}: used {} of capacity {}", segment.id(), segment.used(),
                                  segment.capacity()));
    }
    if (!v1::SegmentState_IsValid(segment.state()) || segment.state() < v1::SEGMENT_STATE_WARM) {
      return nonsense(fmt::format("segment {}: state {}: expected one that an attached segment has",
                                  segment.id(), static_cast<int>(segment.state())));
    }
  }
  return {};
}

Status check_pool_report(const v1::Pool& pool) {
  TRY(Name::parse(pool.name(), "pool name"));
  for (const uint64_t bytes : {pool.capacity(), pool.used(), pool.configured_capacity()}) {
    // A shrinking file system may leave capacity below used; numbers past 2^62 are an underflow somewhere.
    if (bytes >= 1ull << 62) return nonsense(fmt::format("pool {}: {} bytes", pool.name(), bytes));
  }
  if (pool.directory().size() > limits::kDirectoryLength) {
    return nonsense(fmt::format("pool {}: directory of {} bytes: at most {}", pool.name(),
                                pool.directory().size(), limits::kDirectoryLength));
  }
  return {};
}

Status check_hello(const v1::Hello& hello) {
  TRY(check_words(hello.agent_id(), "agent id", false));
  TRY(check_words(hello.host(), "host", true));
  TRY(check_words(hello.version(), "version", true));
  const auto volumes = static_cast<size_t>(hello.volumes_size());
  if (volumes > base_limits::kVolumes) {
    return fail(Code::kLimit, fmt::format("agent {} serves {} volumes: at most {}", hello.agent_id(), volumes,
                                          base_limits::kVolumes));
  }
  const auto pools = static_cast<size_t>(hello.pools_size());
  if (pools > base_limits::kPools) {
    return fail(Code::kLimit, fmt::format("agent {} has {} pools: at most {}", hello.agent_id(), pools,
                                          base_limits::kPools));
  }
  return {};
}

std::string printable(std::string_view words) {
  constexpr size_t kShown = 400;
  std::string out(words.substr(0, kShown));
  std::replace_if(out.begin(), out.end(), [](char c) { return c < 0x20 || c >= 0x7f; }, '?');
  return out;
}

Status check_metrics(const v1::VolumeMetrics& metrics, uint64_t volume_size) {
  TRY(check_space(metrics.used(), metrics.capacity(), volume_size));
  TRY(check_squeezed(metrics.squeezed()));
  if (metrics.leaving() > metrics.capacity()) {
    return nonsense(
        fmt::format("leaving {} is more than the capacity {}", metrics.leaving(), metrics.capacity()));
  }
  if (metrics.has_job()) TRY(check_job(metrics.job()));
  // In one interval no more can be touched first than the volume holds and what was freed meanwhile.
  const uint64_t touchable = volume_size + kUnfreedBytes + kClusterBytes;
  const uint64_t freed = std::min(metrics.freed_bytes(), kCapacityMax);
  if (metrics.allocated_bytes() > touchable + freed) {
    return nonsense(fmt::format("allocated_bytes {} in one interval is beyond the volume's size {}",
                                metrics.allocated_bytes(), volume_size));
  }
  // Written so that a NaN is refused too.
  if (!(metrics.sequential_share() >= 0 && metrics.sequential_share() <= 1)) {
    return nonsense(fmt::format("sequential_share {}: expected 0 to 1", metrics.sequential_share()));
  }
  for (const int buckets : {metrics.block_size_histogram_size(), metrics.read_latency_us_histogram_size(),
                            metrics.write_latency_us_histogram_size()}) {
    if (buckets > kHistogramBuckets) {
      return nonsense(fmt::format("histogram of {} buckets: at most {}", buckets, kHistogramBuckets));
    }
  }
  return {};
}

}  // namespace foreshadow::control
