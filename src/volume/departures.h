#pragma once
// Places that clusters leave, by a change of the map that holds nobody up: what is in the cluster at that
// moment may still read there. Such a place is given back when all of that has ended and the record of the
// change is durable; a container, when nobody is left in it besides.
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/types.h"
#include "extent/container.h"
#include "extent/map.h"
#include "volume/committer.h"
#include "volume/lock_table.h"
#include "volume/move_table.h"

namespace foreshadow::volume {

// Single-threaded. Nothing is in it when no request is in flight.
class Departures {
 public:
  struct Parts {
    extent::Map& map;
    extent::Containers& containers;
    LockTable& locks;
    MoveTable& moves;
    Committer& committer;
    std::function<void()> on_free;  // a place will be free with the next commit
  };
  explicit Departures(Parts parts) : parts_(std::move(parts)) {}
  ~Departures();  // asserted: nothing is in it

  // `lcn` has left `place`.
  void leave(Lcn lcn, Pcn place);
  // A member has left `place` that nobody can be in any more. Free, when that is durable, unless it is a
  // container of others, or others leave it.
  void give_back(Pcn place);
  // Ends a move without target. Its source is the map's again, or, where a trim has taken it out of the map
  // meanwhile, is given back when no write is on its way there. Until then the move stays.
  void end_move(Lcn lcn);
  bool empty() const { return idle_.size() == watches_.size(); }

 private:
  struct Watch : LockOwner {
    Departures* owner = nullptr;
    Lcn lcn;
    Pcn place;  // 0: the end of a move
  };
  void watch(Lcn lcn, Pcn place);
  void passed(Watch& watch);

  Parts parts_;
  std::unordered_map<Pcn, uint32_t> leaving_;  // by the watches they wait for
  std::vector<std::unique_ptr<Watch>> watches_;
  std::vector<Watch*> idle_;
};

}  // namespace foreshadow::volume
