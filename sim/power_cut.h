#pragma once
// Power cuts worked out from recordings: every image that a disk may legally be left with, recovered and
// judged.
#include <cstdint>
#include <string>

namespace foreshadow::sim {

struct PowerCutOptions {
  std::string directory = ".";  // for the files of the recordings
  uint64_t start = 1;           // the seed of the first recording
  uint64_t images = 3000;       // recordings are made until there were so many
  uint64_t stride = 1;          // cut at every N-th moment at which anything changed
  uint32_t operations = 240;    // of one recording
};

struct PowerCutResult {
  uint64_t recordings = 0;
  uint64_t operations = 0;  // of clients, recorded
  uint64_t cuts = 0;        // moments at which the power was cut
  uint64_t images = 0;      // distinct choices of sectors, each recovered, read and judged
  uint64_t enumerated = 0;  // cuts of which every choice was an image
  uint64_t squeezed = 0;    // clusters, in all recordings
  uint64_t released = 0;    // segments
  uint64_t grown = 0;       // times
  uint64_t moved = 0;       // the primary, times
  uint64_t over = 0;        // recordings of volumes over an image
  std::string violation;
};

// Records the real engine on real files (sim/recording.h), then cuts the power wherever anything changed:
// what a sync that ended well covers is kept, and of every other write any 512-byte sectors. Each image is
// recovered by the real engine and held against what its client was told at that moment: what was
// acknowledged and flushed is there, and no sector has another's data.
PowerCutResult cut_power(const PowerCutOptions& options);

}  // namespace foreshadow::sim
