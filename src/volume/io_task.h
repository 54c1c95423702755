#pragma once
// One request on its way through the engine. Pooled; keeps its vectors' memory between requests, so the
// steady state does not allocate.
#include <cstddef>
#include <vector>

#include "base/types.h"
#include "block/block_device.h"
#include "io/buffer.h"
#include "io/op.h"
#include "volume/committer.h"
#include "volume/lock_table.h"
#include "volume/segment_set.h"
#include "volume/unpacker.h"

namespace foreshadow::volume {

class Engine;
struct IoTask;

// One contiguous transfer between memory and one segment.
struct Piece : io::Op {
  IoTask* task = nullptr;
  Segment* segment = nullptr;
  uint64_t at = 0;  // in the segment's file
  std::span<std::byte> memory;
  bool is_write = false;
};

// What a write does to one cluster: the bits in `placed` go to `target` (a first touch or a move), the other
// bits go in place.
struct ClusterPlan {
  Lcn lcn;
  uint16_t bits = 0;
  uint16_t placed = 0;
  Pcn target;              // 0 while a cluster must still be taken
  bool skip = false;       // zeros onto nothing: nothing to do
  bool home = false;       // `target` is its own place in the base, which must still be taken
  bool fresh = false;      // some of it has no place yet: a first touch
  uint16_t elsewhere = 0;  // of `placed`: what had another place when this was planned ...
  Pcn elsewhere_at;        // ... and which
};

struct ScrubCounts;

// Where a few blocks lie that need no more than a copy; no segment: they need more.
struct PlainPlace {
  Segment* segment = nullptr;
  uint64_t at = 0;  // in the segment's file
  Lcn lcn;
  uint16_t bits = 0;
};

struct IoTask : LockOwner, CommitWaiter {
  enum class Step : uint8_t { kRead, kFill, kWrite, kUnmap };

  Engine* engine = nullptr;
  block::Request* request = nullptr;
  Step step = Step::kRead;
  Code code = Code::kOk;
  uint32_t pending = 0;          // pieces and unpacks in flight
  ScrubCounts* scrub = nullptr;  // a read of the scrub's, which counts there
  bool durable = false;          // kWrite: each piece is durable by itself, and nothing else need be

  // The range of the present step, in the volume, and the memory that stands for it. With a bounce buffer the
  // range is the step's own, widened to whole sub-blocks.
  uint64_t begin = 0;
  uint64_t end = 0;
  std::byte* memory = nullptr;
  uint64_t cursor = 0;      // zero and trim: what is done up to here
  uint64_t step_begin = 0;  // the step before widening
  uint64_t step_end = 0;
  const std::byte* source = nullptr;  // of the step's bytes, when they go through the bounce buffer
  bool may_skip_zeros = false;
  bool filled = false;  // kFill: the reads of the edges are done
  io::Buffer bounce;

  std::vector<Piece> pieces;
  std::vector<Unpack> unpacks;  // parts of squeezed clusters
  std::vector<ClusterPlan> plans;
  MonoTime held_since{};
  MonoTime hold_deadline{};
  bool was_held = false;
  bool tried_first = false;       // held: as the oldest, it found no room with all that is free now
  bool waited_for_freed = false;  // held: past its deadline, for the commit of clusters that were given up
  MonoTime paced_since{};
  MonoTime pace_deadline{};
  bool was_paced = false;

  struct TaskOp : io::Op {
    IoTask* task = nullptr;
  };
  TaskOp post_op;  // to go on, or to complete, in a later turn
};

}  // namespace foreshadow::volume
