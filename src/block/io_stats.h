#pragma once
// Counters of a device's I/O, kept on the I/O path: plain integers of one thread, no locks, no allocation.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace foreshadow::block {

// Bucket i counts values in [2^i, 2^(i+1)); bucket 0 also takes 0; the last takes everything larger.
struct Log2Histogram {
  std::array<uint64_t, 32> buckets{};
  void add(uint64_t value) {
    const size_t index = value <= 1 ? 0 : static_cast<size_t>(std::bit_width(value) - 1);
    ++buckets[std::min(index, buckets.size() - 1)];
  }
};

// All monotone since the device was opened, but queue_depth, held_now and paced_now.
struct IoStats {
  uint64_t read_ops = 0;
  uint64_t read_bytes = 0;
  uint64_t write_ops = 0;
  uint64_t write_bytes = 0;
  uint64_t trim_ops = 0;  // trims and zero requests
  uint64_t flushes = 0;
  uint64_t sequential_ops = 0;   // reads and writes that began where the one before ended
  uint64_t allocated_bytes = 0;  // first touches, in clusters
  uint64_t freed_bytes = 0;
  uint64_t failed_writes = 0;
  uint64_t damaged_reads = 0;  // what was stored did not pass its check
  uint64_t holds = 0;          // writes that waited at the wall
  uint64_t held_now = 0;
  uint64_t hold_us_max = 0;
  uint64_t paced = 0;  // first touches delayed in the backpressure band
  uint64_t paced_now = 0;
  uint64_t pace_us_total = 0;
  uint64_t pace_us_max = 0;
  uint64_t redirects_to_warm = 0;
  uint64_t checksum_errors = 0;  // sub-blocks read that were not what was written
  uint32_t queue_depth = 0;
  uint32_t queue_depth_max = 0;
  Log2Histogram block_size;  // bytes
  Log2Histogram read_latency_us;
  Log2Histogram write_latency_us;
};

}  // namespace foreshadow::block
