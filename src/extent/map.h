#pragma once
// The forward map: logical cluster -> where its sub-blocks are. In memory only; rebuilt from tables and
// journal.
//
// A directory slot covers 512 clusters (32 MiB) and is empty, a leaf of 512 entries of 6 bytes, or *linear*:
// all 512 fully mapped, raw, to consecutive physical clusters, which needs no memory. An entry is {u32 pcn,
// u16 mask}. A leaf with squeezed clusters has a pack for each entry as well, of 2 bytes: where in a
// container the cluster lies, 0 for a raw place. A pcn from kPcnEnd on is the index of a multi node: two
// owners.
// Memory: 3 KiB a leaf, so at most 97 MiB a mapped TiB, or 129 if squeezed clusters lie all over it.
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/types.h"
#include "extent/geometry.h"
#include "extent/pack.h"

namespace foreshadow::extent {

// Who holds what of one logical cluster. Masks are disjoint. pcn 0: no owner. An owner with mask 0 is a place
// taken for a first touch still in flight: it is not part of the volume's state, and nothing of it is ever
// written to disk.
//
// At most one owner is a container, in which the whole cluster lies squeezed: `a` if it is alone, else `b`,
// below an overlay. What of it still counts is then the complement of the overlay's sub-blocks, always.
struct Mapping {
  Pcn a, b;  // b only with a
  uint16_t mask_a = 0;
  uint16_t mask_b = 0;
  Pack pack_a{}, pack_b{};  // where in a container; raw otherwise
  uint16_t mask() const { return mask_a | mask_b; }
  uint16_t mask_of(Pcn pcn) const {  // what lies there
    if (pcn.v == 0) return 0;
    return a == pcn ? mask_a : b == pcn ? mask_b : uint16_t{0};
  }
  bool has(Pcn pcn) const { return pcn.v != 0 && (a == pcn || b == pcn); }
  bool is_squeezed() const { return !pack_a.is_raw() || !pack_b.is_raw(); }
  Pcn container() const { return !pack_a.is_raw() ? a : !pack_b.is_raw() ? b : Pcn(0); }
  Pack container_pack() const { return !pack_a.is_raw() ? pack_a : pack_b; }
  uint16_t squeezed_mask() const {
    return !pack_a.is_raw() ? mask_a : !pack_b.is_raw() ? mask_b : uint16_t{0};
  }
  Pcn raw_a() const { return pack_a.is_raw() ? a : Pcn(0); }
  Pcn raw_b() const { return pack_b.is_raw() ? b : Pcn(0); }
  uint16_t raw_mask() const { return mask() & static_cast<uint16_t>(~squeezed_mask()); }
  bool operator==(const Mapping&) const = default;
};

class Map {
 public:
  explicit Map(uint32_t clusters);
  ~Map();
  Map(Map&&) noexcept;
  Map& operator=(Map&&) noexcept;

  uint32_t clusters() const { return clusters_; }
  Mapping get(Lcn lcn) const { return in_slot(directory_[lcn.v / kLeafEntries], lcn.v % kLeafEntries); }
  // Calls `visit` with each cluster that has an owner, and its mapping, in order, until it returns false.
  template <typename Visit>
  void each(Visit visit) const {
    uint32_t first = 0;
    for (const Slot& slot : directory_) {
      for (uint32_t i = 0; i < kLeafEntries && (slot.leaf != nullptr || slot.linear != 0); ++i) {
        const Mapping mapping = in_slot(slot, i);
        if (mapping.a.v != 0 && !visit(Lcn(first + i), mapping)) return;
      }
      first += kLeafEntries;
    }
  }
  // More clusters at the end, with nothing in them.
  void grow(uint32_t clusters);
  // Sets the whole state of one cluster; Mapping{} removes it.
  void set(Lcn lcn, const Mapping& mapping);
  // `count` clusters from `first`, until now empty, lie whole in a run from `pcn`: takes memory only at the
  // run's ends. False, with part of it done, if one of them is not empty.
  bool fill_linear(Lcn first, Pcn pcn, uint32_t count);
  // As set() of a cluster that has no owner yet, with one raw one: the short way, for loading tables. False,
  // and nothing changes, if it has one.
  bool add_first(Lcn lcn, Pcn pcn, uint16_t mask);
  // Asks the processor for the entry: what is loaded next lies all over the map.
  void prefetch(Lcn lcn) const {
    const Slot& slot = directory_[lcn.v / kLeafEntries];
    if (slot.leaf == nullptr) return;
    const Entry* entry = &slot.leaf->entries[lcn.v % kLeafEntries];
    __builtin_prefetch(entry, 1);
    __builtin_prefetch(&entry->mask, 1);  // one in sixteen lies in two lines
  }
  // The first cluster at or after `from` whose directory slot is not empty; clusters() if none. Skips
  // unmapped tebibytes fast.
  Lcn next_populated(Lcn from) const;

  uint64_t mapped_sub_blocks() const { return mapped_sub_blocks_; }
  uint64_t mapped_clusters() const { return mapped_clusters_; }  // with at least one sub-block
  uint64_t memory_bytes() const;
  uint64_t multi_nodes() const { return multi_.size() - multi_free_.size(); }

 private:
  static constexpr uint32_t kLeafEntries = 512;
  struct [[gnu::packed, gnu::aligned(2)]] Entry {
    uint32_t pcn = 0;
    uint16_t mask = 0;
  };
  using Packs = std::array<Pack, kLeafEntries>;
  struct Leaf {
    std::array<Entry, kLeafEntries> entries{};
    std::unique_ptr<Packs> packs;  // none while all entries are raw
  };
  struct Slot {
    std::unique_ptr<Leaf> leaf;
    uint32_t linear = 0;  // pcn of the first cluster; 0 unless linear
    // Of a leaf. Here, and not in it: whoever sets an entry has this line at hand, and few share a leaf's.
    uint16_t full = 0;    // entries with one raw owner and every sub-block
    uint16_t used = 0;    // entries with an owner
    uint16_t packed = 0;  // entries with one owner that is a container: the leaf has packs if there are any
  };
  struct Multi {
    Mapping mapping;
  };

  Mapping in_slot(const Slot& slot, uint32_t index) const {
    if (slot.leaf == nullptr) {
      if (slot.linear == 0) return {};
      return {Pcn(slot.linear + index), Pcn(0), kFullMask, 0, Pack{}, Pack{}};
    }
    const Entry entry = slot.leaf->entries[index];
    if (entry.pcn < kPcnEnd) return {Pcn(entry.pcn), Pcn(0), entry.mask, 0, pack_of(slot, index), Pack{}};
    return multi_[entry.pcn - kPcnEnd].mapping;
  }
  static Pack pack_of(const Slot& slot, uint32_t index) {
    return slot.packed == 0 ? Pack{} : (*slot.leaf->packs)[index];
  }
  Leaf& leaf_for_write(Slot& slot);
  void store(Slot& slot, uint32_t index, const Mapping& mapping);
  void set_pack(Slot& slot, uint32_t index, Pack pack);
  static bool is_full(const Slot& slot, uint32_t index) {
    const Entry entry = slot.leaf->entries[index];
    return entry.pcn != 0 && entry.pcn < kPcnEnd && entry.mask == kFullMask && pack_of(slot, index).is_raw();
  }
  void settle(Slot& slot);

  uint32_t clusters_;
  std::vector<Slot> directory_;
  std::vector<Multi> multi_;
  std::vector<uint32_t> multi_free_;
  uint64_t mapped_sub_blocks_ = 0;
  uint64_t mapped_clusters_ = 0;
  uint64_t leaves_ = 0;
  uint64_t with_packs_ = 0;  // of them
};

}  // namespace foreshadow::extent
