#include "extent/table_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace foreshadow::extent {
namespace {

// Puts a member of a container below what the map has of its cluster: nothing, or an overlay.
bool add_member(Map& map, Pcn pcn, const Container::Member& member) {
  if (member.lcn.v >= map.clusters() || !member.pack.is_valid()) return false;
  Mapping mapping = map.get(member.lcn);
  if (mapping.is_squeezed() || mapping.b.v != 0 || mapping.mask_a == kFullMask) return false;
  if (mapping.a.v == 0) {
    map.set(member.lcn, {pcn, Pcn(0), kFullMask, 0, member.pack, Pack{}});
    return true;
  }
  mapping.b = pcn;
  mapping.mask_b = static_cast<uint16_t>(~mapping.mask_a);
  mapping.pack_b = member.pack;
  map.set(member.lcn, mapping);
  return true;
}

bool add_container(Recovered& volume, Pcn pcn, const TableEntry& entry) {
  Container container;
  if (!Container::from_table_entry(entry, container)) return false;
  std::array<Container::Member, kMembers> members;
  const uint32_t count = container.members(members);
  for (uint32_t i = 0; i < count; ++i) {
    if (!add_member(volume.map, pcn, members[i])) return false;
    if (!volume.containers.add(pcn, members[i].lcn, members[i].pack)) return false;
  }
  return true;
}

class AllocatorRebuild {
 public:
  explicit AllocatorRebuild(Recovered& volume) : volume_(volume) {}

  Status run() {
    for (Pcn pcn = volume_.containers.next(Pcn(1), Pcn(kPcnEnd)); pcn.v != 0;
         pcn = volume_.containers.next(pcn.next(), Pcn(kPcnEnd))) {
      TRY(take(pcn, volume_.containers.table_entry(pcn).lcn));
    }
    volume_.map.each([&](Lcn lcn, const Mapping& mapping) {
      for (const Pcn pcn : {mapping.a, mapping.b}) {
        if (pcn.v != 0 && pcn != mapping.container() && !take_soon(pcn, lcn)) return false;
      }
      return true;
    });
    for (size_t i = 0; i < waiting_.size() && outcome_; ++i) (void)take_soon(Pcn(0), Lcn(0));
    return outcome_;
  }

 private:
  // A map in no order touches the bits in none: each waits until its memory has come.
  bool take_soon(Pcn pcn, Lcn lcn) {
    // Most likely of the same segment as the one before; whatever fails is looked into.
    Allocator& allocator = volume_.segments[last_owner_].allocator;
    allocator.prefetch(pcn);
    const auto [before, its_lcn] = std::exchange(waiting_[at_++ % waiting_.size()], {pcn, lcn});
    if (before.v == 0 || allocator.take(before)) return true;
    outcome_ = take(before, its_lcn);
    return outcome_.has_value();
  }

  Status take(Pcn pcn, Lcn lcn) {
    const auto owns = [&](const RecoveredSegment& s) {
      return pcn >= s.row.pcn_base && pcn.v - s.row.pcn_base.v < s.row.clusters;
    };
    const auto owner = std::find_if(volume_.segments.begin(), volume_.segments.end(), owns);
    if (owner == volume_.segments.end()) {
      return fail(Code::kCorrupt,
                  fmt::format("cluster {} lies at {}, in no segment of the volume", lcn.v, pcn.v));
    }
    last_owner_ = static_cast<size_t>(owner - volume_.segments.begin());
    if (!owner->allocator.take(pcn)) {
      return fail(Code::kCorrupt,
                  fmt::format("physical cluster {} has two owners, one of them cluster {}", pcn.v, lcn.v));
    }
    return {};
  }

  Recovered& volume_;
  std::array<std::pair<Pcn, Lcn>, 64> waiting_{};
  size_t at_ = 0;
  size_t last_owner_ = 0;  // of the cluster that was taken last
  Status outcome_;
};

}  // namespace

Status rebuild_allocators(Recovered& volume) {
  return AllocatorRebuild(volume).run();
}

bool add_entry(Recovered& volume, Pcn pcn, const TableEntry& entry) {
  if (entry.is_container()) return add_container(volume, pcn, entry);
  Map& map = volume.map;
  if (entry.lcn.v >= map.clusters() || entry.kind != 0) return false;
  if (map.add_first(entry.lcn, pcn, entry.mask)) return true;
  Mapping mapping = map.get(entry.lcn);
  if (!mapping.pack_a.is_raw() && entry.mask != kFullMask) {  // an overlay, met after what it lies above
    map.set(entry.lcn,
            {pcn, mapping.a, entry.mask, static_cast<uint16_t>(~entry.mask), Pack{}, mapping.pack_a});
    return true;
  }
  if ((mapping.mask() & entry.mask) != 0 || mapping.b.v != 0) return false;
  if (mapping.a.v == 0) {
    mapping.a = pcn;
    mapping.mask_a = entry.mask;
  } else {
    mapping.b = pcn;
    mapping.mask_b = entry.mask;
  }
  map.set(entry.lcn, mapping);
  return true;
}

}  // namespace foreshadow::extent
