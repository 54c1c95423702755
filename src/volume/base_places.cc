#include "volume/base_places.h"

namespace foreshadow::volume {

uint64_t BasePlaces::homeless(const extent::Map& map, const Segment& leaving) const {
  uint64_t out = leaving.allocator.taken();
  const auto inside = [&](Pcn pcn) {
    return pcn >= leaving.row.pcn_base && pcn.v - leaving.row.pcn_base.v < leaving.allocator.clusters();
  };
  for (Lcn lcn = map.next_populated(Lcn(0)); has(lcn); lcn = map.next_populated(lcn.next())) {
    const extent::Mapping mapping = map.get(lcn);
    if (!inside(mapping.a) && !inside(mapping.b)) continue;
    if ((mapping.a.v != 0 && mapping.b.v != 0) || home_of(lcn).v != 0) --out;
  }
  return out;
}

}  // namespace foreshadow::volume
