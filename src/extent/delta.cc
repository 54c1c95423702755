#include "extent/delta.h"

namespace foreshadow::extent {
namespace {

// The sub-blocks that lie at `pcn` as they are, not squeezed.
uint16_t raw_mask_of(const Mapping& mapping, Pcn pcn) {
  if (mapping.a == pcn && mapping.pack_a.is_raw()) return mapping.mask_a;
  if (mapping.b == pcn && mapping.pack_b.is_raw()) return mapping.mask_b;
  return 0;
}

}  // namespace

bool append_deltas(Lcn lcn, const Mapping& before, const Mapping& after, Containers& containers,
                   std::vector<Delta>& out) {
  const bool moves =
      before.container() != after.container() || before.container_pack() != after.container_pack();
  // What was given up comes first, so that a cluster handed over is never claimed twice along the way.
  for (const Pcn pcn : {before.a, before.b}) {
    if (pcn.v != 0 && raw_mask_of(before, pcn) != 0 && raw_mask_of(after, pcn) == 0) out.push_back({pcn, {}});
  }
  if (moves && before.container().v != 0) {
    containers.remove(before.container(), lcn);
    out.push_back({before.container(), containers.table_entry(before.container())});
  }
  for (const Pcn pcn : {after.a, after.b}) {
    const uint16_t mask = pcn.v == 0 ? uint16_t{0} : raw_mask_of(after, pcn);
    if (mask != 0 && mask != raw_mask_of(before, pcn)) out.push_back({pcn, TableEntry{lcn, mask, 0, {}}});
  }
  if (moves && after.container().v != 0) {
    if (!containers.add(after.container(), lcn, after.container_pack())) return false;
    out.push_back({after.container(), containers.table_entry(after.container())});
  }
  return true;
}

}  // namespace foreshadow::extent
