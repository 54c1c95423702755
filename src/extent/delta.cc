#include "extent/delta.h"

namespace foreshadow::extent {
namespace {

uint16_t mask_of(const Mapping& mapping, Pcn pcn) {
  if (mapping.a == pcn) return mapping.mask_a;
  if (mapping.b == pcn) return mapping.mask_b;
  return 0;
}

}  // namespace

void append_deltas(Lcn lcn, const Mapping& before, const Mapping& after, std::vector<Delta>& out) {
  // What was given up comes first, so that a cluster handed over is never claimed twice along the way.
  for (const Pcn pcn : {before.a, before.b}) {
    if (pcn.v != 0 && mask_of(before, pcn) != 0 && mask_of(after, pcn) == 0) out.push_back({pcn, lcn, 0});
  }
  for (const Pcn pcn : {after.a, after.b}) {
    const uint16_t mask = pcn.v == 0 ? uint16_t{0} : mask_of(after, pcn);
    if (mask != 0 && mask != mask_of(before, pcn)) out.push_back({pcn, lcn, mask});
  }
}

}  // namespace foreshadow::extent
