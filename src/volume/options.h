#pragma once
// How a volume is made, and how it is run.
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/types.h"
#include "base/uuid.h"
#include "extent/geometry.h"
#include "extent/superblock.h"
#include "volume/wall_policy.h"

namespace foreshadow::volume {

using extent::Redirect;

// An existing image that becomes the base of an `over` volume: it is neither read nor written to make one.
struct BaseImage {
  Uuid uuid;           // of its segment; made for the purpose
  uint64_t bytes = 0;  // whole sectors; the volume's size
  std::string path;
};

struct CreateOptions {
  Uuid id;
  std::string name;
  uint64_t size = 0;
  Redirect redirect = Redirect::kAllocating;
  extent::Geometry geometry;   // 64 KiB clusters unless a test says otherwise
  uint64_t journal_bytes = 0;  // 0: chosen from the primary's size
  uint32_t head_room = 16;     // the primary's table has room for it to grow to that many times its size
  bool checksums = false;      // of data, kept in every segment but a base and verified on read
  std::optional<BaseImage> base;
};

struct RunOptions : WallPolicy {
  Nanos commit_idle = std::chrono::milliseconds(20);  // an idle batch is committed after this
  Nanos commit_age = std::chrono::seconds(1);         // an open batch is committed after this, idle or not
  // With data checksums: a checkpoint this long after a region was noted. What is active then is unknown
  // after a crash; a shorter time makes each region's first write wait for a commit more often.
  Nanos checksum_age = std::chrono::minutes(5);
  uint32_t checkpoint_percent = 50;  // of the journal filled
};

}  // namespace foreshadow::volume
