#pragma once
// Every bit of a volume's metadata, flipped one at a time: none of them may change what the volume holds.
#include <cstdint>
#include <string>

namespace foreshadow::sim {

struct FlipResult {
  uint64_t bits = 0;      // flipped, each in an image that was otherwise as the engine left it
  uint64_t refused = 0;   // the volume was not opened, and the error says what is damaged
  uint64_t harmless = 0;  // opened, read and closed: exactly what it held
  uint64_t noticed = 0;   // of those: recovery lists the damage
  uint64_t violations = 0;
  std::string violation;  // the first one; empty while all is well
};

// Flips every `stride`-th bit of all metadata of each golden image (plain, squeezed, over an image), closed
// in good order and after a death of the process, the first one being bit `start`. A stride of 1 is all of
// them.
FlipResult flip_bits(uint64_t stride, uint64_t start);

}  // namespace foreshadow::sim
