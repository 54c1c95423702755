#include "extent/allocator.h"

#include <algorithm>
#include <bit>

#include "base/assert.h"

namespace foreshadow::extent {

Allocator::Allocator(Pcn base, uint32_t clusters)
    : base_(base), clusters_(clusters), free_(clusters), words_(div_up(clusters, 64)) {}

uint32_t Allocator::find_free(uint32_t from) const {
  for (uint32_t word = from / 64; word < words_.size(); ++word) {
    uint64_t open = ~words_[word];
    if (word == from / 64) open &= ~uint64_t{0} << (from % 64);
    if (open == 0) continue;
    const uint32_t index = word * 64 + static_cast<uint32_t>(std::countr_zero(open));
    return std::min(index, clusters_);
  }
  return clusters_;
}

Allocator::Run Allocator::allocate(uint32_t want) {
  if (free_ == 0 || want == 0) return {};
  uint32_t first = find_free(cursor_);
  if (first == clusters_) first = find_free(0);
  ASSERT(first < clusters_);
  uint32_t count = 0;
  while (count < want && first + count < clusters_ && !bit(first + count)) {
    words_[(first + count) / 64] |= uint64_t{1} << ((first + count) % 64);
    ++count;
  }
  free_ -= count;
  cursor_ = first + count == clusters_ ? 0 : first + count;
  return {Pcn(base_.v + first), count};
}

void Allocator::release(Pcn pcn) {
  ASSERT(is_taken(pcn));
  const uint32_t index = pcn.v - base_.v;
  words_[index / 64] &= ~(uint64_t{1} << (index % 64));
  ++free_;
}

bool Allocator::take(Pcn pcn) {
  if (pcn < base_ || pcn.v - base_.v >= clusters_ || is_taken(pcn)) return false;
  const uint32_t index = pcn.v - base_.v;
  words_[index / 64] |= uint64_t{1} << (index % 64);
  --free_;
  return true;
}

bool Allocator::is_taken(Pcn pcn) const {
  ASSERT(pcn >= base_ && pcn.v - base_.v < clusters_);
  return bit(pcn.v - base_.v);
}

}  // namespace foreshadow::extent
