#include "extent/map.h"

#include <bit>

#include "base/assert.h"

namespace foreshadow::extent {

Map::Map(uint32_t clusters) : clusters_(clusters), directory_(div_up(clusters, kLeafEntries)) {}
Map::~Map() = default;
Map::Map(Map&&) noexcept = default;
Map& Map::operator=(Map&&) noexcept = default;

void Map::grow(uint32_t clusters) {
  ASSERT(clusters >= clusters_);
  clusters_ = clusters;
  directory_.resize(div_up(clusters, kLeafEntries));
}

Map::Leaf& Map::leaf_for_write(Slot& slot) {
  if (slot.leaf != nullptr) return *slot.leaf;
  slot.leaf = std::make_unique<Leaf>();
  ++leaves_;
  if (slot.linear != 0) {
    for (uint32_t i = 0; i < kLeafEntries; ++i) slot.leaf->entries[i] = {slot.linear + i, kFullMask};
    slot.full = slot.used = kLeafEntries;
    slot.linear = 0;
  }
  return *slot.leaf;
}

// The packs come with the first that is none of a raw place, and go with the last.
void Map::set_pack(Slot& slot, uint32_t index, Pack pack) {
  if (pack == pack_of(slot, index)) return;
  std::unique_ptr<Packs>& packs = slot.leaf->packs;
  if (slot.packed == 0) {
    packs = std::make_unique<Packs>();
    ++with_packs_;
  }
  slot.packed += (*packs)[index].is_raw() ? 1 : 0;
  slot.packed -= pack.is_raw() ? 1 : 0;
  (*packs)[index] = pack;
  if (slot.packed > 0) return;
  packs.reset();
  --with_packs_;
}

void Map::store(Slot& slot, uint32_t index, const Mapping& mapping) {
  Entry& entry = slot.leaf->entries[index];
  set_pack(slot, index, mapping.b.v == 0 ? mapping.pack_a : Pack{});
  if (entry.pcn >= kPcnEnd) {
    multi_free_.push_back(entry.pcn - kPcnEnd);
    entry.pcn = 0;
  }
  if (mapping.b.v == 0) {
    entry = {mapping.a.v, mapping.mask_a};
    return;
  }
  uint32_t node = static_cast<uint32_t>(multi_.size());
  if (multi_free_.empty()) {
    ASSERT(node < UINT32_MAX - kPcnEnd);
    multi_.emplace_back();
  } else {
    node = multi_free_.back();
    multi_free_.pop_back();
  }
  multi_[node].mapping = mapping;
  entry = {kPcnEnd + node, 0};
}

bool Map::add_first(Lcn lcn, Pcn pcn, uint16_t mask) {
  ASSERT(lcn.v < clusters_ && pcn.v != 0 && pcn.v < kPcnEnd && mask != 0);
  Slot& slot = directory_[lcn.v / kLeafEntries];
  if (slot.leaf == nullptr && slot.linear != 0) return false;
  Leaf& leaf = leaf_for_write(slot);
  Entry& entry = leaf.entries[lcn.v % kLeafEntries];
  if (entry.pcn != 0) return false;
  entry = {pcn.v, mask};
  ++slot.used;
  ++mapped_clusters_;
  if (mask != kFullMask) {
    mapped_sub_blocks_ += static_cast<uint64_t>(std::popcount(mask));
    return true;
  }
  mapped_sub_blocks_ += kSubBlocks;
  if (++slot.full == kLeafEntries) settle(slot);
  return true;
}

void Map::set(Lcn lcn, const Mapping& mapping) {
  ASSERT(lcn.v < clusters_);
  ASSERT((mapping.mask_a & mapping.mask_b) == 0 && (mapping.a.v != 0 || mapping.b.v == 0));
  ASSERT(mapping.pack_a.is_raw() || (mapping.b.v == 0 && mapping.mask_a == kFullMask));
  ASSERT(mapping.pack_b.is_raw() || mapping.mask() == kFullMask);
  const Mapping old = get(lcn);
  if (old == mapping) return;
  mapped_sub_blocks_ +=
      static_cast<uint64_t>(std::popcount(mapping.mask())) - static_cast<uint64_t>(std::popcount(old.mask()));
  mapped_clusters_ += static_cast<uint64_t>(mapping.mask() != 0) - static_cast<uint64_t>(old.mask() != 0);
  Slot& slot = directory_[lcn.v / kLeafEntries];
  const uint32_t index = lcn.v % kLeafEntries;
  const Entry& entry = leaf_for_write(slot).entries[index];
  slot.full -= is_full(slot, index) ? 1 : 0;
  slot.used -= entry.pcn != 0 ? 1 : 0;
  store(slot, index, mapping);
  slot.full += is_full(slot, index) ? 1 : 0;
  slot.used += entry.pcn != 0 ? 1 : 0;
  settle(slot);
}

bool Map::fill_linear(Lcn first, Pcn pcn, uint32_t count) {
  ASSERT(uint64_t{first.v} + count <= clusters_);
  for (uint32_t done = 0; done < count;) {
    const Lcn lcn = first.next(done);
    Slot& slot = directory_[lcn.v / kLeafEntries];
    if (lcn.v % kLeafEntries != 0 || count - done < kLeafEntries) {
      if (get(lcn) != Mapping{}) return false;
      set(lcn, {pcn.next(done), Pcn(0), kFullMask, 0});
      ++done;
      continue;
    }
    if (slot.leaf != nullptr || slot.linear != 0) return false;
    slot.linear = pcn.v + done;
    mapped_clusters_ += kLeafEntries;
    mapped_sub_blocks_ += uint64_t{kLeafEntries} * kSubBlocks;
    done += kLeafEntries;
  }
  return true;
}

// Gives a leaf's memory back when the slot needs none: nothing mapped, or everything in one run.
void Map::settle(Slot& slot) {
  if (slot.used == 0) {
    slot.leaf.reset();
    --leaves_;
    return;
  }
  if (slot.full < kLeafEntries) return;
  const Leaf& leaf = *slot.leaf;
  const uint32_t base = leaf.entries[0].pcn;
  for (uint32_t i = 1; i < kLeafEntries; ++i) {
    if (leaf.entries[i].pcn != base + i) return;
  }
  slot.linear = base;
  slot.leaf.reset();
  slot.full = slot.used = 0;
  --leaves_;
}

Lcn Map::next_populated(Lcn from) const {
  uint32_t index = from.v / kLeafEntries;
  const auto populated = [&](uint32_t i) {
    return directory_[i].leaf != nullptr || directory_[i].linear != 0;
  };
  if (index >= directory_.size()) return Lcn(clusters_);
  if (populated(index)) return from;
  while (++index < directory_.size()) {
    if (populated(index)) return Lcn(index * kLeafEntries);
  }
  return Lcn(clusters_);
}

uint64_t Map::memory_bytes() const {
  return directory_.size() * sizeof(Slot) + leaves_ * sizeof(Leaf) + with_packs_ * sizeof(Packs) +
         multi_.capacity() * sizeof(Multi) + multi_free_.capacity() * sizeof(uint32_t);
}

}  // namespace foreshadow::extent
