#pragma once
// How a change of the forward map shows in the segment tables.
#include <vector>

#include "base/types.h"
#include "extent/map.h"

namespace foreshadow::extent {

// The new state of one physical cluster: it holds `mask` of `lcn`, or is free (mask 0).
struct Delta {
  Pcn pcn;
  Lcn lcn;
  uint16_t mask = 0;
  bool operator==(const Delta&) const = default;
};

// Appends what `lcn` going from `before` to `after` changes. Owners with mask 0 count as none.
void append_deltas(Lcn lcn, const Mapping& before, const Mapping& after, std::vector<Delta>& out);

}  // namespace foreshadow::extent
