#include "extent/table_load.h"

#include <array>

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

}  // namespace

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
