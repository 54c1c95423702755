#include "extent/delta.h"

namespace foreshadow::extent {
void append_deltas(Lcn lcn, const Mapping& before, const Mapping& after, std::vector<Delta>& out) {
  // What was given up comes first, so that a cluster handed over is never claimed twice along the way.
  for (const Pcn pcn : {before.a, before.b}) {
    if (pcn.v != 0 && before.mask_of(pcn) != 0 && after.mask_of(pcn) == 0) out.push_back({pcn, lcn, 0});
  }
  for (const Pcn pcn : {after.a, after.b}) {
    const uint16_t mask = pcn.v == 0 ? uint16_t{0} : after.mask_of(pcn);
    if (mask != 0 && mask != before.mask_of(pcn)) out.push_back({pcn, lcn, mask});
  }
}

}  // namespace foreshadow::extent
