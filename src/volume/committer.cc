#include "volume/committer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/limits.h"

namespace foreshadow::volume {
namespace {
constexpr uint32_t kBlocksPerWrite = 64;        // 256 KiB
constexpr size_t kBatchChanges = 1u << 18;      // of table entries, in one batch
constexpr size_t kCommittedChanges = 1u << 22;  // since the last checkpoint: 48 MiB

struct AwaitCommit : CommitWaiter {
  Committer& committer;
  std::coroutine_handle<> waiting;
  Code code = Code::kOk;
  explicit AwaitCommit(Committer& c) : committer(c) {
    done = [](CommitWaiter* w, Code outcome) {
      auto* self = static_cast<AwaitCommit*>(w);
      self->code = outcome;
      self->waiting.resume();
    };
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiting = h;
    committer.wait(*this);
  }
  Code await_resume() const noexcept { return code; }
};

}  // namespace

Committer::Committer(io::Executor& executor, SegmentSet& segments, CommitSink& sink, const Start& start,
                     CommitTimes times)
    : executor_(executor),
      segments_(segments),
      sink_(sink),
      volume_(start.volume),
      epoch_(start.epoch),
      times_(times),
      checkpoint_percent_(start.checkpoint_percent),
      next_block_(start.next_block),
      replay_from_(start.replay_from),
      prev_crc_(start.prev_crc),
      rows_(start.rows),
      size_(start.size),
      block_buffer_(size_t{kBlocksPerWrite} * extent::kMetaBlock),
      ring_space_(executor),
      stopped_(executor) {
  timer_.op.target = this;
  timer_.op.done = [](io::Op* op, int) { static_cast<Committer*>(op->target)->on_timer(); };
}

Committer::~Committer() {
  executor_.cancel(timer_);
  ASSERT(!running_);
}

void Committer::Batch::clear() {
  records.clear();
  delta_end.clear();
  rows.clear();
  sizes.clear();
  deltas.clear();
  frees.clear();
  regions.clear();
  waiters = nullptr;
}

void Committer::append(const extent::Record& record, std::span<const extent::Delta> deltas) {
  if (open_.delta_end.empty()) {
    batch_opened_ = executor_.now();
    records_at_tick_ = 0;
    arm_timer();
  }
  if (const auto* row = std::get_if<extent::SegmentRow>(&record))
    open_.rows.emplace_back(open_.count(), *row);
  if (const auto* grown = std::get_if<extent::GrowRecord>(&record))
    open_.sizes.emplace_back(open_.count(), grown->size);
  const size_t at = open_.records.size();
  open_.records.resize(at + extent::kRecordBytes);
  extent::encode_record(record, std::span(open_.records).subspan(at));
  open_.deltas.insert(open_.deltas.end(), deltas.begin(), deltas.end());
  open_.delta_end.push_back(static_cast<uint32_t>(open_.deltas.size()));
}

void Committer::note_activity(Pcn region) {
  open_.regions.push_back(region);
  start_if_needed(true);
}

// The regions of a batch share records, behind all others: their order does not matter.
void Committer::seal_regions() {
  in_flight_.activity_from = in_flight_.count();
  const std::span<const Pcn> regions(in_flight_.regions);
  for (size_t at = 0; at < regions.size(); at += extent::kActivityRegions) {
    extent::ActivityRecord record;
    record.count = static_cast<uint8_t>(std::min<size_t>(extent::kActivityRegions, regions.size() - at));
    std::copy_n(regions.begin() + static_cast<ptrdiff_t>(at), record.count, record.regions.begin());
    const size_t end = in_flight_.records.size();
    in_flight_.records.resize(end + extent::kRecordBytes);
    extent::encode_record(record, std::span(in_flight_.records).subspan(end));
    in_flight_.delta_end.push_back(static_cast<uint32_t>(in_flight_.deltas.size()));
  }
}

bool Committer::has_room() {
  const uint64_t ring_records = ring_blocks() * extent::kRecordsPerBlock;
  const uint64_t room = std::min<uint64_t>(limits::kBatchRecords, std::max<uint64_t>(1, ring_records / 4));
  if (open_.count() < room && open_.deltas.size() < kBatchChanges) return true;
  request();
  return false;
}

void Committer::wait(CommitWaiter& waiter) {
  waiter.next = open_.waiters;
  open_.waiters = &waiter;
  start_if_needed(true);
}

io::Task<Status> Committer::commit() {
  AwaitCommit waiter(*this);
  const Code code = co_await waiter;
  if (code != Code::kOk) co_return fail(code, poisoned() ? poison_reason_ : "the volume is closed");
  co_return Status{};
}

void Committer::poison(const std::string& reason) {
  if (poisoned()) return;
  poison_reason_ = reason;
  ring_space_.notify_all();
  start_if_needed(true);  // those who wait are told
  sink_.on_poisoned(reason);
}

void Committer::start_if_needed(bool wanted) {
  wanted_ = wanted_ || wanted;
  if (running_ || !wanted_ || (blocked_ > 0 && !closed_)) return;
  running_ = true;
  run();
}

io::Detached Committer::run() {
  // Through the executor first, so that everybody who completes in this turn shares the batch, and no `done`
  // runs inside wait().
  co_await io::yield(executor_);
  while (wanted_ && (blocked_ == 0 || closed_)) {
    wanted_ = false;
    in_flight_.clear();
    std::swap(open_, in_flight_);
    sink_.on_batch_sealed();
    if (poisoned() || closed_) {
      finish(poisoned() ? Code::kReadOnly : Code::kShutdown);
      continue;
    }
    seal_regions();
    co_await SyncAll{*this};
    if (!poisoned()) {
      auto written = co_await write_records();
      if (!written) poison(written.error().message);
    }
    finish(poisoned() ? Code::kReadOnly : Code::kOk);
  }
  running_ = false;
  stopped_.notify_all();
}

bool Committer::SyncAll::await_suspend(std::coroutine_handle<> h) {
  self.syncs_left_ = 1;  // one for this function, so that no completion finishes it early
  self.sync_waiter_ = h;
  const auto& segments = self.segments_.all();
  while (self.sync_ops_.size() < self.segments_.slots()) self.sync_ops_.push_back(std::make_unique<SyncOp>());
  for (Segment* segment : segments) {
    if (!segment->unsynced) continue;
    segment->unsynced = false;  // a write completing from here on is not covered
    SyncOp& op = *self.sync_ops_[segment->index];
    op.self = &self;
    op.done = [](io::Op* done, int result) {
      Committer& committer = *static_cast<SyncOp*>(done)->self;
      if (result < 0) committer.poison(fmt::format("a sync failed: {}", std::strerror(-result)));
      if (--committer.syncs_left_ == 0) committer.sync_waiter_.resume();
    };
    ++self.syncs_left_;
    segment->file->sync(op);
  }
  return --self.syncs_left_ != 0;  // false: nothing to sync, go on at once
}

io::Task<Status> Committer::write_records() {
  uint32_t done = 0;
  const uint32_t count = in_flight_.count();
  while (done < count) {
    // A block of slack keeps a full ring apart from an empty one.
    while (ring_used() + 1 >= ring_blocks() && !poisoned()) {
      sink_.on_journal_filling();
      co_await ring_space_.wait();
    }
    if (poisoned()) co_return fail(Code::kReadOnly, poison_reason_);
    const uint64_t room = ring_blocks() - 1 - ring_used();
    const uint64_t to_end = ring_blocks() - next_block_.v % ring_blocks();
    const uint64_t blocks =
        std::min<uint64_t>({room, to_end, kBlocksPerWrite, div_up(count - done, extent::kRecordsPerBlock)});
    auto written = co_await write_blocks(done, static_cast<uint32_t>(blocks));
    if (!written) co_return written;
    const uint32_t upto =
        std::min<uint32_t>(count, done + static_cast<uint32_t>(blocks) * extent::kRecordsPerBlock);
    settle(done, upto);
    done = upto;
  }
  const bool long_ring = ring_used() * 100 >= ring_blocks() * checkpoint_percent_;
  if (long_ring || committed_.changes() >= kCommittedChanges) sink_.on_journal_filling();
  co_return Status{};
}

io::Task<Status> Committer::write_blocks(uint32_t first_record, uint32_t blocks) {
  const BlockSeq durable(next_block_.v - 1);
  BlockSeq seq = next_block_;
  uint32_t crc = prev_crc_;
  uint32_t record = first_record;
  for (uint32_t i = 0; i < blocks; ++i) {
    const uint32_t count = std::min(extent::kRecordsPerBlock, in_flight_.count() - record);
    const auto records =
        std::span<const std::byte>(in_flight_.records)
            .subspan(size_t{record} * extent::kRecordBytes, size_t{count} * extent::kRecordBytes);
    const extent::BlockHeader header{epoch_, seq, durable, crc, static_cast<uint16_t>(count)};
    crc = extent::encode_block(
        volume_, header, records,
        block_buffer_.span().subspan(size_t{i} * extent::kMetaBlock, extent::kMetaBlock));
    record += count;
    seq = seq.next();
  }
  Segment& primary = segments_.primary();
  const uint64_t offset = primary.layout.block_offset(next_block_.v);
  const auto bytes = block_buffer_.first(size_t{blocks} * extent::kMetaBlock);
  const int result = co_await io::write_durable(*primary.file, offset, bytes);
  if (result < 0) co_return fail_errno(result, "a journal write failed");
  next_block_ = seq;
  prev_crc_ = crc;
  co_return Status{};
}

// Records [from, to) are durable: their changes may go into the next checkpoint.
void Committer::settle(uint32_t from_record, uint32_t to_record) {
  const uint32_t first = from_record == 0 ? 0 : in_flight_.delta_end[from_record - 1];
  for (uint32_t i = first; i < in_flight_.delta_end[to_record - 1]; ++i) add_committed(in_flight_.deltas[i]);
  for (const auto& [record, row] : in_flight_.rows) {
    if (record >= from_record && record < to_record) settle_row(row);
  }
  for (const auto& [record, size] : in_flight_.sizes) {
    if (record >= from_record && record < to_record) size_ = std::max(size_, size);
  }
  const uint32_t first_noted = std::max(from_record, in_flight_.activity_from);
  if (first_noted >= to_record) return;
  const size_t begin = size_t{first_noted - in_flight_.activity_from} * extent::kActivityRegions;
  const size_t end = std::min(in_flight_.regions.size(),
                              size_t{to_record - in_flight_.activity_from} * extent::kActivityRegions);
  if (begin < end) sink_.on_noted(std::span<const Pcn>(in_flight_.regions).subspan(begin, end - begin));
}

void Committer::settle_row(const extent::SegmentRow& row) {
  const auto known = std::find_if(rows_.begin(), rows_.end(), [&](const auto& r) { return r.id == row.id; });
  if (known == rows_.end()) {
    rows_.push_back(row);
  } else {
    *known = row;
  }
}

void Committer::add_committed(const extent::Delta& delta) {
  const Segment& segment = segments_.of(delta.pcn);
  committed_.add(segment.index, delta.pcn.v - segment.row.pcn_base.v, delta.entry);
}

void Committer::finish(Code code) {
  if (code == Code::kOk && !in_flight_.frees.empty()) sink_.on_freed(in_flight_.frees);
  in_flight_.frees.clear();
  complete(std::exchange(in_flight_.waiters, nullptr), code);
}

void Committer::complete(CommitWaiter* waiters, Code code) {
  CommitWaiter* in_order = nullptr;  // the list is newest first
  while (waiters != nullptr) {
    CommitWaiter* next = waiters->next;
    waiters->next = in_order;
    in_order = waiters;
    waiters = next;
  }
  while (in_order != nullptr) {
    CommitWaiter* next = in_order->next;
    in_order->done(in_order, code);
    in_order = next;
  }
}

void Committer::arm_timer() {
  if (!timer_.armed() && !poisoned()) executor_.arm(timer_, executor_.now() + times_.idle);
}

void Committer::on_timer() {
  if (open_.count() == 0 || poisoned()) return;
  const bool idle = open_.count() == records_at_tick_;
  records_at_tick_ = open_.count();
  if (idle || executor_.now() - batch_opened_ >= times_.age) request();
  arm_timer();
}

Committer::Frozen Committer::freeze() {
  Frozen out{std::move(committed_), next_block_, prev_crc_, rows_, size_};
  committed_ = extent::DirtyPages();
  return out;
}

void Committer::forget(SegmentId released) {
  std::erase_if(rows_, [&](const extent::SegmentRow& row) { return row.id == released; });
}

void Committer::begin_ring(Epoch epoch, std::vector<extent::SegmentRow> rows) {
  ASSERT(blocked_ > 0 && !running_ && replay_from_ == next_block_);
  epoch_ = epoch;
  next_block_ = replay_from_ = BlockSeq(1);
  prev_crc_ = 0;
  rows_ = std::move(rows);
}

void Committer::checkpointed(BlockSeq replay_from) {
  replay_from_ = replay_from;
  ring_space_.notify_all();
}

io::Task<Status> Committer::block() {
  ++blocked_;
  while (running_) co_await stopped_.wait();
  co_return Status{};
}

io::Task<Status> Committer::close() {
  auto blocked = co_await block();
  closed_ = true;
  start_if_needed(false);
  while (running_) co_await stopped_.wait();
  co_return blocked;
}

void Committer::unblock() {
  ASSERT(blocked_ > 0);
  --blocked_;
  start_if_needed(false);
}

}  // namespace foreshadow::volume
