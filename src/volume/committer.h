#pragma once
// Group commit: turns what happened since the last commit into durable history.
//
// A commit is: sync every segment that took data since its last sync, then write the batch's records to the
// journal, durably, then complete those who wait. One commit is in flight at most, one batch gathers; a batch
// is committed the moment somebody waits for it and the one before has ended, never later on purpose. A batch
// nobody waits for is committed when it has been idle, or is old, or is large.
//
// Crash points. Before the sync: the batch's records are nowhere, the old map stands, and what it maps was
// not touched (a first touch writes to clusters that are free in the durable map; a freed cluster is not
// reused until the record that freed it is durable). Between sync and journal: the same. During the journal
// write: any prefix of the batch's blocks may survive; each record describes data that was synced before, in
// the order of the acknowledgements. After: all of it. A failed sync or journal write poisons the volume: the
// kernel may have dropped the pages and called them clean, so nothing is acknowledged as durable any more.
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "extent/delta.h"
#include "extent/dirty_pages.h"
#include "extent/journal.h"
#include "io/buffer.h"
#include "io/executor.h"
#include "io/task.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

// Somebody who waits until all that was acknowledged so far is durable.
struct CommitWaiter {
  void (*done)(CommitWaiter*, Code) = nullptr;
  CommitWaiter* next = nullptr;
};

// What the owner of the committer is told.
class CommitSink {
 public:
  virtual ~CommitSink() = default;
  virtual void on_freed(
      const std::vector<Pcn>& clusters) = 0;  // the records that freed these are durable: reuse them
  virtual void on_batch_sealed() = 0;         // there is room for records again
  virtual void on_noted(std::span<const Pcn> regions) = 0;  // see note_activity()
  virtual void on_poisoned(const std::string& reason) = 0;
  virtual void on_journal_filling() = 0;  // a checkpoint is due
};

struct CommitTimes {
  Nanos idle;
  Nanos age;
};

class Committer {
 public:
  struct Start {
    Uuid volume;
    Epoch epoch;
    BlockSeq next_block{1};
    BlockSeq replay_from{1};
    uint32_t prev_crc = 0;
    uint32_t checkpoint_percent = 50;
    std::vector<extent::SegmentRow> rows;  // the segment table, as durable
    uint64_t size = 0;                     // of the volume, as durable
  };
  Committer(io::Executor& executor, SegmentSet& segments, CommitSink& sink, const Start& start,
            CommitTimes times);
  ~Committer();

  // Appends one record with what it changes in the tables and what it frees.
  void append(const extent::Record& record, std::span<const extent::Delta> deltas);
  void free_when_durable(Pcn pcn) { open_.frees.push_back(pcn); }
  // Asks for a commit with an ACTIVITY record of this region of checksums; on_noted tells when it is durable.
  // A freeze() before that does not put the record behind the checkpoint: it is written later.
  void note_activity(Pcn region);
  // False: the open batch is full; wait for on_batch_sealed. Also asks for the commit.
  bool has_room();
  // Calls waiter.done when everything acknowledged before this call is durable, or cannot be.
  void wait(CommitWaiter& waiter);
  io::Task<Status> commit();
  bool frees_pending() const { return !open_.frees.empty() || !in_flight_.frees.empty(); }
  void request() { start_if_needed(true); }

  // Stops history here: nothing further is acknowledged as durable.
  void poison(const std::string& reason);
  bool poisoned() const { return !poison_reason_.empty(); }
  const std::string& poison_reason() const { return poison_reason_; }

  // For the checkpoint: everything durable since the last one, and up to where that is.
  struct Frozen {
    extent::DirtyPages pages;
    BlockSeq replay_from{1};
    uint32_t prev_crc = 0;
    std::vector<extent::SegmentRow> rows;
    uint64_t size = 0;
  };
  Frozen freeze();
  void forget(SegmentId released);  // its row is in no superblock any more
  // Held, and with nothing to replay: history goes on with block 1 of the primary's ring, which is a new one.
  void begin_ring(Epoch epoch, std::vector<extent::SegmentRow> rows);
  void checkpointed(BlockSeq replay_from);  // ring space before this block is free again
  // Held: no commit writes to the journal until unblock(). For a check of what is on disk.
  io::Task<Status> block();
  void unblock();
  // Nothing is committed ever again: who waits from here on is told so.
  io::Task<Status> close();
  // Whether the map is as the journal has it: no record waits to be durable.
  bool recorded() const { return open_.count() == 0 && (!running_ || in_flight_.count() == 0); }
  bool idle() const { return !running_ && open_.records.empty(); }
  extent::DirtyPages& committed() { return committed_; }
  void add_committed(const extent::Delta& delta);

 private:
  struct Batch {
    std::vector<std::byte> records;                             // encoded, kRecordBytes each
    std::vector<uint32_t> delta_end;                            // per record: end of its deltas
    std::vector<std::pair<uint32_t, extent::SegmentRow>> rows;  // the segment records, by their number
    std::vector<std::pair<uint32_t, uint64_t>> sizes;           // the grow records
    std::vector<extent::Delta> deltas;
    std::vector<Pcn> frees;
    std::vector<Pcn> regions;    // of checksums, to be noted: records once the batch is sealed
    uint32_t activity_from = 0;  // their first record
    CommitWaiter* waiters = nullptr;
    uint32_t count() const { return static_cast<uint32_t>(delta_end.size()); }
    void clear();
  };
  struct SyncOp : io::Op {
    Committer* self = nullptr;
  };
  struct SyncAll {
    Committer& self;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> h);
    void await_resume() const noexcept {}
  };

  void start_if_needed(bool wanted);
  void seal_regions();
  io::Detached run();
  io::Task<Status> write_records();
  io::Task<Status> write_blocks(uint32_t first_record, uint32_t blocks);
  void settle(uint32_t from_record, uint32_t to_record);
  void settle_row(const extent::SegmentRow& row);
  void finish(Code code);
  void complete(CommitWaiter* waiters, Code code);
  void on_timer();
  void arm_timer();
  uint64_t ring_blocks() { return segments_.primary().layout.journal_blocks; }
  uint64_t ring_used() const { return next_block_.v - replay_from_.v; }

  io::Executor& executor_;
  SegmentSet& segments_;
  CommitSink& sink_;
  const Uuid volume_;
  Epoch epoch_;
  const CommitTimes times_;
  const uint32_t checkpoint_percent_;
  BlockSeq next_block_;
  BlockSeq replay_from_;
  uint32_t prev_crc_;
  Batch open_;
  Batch in_flight_;
  extent::DirtyPages committed_;
  // The segment table as of the last durable record. Not the live one: a superblock whose rows ran ahead of
  // its journal position would have an older record replayed over one of two rows that changed together.
  std::vector<extent::SegmentRow> rows_;
  uint64_t size_;  // of the volume, likewise
  bool wanted_ = false;
  bool running_ = false;
  uint32_t blocked_ = 0;
  bool closed_ = false;
  std::string poison_reason_;
  std::vector<std::unique_ptr<SyncOp>> sync_ops_;
  uint32_t syncs_left_ = 0;
  std::coroutine_handle<> sync_waiter_;
  io::Buffer block_buffer_;
  io::Event ring_space_;
  io::Event stopped_;
  io::Timer timer_;
  MonoTime batch_opened_{};
  uint32_t records_at_tick_ = 0;
};

}  // namespace foreshadow::volume
