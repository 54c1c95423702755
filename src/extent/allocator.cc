#include "extent/allocator.h"

#include <algorithm>
#include <bit>

#include "base/assert.h"

namespace foreshadow::extent {

Allocator::Allocator(Pcn base, uint32_t clusters)
    : base_(base), clusters_(clusters), limit_(clusters), free_(clusters), words_(div_up(clusters, 64)) {}

uint32_t Allocator::find_free(uint32_t from) const {
  for (uint32_t word = from / 64; word < div_up(limit_, 64); ++word) {
    uint64_t open = ~words_[word];
    if (word == from / 64) open &= ~uint64_t{0} << (from % 64);
    if (open == 0) continue;
    const uint32_t index = word * 64 + static_cast<uint32_t>(std::countr_zero(open));
    return std::min(index, limit_);
  }
  return limit_;
}

Allocator Allocator::by_address(Pcn base, uint32_t clusters) {
  Allocator out(base, clusters);
  out.set_limit(0);
  return out;
}

Allocator::Run Allocator::allocate(uint32_t want) {
  if (free_ == 0 || want == 0) return {};
  uint32_t first = find_free(cursor_);
  if (first == limit_) first = find_free(0);
  ASSERT(first < limit_);
  uint32_t count = 0;
  while (count < want && first + count < limit_ && !bit(first + count)) {
    words_[(first + count) / 64] |= uint64_t{1} << ((first + count) % 64);
    ++count;
  }
  free_ -= count;
  taken_ += count;
  cursor_ = first + count == limit_ ? 0 : first + count;
  return {Pcn(base_.v + first), count};
}

void Allocator::release(Pcn pcn) {
  ASSERT(is_taken(pcn));
  const uint32_t index = pcn.v - base_.v;
  words_[index / 64] &= ~(uint64_t{1} << (index % 64));
  free_ += index < limit_ ? 1 : 0;
  --taken_;
}

bool Allocator::is_taken(Pcn pcn) const {
  ASSERT(pcn >= base_ && pcn.v - base_.v < clusters_);
  return bit(pcn.v - base_.v);
}

uint32_t Allocator::taken_past(uint32_t index) const {
  uint32_t out = 0;
  for (uint32_t word = index / 64; word < words_.size(); ++word) {
    uint64_t taken = words_[word];
    if (word == index / 64) taken &= ~uint64_t{0} << (index % 64);
    out += static_cast<uint32_t>(std::popcount(taken));
  }
  return out;
}

void Allocator::set_limit(uint32_t limit) {
  ASSERT(limit <= clusters_);
  limit_ = limit;
  free_ = limit_ - (taken_ - taken_past(limit_));
  if (cursor_ >= limit_) cursor_ = 0;
}

void Allocator::resize(uint32_t clusters) {
  ASSERT(clusters >= clusters_ || taken_past(clusters) == 0);
  clusters_ = clusters;
  words_.resize(div_up(clusters, 64));
  set_limit(clusters);
}

}  // namespace foreshadow::extent
