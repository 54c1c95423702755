#pragma once
// Moves clusters from one segment to others while the volume serves on: what fold, drain and shrink have in
// common. move_table.h has the rules that keep foreground and copy apart.
//
// Crash points of one cluster. Until its record is durable the old place stands and is not given to anybody;
// the copy lies in a cluster that is free in the durable map. The record is written by a commit, which syncs
// the copy first (committer.h). The old place is handed out again only when the record is durable. So at any
// moment one of the two places is named by durable history, and holds the data. What was moved is in the map:
// a run after a crash finds only the rest, and repeats at most the batches whose records were not durable.
#include <functional>
#include <span>
#include <vector>

#include "base/error.h"
#include "extent/allocator.h"
#include "extent/geometry.h"
#include "extent/map.h"
#include "io/buffer.h"
#include "io/executor.h"
#include "io/task.h"
#include "volume/checksums.h"
#include "volume/committer.h"
#include "volume/lock_table.h"
#include "volume/move_table.h"
#include "volume/pacer.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

// Who keeps the map.
class MoveSink {
 public:
  virtual ~MoveSink() = default;
  // Changes the map, and appends the record that says so.
  virtual void record_mapping(Lcn lcn, const extent::Mapping& before, const extent::Mapping& after) = 0;
};

// What is to go, and where to.
struct Evacuation {
  Segment* from = nullptr;
  uint32_t first = 0;  // clusters of `from` from this one on
  // Takes up to that many consecutive clusters for the copies; count 0 if there is no room.
  std::function<extent::Allocator::Run(uint32_t)> take;
  // The one place that a cluster should have, taken for it; 0: any that take() gives. May be empty.
  std::function<Pcn(Lcn)> home;
  // Whether take() may yet give something when it gives nothing now; on_room() tells when. May be empty.
  std::function<bool()> more;
};

struct MoveProgress {
  uint64_t moved = 0;  // clusters, since the run began
  uint64_t total = 0;  // clusters there were then
};

// One run at a time. Single-threaded; several batches of up to kBatchClusters are in flight. The Executor
// must outlive every run.
class Relocator {
 public:
  struct Parts {
    io::Executor& executor;
    SegmentSet& segments;
    extent::Geometry geometry;
    extent::Map& map;
    LockTable& locks;
    MoveTable& moves;
    Committer& committer;
    Pacer& pacer;
    Checksums& checksums;
    MoveSink& sink;
  };
  explicit Relocator(Parts parts)
      : parts_(parts), journal_room_(parts.executor), room_(parts.executor), worker_ended_(parts.executor) {}

  // Until nothing of `what` is left in the map. kNoSpace: `take` gave nothing; kShutdown: stop() was called;
  // kReadOnly; kIo. On an error what was moved stays moved, and the rest is where it was.
  io::Task<Status> run(Evacuation what);
  // The batches in flight end, no further one begins, now or later.
  void stop() {
    stopped_ = true;
    room_.notify_all();
  }
  void on_room() { room_.notify_all(); }
  // Until on_room(), if `what` may get more; false if it may not, or if everything is to stop.
  io::Task<bool> wait_for_room(const Evacuation& what);
  void on_batch_sealed() { journal_room_.notify_all(); }
  void on_noted() { journal_room_.notify_all(); }
  const MoveProgress& progress() const { return progress_; }

  static constexpr uint32_t kBatchClusters = 16;
  static constexpr uint32_t kWorkers = 4;

 private:
  struct Item {
    Lcn lcn;
    Move* move;
    // What had fallen out of the map before those were waited for that were there.
    bool source_was_empty = false, target_was_empty = false;
  };
  struct Transfer;
  struct Transfers;
  struct Watch;
  struct Sleep;

  io::Detached work(bool first);
  bool takes_turns() const;
  bool goes_on() const;
  io::Task<Status> next_batch(std::vector<Item>& items);
  Status find_items(std::vector<Item>& items, uint32_t most);
  bool leaves(Pcn pcn) const;
  Status begin_moves(std::vector<Item>& items, const std::vector<Lcn>& found);
  io::Task<Status> move_batch(std::vector<Item>& items, const io::Buffer& memory);
  bool choose(std::vector<Item>& items);
  io::Task<Status> copy(const std::vector<Item>& items, const io::Buffer& memory);
  void gather(const std::vector<Item>& items, const io::Buffer& memory, bool writes,
              std::vector<Transfer>& out);
  io::Task<Status> may_write(const std::vector<Transfer>& list);
  Status verify(const std::vector<Item>& items, const io::Buffer& memory) const;
  void carry_checksums(const std::vector<Item>& items);
  io::Task<Status> switch_places(std::vector<Item>& items);
  io::Task<bool> end_moves(std::vector<Item>& items, bool failed);
  bool end_move(const Item& item, bool failed);
  uint16_t at_source(const Item& item) const { return parts_.map.get(item.lcn).mask_of(item.move->source); }

  Parts parts_;
  Evacuation what_;
  Lcn cursor_;
  MoveProgress progress_;
  Status outcome_;
  uint32_t workers_ = 0;
  bool stopped_ = false;
  io::Event journal_room_;  // or a region of checksums was noted
  io::Event room_;          // take() may give more now
  io::Event worker_ended_;
};

}  // namespace foreshadow::volume
