#include "volume/base_places.h"

namespace foreshadow::volume {

namespace {
constexpr uint32_t kClustersAtOnce = 1u << 15;  // looked at in one turn: some hundred microseconds
}  // namespace

io::Task<uint64_t> BasePlaces::homeless(io::Executor& executor, const extent::Map& map,
                                        const Segment& leaving) const {
  uint64_t out = leaving.allocator.taken();
  const auto inside = [&](Pcn pcn) {
    return pcn >= leaving.row.pcn_base && pcn.v - leaving.row.pcn_base.v < leaving.allocator.clusters();
  };
  uint32_t looked = 0;
  for (Lcn lcn = map.next_populated(Lcn(0)); has(lcn); lcn = map.next_populated(lcn.next())) {
    if (++looked % kClustersAtOnce == 0) co_await io::yield(executor);
    const extent::Mapping mapping = map.get(lcn);
    if (!inside(mapping.a) && !inside(mapping.b)) continue;
    if ((mapping.a.v != 0 && mapping.b.v != 0) || home_of(lcn).v != 0) --out;
  }
  co_return out;
}

}  // namespace foreshadow::volume
