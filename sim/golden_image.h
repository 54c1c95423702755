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
  bool is_base = false;         // the image that the volume lies over: none of it is metadata
};

struct GoldenImage {
  extent::Geometry geometry;
  std::vector<GoldenBacking> backings;  // the primary first
  std::vector<std::byte> contents;      // what the volume reads, all of it
};

// Whatever a new area or record of the format is, it belongs in one of these, and is then covered by all that
// uses the images.
enum class Golden : uint8_t {
  // A primary and two shadows, one of them merged, after several checkpoints: clusters with one owner and
  // with two, emptied ones, checksum pages, stale table pages and stale journal blocks.
  kPlain,
  // Containers in the tables and in the journal, overlays above some, members that have gone; one segment
  // that is folding and one that is draining.
  kSqueezed,
  // Over an image that ends within a cluster, and grown past it; the base's table lies in the primary.
  kOver,
  // Its primary has been replaced by another: the one before, which says so, is half way out.
  kMoved,
};

// `closed`: closed in good order, so that the journal is empty. Otherwise the process died behind a flush,
// and the journal holds records of every kind that belong here; of a squeezed volume, also that of a segment
// which is released and still in the superblock. Always the same bytes.
GoldenImage make_golden_image(Golden what, bool closed);

}  // namespace foreshadow::sim
