#pragma once
// Container clusters: which squeezed clusters lie in which, and where. Derived from the map (each member's
// entry names its container and slots), kept so that the last member to leave can be told, and so that the
// tables can describe a container by itself.
//
// A container is written once, as a whole, into a cluster that was free; its members leave one by one, and
// nothing is ever written into it again. When none is left the cluster is free.
#include <array>
#include <cstdint>
#include <vector>

#include "base/types.h"
#include "extent/pack.h"
#include "extent/table_page.h"

namespace foreshadow::extent {

inline constexpr uint32_t kMembers = 3;  // of one container, at most
inline constexpr Lcn kNoMember{0xffffffffu};

// One container, 16 bytes. Its members are in the order of their slots; a place among them that is nobody's
// keeps its count, so that the others stay where they are.
struct Container {
  struct Member {
    Lcn lcn;
    Pack pack;
    bool operator==(const Member&) const = default;
  };
  std::array<Lcn, kMembers> lcns{kNoMember, kNoMember, kNoMember};
  uint16_t counts = 0;  // slots of each place, 4 bits each from bit 0
  uint8_t codecs = 0;   // 2 bits each from bit 0
  uint8_t index = 0;    // for Containers: the low bits of its pcn
  bool operator==(const Container&) const = default;

  // The live ones in the order of their slots; returns how many.
  uint32_t members(std::array<Member, kMembers>& out) const;
  // Of `members`, all but the last are in order. False: they overlap, are too many, or leave gaps that three
  // places cannot describe.
  bool assign(std::array<Member, kMembers + 1>& members, uint32_t count);
  TableEntry table_entry() const;
  // False: no container looks like this.
  static bool from_table_entry(const TableEntry& entry, Container& out);
};

// Every container of a volume. Memory: 16 bytes each, and 24 for each 256 physical clusters up to the last.
class Containers {
 public:
  // False, and nothing changes: it cannot be (slots that another member has, a fourth member, a gap that
  // cannot be).
  bool add(Pcn pcn, Lcn lcn, Pack pack);
  void remove(Pcn pcn, Lcn lcn);  // asserted: it is a member
  const Container* find(Pcn pcn) const;
  // What the table says of a cluster as far as containers know: free if it is none.
  TableEntry table_entry(Pcn pcn) const;
  // The first container at or after `from`, below `end`; Pcn(0) if none.
  Pcn next(Pcn from, Pcn end) const;

  uint64_t count() const { return count_; }
  uint64_t members() const { return members_; }
  // Members by the slots they take: how well clusters compress, and how that spreads.
  const std::array<uint64_t, kSlots + 1>& by_slots() const { return by_slots_; }
  uint64_t memory_bytes() const;

 private:
  static constexpr uint32_t kPage = 256;
  std::vector<Container>::iterator place_of(std::vector<Container>& page, Pcn pcn);

  std::vector<std::vector<Container>> pages_;  // by pcn / kPage, each sorted by index
  uint64_t count_ = 0;
  uint64_t members_ = 0;
  std::array<uint64_t, kSlots + 1> by_slots_{};
};

}  // namespace foreshadow::extent
