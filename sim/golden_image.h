#pragma once
// A small volume as the real engine leaves it on its backings: what decoders are fuzzed with, and what bits
// are flipped in.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "extent/geometry.h"

namespace foreshadow::sim {

struct GoldenBacking {
  Uuid uuid;
  std::vector<std::byte> bytes;
  uint64_t metadata_bytes = 0;  // all that lies before the first cluster
};

struct GoldenImage {
  extent::Geometry geometry;
  std::vector<GoldenBacking> backings;  // the primary first
  std::vector<std::byte> contents;      // what the volume reads, all of it
};

// A volume of a primary and two shadows, one of them merged, after several checkpoints: clusters with one
// owner and with two, emptied ones, stale table pages and stale journal blocks. Whatever a new area or record
// of the format is, it belongs in here, and is then covered by all that uses the image.
//   `closed`: closed in good order, so that the journal is empty. Otherwise the process died behind a flush,
//   and the journal holds records of every kind.
// Always the same bytes.
GoldenImage make_golden_image(bool closed);

}  // namespace foreshadow::sim
