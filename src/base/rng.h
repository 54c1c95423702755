#pragma once
// Random numbers come only through Rng, so that a simulation is one seed.
#include <cstdint>

namespace foreshadow {

class Rng {
 public:
  virtual ~Rng() = default;
  virtual uint64_t next() = 0;
  // Uniform in [0, bound); bound > 0. Lemire's multiply-shift without rejection: bias below 2^-32 for small
  // bounds.
  uint64_t below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
  }
  bool chance(uint32_t in, uint32_t out_of) { return below(out_of) < in; }
};

// splitmix64 (Steele, Lea, Flood 2014): one word of state, good enough to drive tests and pick UUIDs in a
// simulation.
class SeededRng final : public Rng {
 public:
  explicit SeededRng(uint64_t seed) : state_(seed) {}
  uint64_t next() override {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// The kernel's random source (getrandom); for everything that is not a simulation.
class SystemRng final : public Rng {
 public:
  uint64_t next() override;
};

}  // namespace foreshadow
