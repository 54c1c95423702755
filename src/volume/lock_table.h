#pragma once
// Order between requests that touch the same cluster at the same time.
//
// Reads and aligned overwrites of one cluster go on side by side: a block device orders nothing between
// requests in flight. What must be alone is (a) a read-modify-write, on its sub-block, or it would undo a
// neighbour's write; (b) anything that can take a physical cluster away (trim, zero, a move), on the whole
// cluster, or a request in flight would read or write another cluster's data after reuse.
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/types.h"

namespace foreshadow::volume {

// A third kind of node only *watches*: it waits for everything that is in the cluster now, and nothing waits
// for it. Who moves a cluster gives its old place up when such a watch has passed.

struct LockOwner;

// One cluster a request holds or waits for. In the table's list of that cluster, in order of arrival.
struct LockNode {
  Lcn lcn;
  uint16_t mask = 0;       // sub-blocks touched
  uint16_t exclusive = 0;  // sub-blocks that must be alone; a subset of mask
  uint16_t writes = 0;     // sub-blocks whose contents change; a subset of mask
  bool watch = false;
  uint64_t order = 0;  // of arrival, over all clusters
  LockNode* next = nullptr;
  LockOwner* owner = nullptr;
};

// Embedded in a request's state. All its nodes are entered at once, so requests cannot deadlock: each waits
// for earlier ones only.
struct LockOwner {
  void (*granted)(LockOwner*) = nullptr;  // called when the last conflict is gone; not from inside acquire()
  uint32_t conflicts = 0;
  std::vector<LockNode*> nodes;
};

// Hashed by cluster, chained; nodes come from a free list. Single-threaded.
class LockTable {
 public:
  LockTable();
  // Notes one cluster for `owner`; takes effect in acquire().
  void add(LockOwner& owner, Lcn lcn, uint16_t mask, uint16_t exclusive, uint16_t writes = 0);
  // Notes that `owner` waits for what is in that cluster when acquire() is called.
  void add_watch(LockOwner& owner, Lcn lcn);
  // True: all is held now. False: `granted` will be called.
  bool acquire(LockOwner& owner);
  // Gives up everything; may call `granted` of others.
  void release(LockOwner& owner);
  // Whether somebody has, or waits to have, one of these sub-blocks alone.
  bool has_exclusive(Lcn lcn, uint16_t mask) {
    for (const LockNode* node = bucket(lcn).first; node != nullptr; node = node->next) {
      if (node->lcn == lcn && (node->exclusive & mask) != 0) return true;
    }
    return false;
  }
  // Whether any request has some of `mask`, or waits for it.
  bool has_any(Lcn lcn, uint16_t mask) {
    for (const LockNode* node = bucket(lcn).first; node != nullptr; node = node->next) {
      if (node->lcn == lcn && (node->mask & mask) != 0) return true;
    }
    return false;
  }
  // The sub-blocks of that cluster which some request writes, or waits to write.
  uint16_t being_written(Lcn lcn);

 private:
  struct Bucket {
    LockNode* first = nullptr;
  };
  static bool conflict(const LockNode& earlier, const LockNode& later) {
    if (earlier.lcn != later.lcn || earlier.watch) return false;
    return later.watch || ((earlier.exclusive & later.mask) | (later.exclusive & earlier.mask)) != 0;
  }
  LockNode* note(LockOwner& owner, Lcn lcn);
  Bucket& bucket(Lcn lcn) { return buckets_[(lcn.v * 0x9e3779b1u) >> (32 - kBits)]; }

  static constexpr uint32_t kBits = 12;
  std::vector<Bucket> buckets_;
  std::vector<LockNode*> free_;
  uint64_t next_order_ = 1;
  std::deque<LockOwner*> ready_;  // no conflict left, not told yet
  bool granting_ = false;
  std::vector<std::unique_ptr<LockNode[]>> slabs_;
};

}  // namespace foreshadow::volume
