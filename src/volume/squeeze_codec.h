#pragma once
// From a cluster to a blob, and back. A blob (docs/format.md "Squeezed clusters") is
//
//   offset size    field (little endian)
//   0      4       crc32c of the bytes from 4 to the end of the data
//   4      4       lcn
//   8      4       length of the data
//   12     4       codec: 1 lz4 (block format), 2 zstd (one frame)
//   16     length  the cluster, compressed; then zeros to the end of the last slot
//
// It names its cluster but not its place, so that it may be moved from container to container as it is.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/error.h"
#include "base/types.h"
#include "extent/geometry.h"
#include "extent/pack.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace foreshadow::volume {

inline constexpr uint32_t kBlobHeader = 16;
// A blob is kept only if it saves one slot in eight; 16 slots are a cluster.
inline constexpr uint32_t kBlobSlotsMax = extent::kSlots - extent::kSlots / 8;

struct SqueezeLevel {
  extent::SqueezeCodec codec = extent::SqueezeCodec::kZstd;
  int level = 0;  // zstd: 1 to 19, 0 is 3. lz4 has none: 0
};
Status check_level(const SqueezeLevel& how);

// One thread at a time. Keeps the codec's memory between calls.
class BlobWriter {
 public:
  explicit BlobWriter(extent::Geometry geometry) : geometry_(geometry) {}
  // Writes the blob of `cluster` to the front of `out` (a cluster long), padded to whole slots, and returns
  // how many they are; 0 if it is not worth it. Looks at two sub-blocks first: where neither gets smaller,
  // the rest is not tried.
  uint32_t encode(Lcn lcn, std::span<const std::byte> cluster, const SqueezeLevel& how,
                  std::span<std::byte> out);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  // Bytes of `from` compressed into `into`; 0 if they do not fit.
  size_t compress(std::span<const std::byte> from, const SqueezeLevel& how, std::span<std::byte> into);

  extent::Geometry geometry_;
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
};

// One thread at a time. Safe on any bytes: what is not exactly the blob of that cluster is kCorrupt, with the
// reason.
class BlobReader {
 public:
  explicit BlobReader(extent::Geometry geometry) : geometry_(geometry) {}
  // `blob` is the slots of `pack`, `cluster` gets what they hold. On failure its contents are undefined.
  Status decode(Lcn lcn, extent::Pack pack, std::span<const std::byte> blob, std::span<std::byte> cluster);
  // Header and checksum only.
  static Status verify(Lcn lcn, extent::Pack pack, std::span<const std::byte> blob);

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  extent::Geometry geometry_;
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

}  // namespace foreshadow::volume
