#include "volume/departures.h"

#include "base/assert.h"

namespace foreshadow::volume {

Departures::~Departures() {
  ASSERT(empty());
}

void Departures::watch(Lcn lcn, Pcn place) {
  if (idle_.empty()) {
    idle_.push_back(watches_.emplace_back(std::make_unique<Watch>()).get());
    idle_.back()->owner = this;
    idle_.back()->granted = [](LockOwner* owner) {
      auto* passing = static_cast<Watch*>(owner);
      passing->owner->passed(*passing);
    };
  }
  Watch* fresh = idle_.back();
  idle_.pop_back();
  fresh->lcn = lcn;
  fresh->place = place;
  parts_.locks.add_watch(*fresh, lcn);
  if (parts_.locks.acquire(*fresh)) passed(*fresh);
}

void Departures::passed(Watch& watch) {
  const Lcn lcn = watch.lcn;
  const Pcn place = watch.place;
  parts_.locks.release(watch);
  idle_.push_back(&watch);
  if (place.v == 0) return end_move(lcn);
  const auto left = leaving_.find(place);
  if (--left->second == 0) leaving_.erase(left);
  give_back(place);
}

void Departures::leave(Lcn lcn, Pcn place) {
  ++leaving_[place];
  watch(lcn, place);
}

void Departures::give_back(Pcn place) {
  if (parts_.containers.find(place) != nullptr || leaving_.contains(place)) return;
  parts_.committer.free_when_durable(place);
  parts_.on_free();
}

void Departures::end_move(Lcn lcn) {
  const Pcn source = parts_.moves.find(lcn)->source;
  extent::Mapping mapping = parts_.map.get(lcn);
  if (mapping.mask_of(source) != 0) return parts_.moves.end(lcn);
  if (parts_.locks.being_written(lcn) != 0) return watch(lcn, Pcn(0));
  if (mapping.has(source)) {  // a write that failed had its place there
    mapping = mapping.a == source ? extent::Mapping{mapping.b, Pcn(0), mapping.mask_b, 0, mapping.pack_b, {}}
                                  : extent::Mapping{mapping.a, Pcn(0), mapping.mask_a, 0, mapping.pack_a, {}};
    parts_.map.set(lcn, mapping);
  }
  parts_.moves.end(lcn);
  leave(lcn, source);
}

}  // namespace foreshadow::volume
