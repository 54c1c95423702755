#include "volume/lock_table.h"

#include "base/assert.h"

namespace foreshadow::volume {
namespace {
constexpr size_t kSlab = 256;
}

LockTable::LockTable() : buckets_(size_t{1} << kBits) {}

LockNode* LockTable::note(LockOwner& owner, Lcn lcn) {
  if (free_.empty()) {
    slabs_.push_back(std::make_unique<LockNode[]>(kSlab));
    for (size_t i = 0; i < kSlab; ++i) free_.push_back(&slabs_.back()[i]);
  }
  LockNode* node = free_.back();
  free_.pop_back();
  *node = LockNode();
  node->lcn = lcn;
  node->owner = &owner;
  owner.nodes.push_back(node);
  return node;
}

void LockTable::add(LockOwner& owner, Lcn lcn, uint16_t mask, uint16_t exclusive, uint16_t writes) {
  ASSERT(mask != 0 && ((exclusive | writes) & ~mask) == 0);
  LockNode* node = note(owner, lcn);
  node->mask = mask;
  node->exclusive = exclusive;
  node->writes = writes;
}

void LockTable::add_watch(LockOwner& owner, Lcn lcn) {
  note(owner, lcn)->watch = true;
}

uint16_t LockTable::being_written(Lcn lcn) {
  uint16_t out = 0;
  for (const LockNode* node = bucket(lcn).first; node != nullptr; node = node->next) {
    if (node->lcn == lcn) out |= node->writes;
  }
  return out;
}

bool LockTable::acquire(LockOwner& owner) {
  ASSERT(owner.conflicts == 0);
  for (LockNode* node : owner.nodes) {
    node->order = next_order_++;
    LockNode** link = &bucket(node->lcn).first;
    for (; *link != nullptr; link = &(*link)->next) {
      if ((*link)->owner != &owner && conflict(**link, *node)) ++owner.conflicts;
    }
    *link = node;
  }
  return owner.conflicts == 0;
}

void LockTable::release(LockOwner& owner) {
  for (LockNode* node : owner.nodes) {
    LockNode** link = &bucket(node->lcn).first;
    while (*link != node) link = &(*link)->next;
    *link = node->next;
  }
  // Whatever came later and conflicts counted the node once. (Of what came earlier nothing that conflicts is
  // left: it would have kept `owner` waiting.)
  for (const LockNode* node : owner.nodes) {
    for (LockNode* other = bucket(node->lcn).first; other != nullptr; other = other->next) {
      if (other->order < node->order || !conflict(*node, *other)) continue;
      ASSERT(other->owner->conflicts > 0);
      if (--other->owner->conflicts == 0) ready_.push_back(other->owner);
    }
  }
  free_.insert(free_.end(), owner.nodes.begin(), owner.nodes.end());
  owner.nodes.clear();
  // Only the outermost call goes on to the granted ones: each may release in turn, and a long queue must not
  // become a deep stack.
  if (granting_) return;
  granting_ = true;
  while (!ready_.empty()) {
    LockOwner* next = ready_.front();
    ready_.pop_front();
    next->granted(next);
  }
  granting_ = false;
}

}  // namespace foreshadow::volume
