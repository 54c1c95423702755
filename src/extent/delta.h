#pragma once
// How a change of the forward map shows in the segment tables.
#include <vector>

#include "base/types.h"
#include "extent/container.h"
#include "extent/map.h"
#include "extent/table_page.h"

namespace foreshadow::extent {

// The new state of one physical cluster: what its table entry says from now on.
struct Delta {
  Pcn pcn;
  TableEntry entry;
  bool operator==(const Delta&) const = default;
};

// Appends what `lcn` going from `before` to `after` changes, and notes in `containers` the member that leaves
// and the one that comes. Owners with mask 0 count as none. False: `after` names a place in a container that
// cannot be; `containers` then lacks the member that left, and the volume cannot go on.
[[nodiscard]] bool append_deltas(Lcn lcn, const Mapping& before, const Mapping& after, Containers& containers,
                                 std::vector<Delta>& out);

}  // namespace foreshadow::extent
