#include "volume/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "volume/fail_stop_file.h"

namespace foreshadow::volume {
namespace {

constexpr size_t kKeepBounce = 8 * kMiB;
constexpr size_t kZeroBytes = kMiB;

Committer::Start committer_start(const extent::Recovered& recovered, const RunOptions& options) {
  Committer::Start start;
  start.volume = recovered.label.volume;
  start.epoch = recovered.super.epoch;
  start.next_block = recovered.next_block;
  start.replay_from = recovered.super.replay_from;
  start.prev_crc = recovered.prev_crc;
  start.checkpoint_percent = options.checkpoint_percent;
  start.rows = recovered.super.segments;
  start.size = recovered.super.size;
  return start;
}

void add_segments(SegmentSet& set, extent::Recovered& recovered, std::vector<SegmentFile>& files) {
  for (extent::RecoveredSegment& from : recovered.segments) {
    auto segment = std::make_unique<Segment>();
    segment->row = from.row;
    segment->layout = from.layout;
    segment->file = std::make_unique<FailStopFile>(std::move(files[from.file].file));
    if (from.row.role == SegmentRole::kBase) {
      segment->table = set.primary().file.get();
      segment->data_end = recovered.label.base->bytes;
    }
    segment->allocator = std::move(from.allocator);
    segment->places = std::move(from.places);
    segment->checksums = std::move(from.checksums);
    set.add(std::move(segment));
  }
}

extent::Superblock super_after(const extent::Recovered& recovered) {
  extent::Superblock super = recovered.super;
  super.sequence = std::max(super.sequence, recovered.highest_super_sequence);
  return super;
}

SegmentSet make_segments(extent::Recovered& recovered, std::vector<SegmentFile>& files) {
  SegmentSet set;
  add_segments(set, recovered, files);
  return set;
}

}  // namespace

Engine::Engine(io::Executor& executor, std::unique_ptr<extent::Recovered> recovered,
               std::vector<SegmentFile> files, RunOptions options)
    : executor_(executor),
      options_(options),
      label_(recovered->label),
      geometry_(recovered->label.geometry),
      redirect_(recovered->super.redirect),
      size_(recovered->super.size),
      segments_(make_segments(*recovered, files)),
      map_(std::move(recovered->map)),
      containers_(std::move(recovered->containers)),
      next_segment_(recovered->super.next_segment),
      committer_(executor, segments_, *this, committer_start(*recovered, options),
                 {options.commit_idle, options.commit_age}),
      checkpointer_(executor, segments_, committer_, recovered->label.volume, geometry_,
                    super_after(*recovered)),
      placement_(segments_, *this),
      checksums_((recovered->super.features & extent::kFeatureChecksums) != 0, segments_, committer_,
                 recovered->label.geometry),
      relocator_(
          {executor, segments_, geometry_, map_, locks_, moves_, committer_, pacer_, checksums_, *this}),
      departures_({map_, containers_, locks_, moves_, committer_,
                   [this] {
                     stats_.freed_bytes += geometry_.cluster();
                     if (!held_.empty()) committer_.request();
                   }}),
      unpacker_(executor, segments_, geometry_, checksums_,
                [this](std::string what) {
                  ++stats_.damaged_reads;
                  tell([what = std::move(what)](Listener& listener) { listener.on_damaged(what); });
                }),
      scrub_reader_(make_scrub_reader(*this)),
      scrubber_(executor, *scrub_reader_, pacer_),
      buffers_(kKeepBounce),
      zeros_(kZeroBytes),
      check_ended_(executor),
      drained_(executor) {
  std::fill(zeros_.span().begin(), zeros_.span().end(), std::byte{0});
  alignment_ = segments_.alignment();
  // What is read is verified, so it is read in whole sub-blocks.
  if (checksums_.on()) alignment_ = std::max(alignment_, geometry_.sub_block());
  if (label_.base) base_ = BasePlaces(*segments_.find(label_.base->uuid), geometry_, size_);
  for (const extent::Delta& delta : recovered->deltas) committer_.add_committed(delta);
  for (const extent::PageRef& page : recovered->unfinished) {
    committer_.committed().touch(static_cast<uint32_t>(page.segment), page.page);
  }
  hold_timer_.op.target = this;
  hold_timer_.op.done = [](io::Op* op, int) { static_cast<Engine*>(op->target)->expire_held(); };
  freed_waiter_.engine = this;
  freed_waiter_.done = [](CommitWaiter* waiter, Code) {
    Engine& engine = *static_cast<FreedWaiter*>(waiter)->engine;
    engine.freed_waiter_.waits = false;
    engine.retry_later();
  };
}

Engine::~Engine() {
  executor_.cancel(hold_timer_);
  ASSERT(idle_tasks_.size() == tasks_.size());
}

block::DeviceInfo Engine::info() const {
  block::DeviceInfo out;
  out.size = size_;
  out.preferred_block = std::max(geometry_.sub_block(), 4096u);
  out.description = "Foreshadow volume " + label_.name;
  return out;
}

IoTask* Engine::take_task(block::Request& request) {
  if (idle_tasks_.empty()) {
    tasks_.push_back(std::make_unique<IoTask>());
    IoTask* fresh = tasks_.back().get();
    fresh->engine = this;
    fresh->granted = [](LockOwner* owner) {
      auto* task = static_cast<IoTask*>(owner);
      task->engine->go(*task);
    };
    fresh->CommitWaiter::done = [](CommitWaiter* waiter, Code code) {
      auto* task = static_cast<IoTask*>(waiter);
      task->engine->finish(*task, code);
    };
    fresh->post_op.task = fresh;
    fresh->post_op.done = [](io::Op* op, int) {
      IoTask* task = static_cast<IoTask::TaskOp*>(op)->task;
      task->engine->on_posted(*task);
    };
    idle_tasks_.push_back(fresh);
  }
  IoTask* task = idle_tasks_.back();
  idle_tasks_.pop_back();
  task->request = &request;
  task->code = Code::kOk;
  task->was_held = false;
  task->scrub = nullptr;
  task->durable = false;
  request.device_state = task;
  return task;
}

void Engine::submit(block::Request& request) {
  request.submitted_at = executor_.now();
  stats_.queue_depth_max = std::max(stats_.queue_depth_max, ++stats_.queue_depth);
  IoTask& task = *take_task(request);
  const bool mutates = request.kind != block::OpKind::kRead && request.kind != block::OpKind::kFlush;
  if (closing_) return finish_later(task, Code::kShutdown);
  if (request.offset > size_ || request.length > size_ - request.offset) {
    return finish_later(task, mutates ? Code::kNoSpace : Code::kInvalidArgument);
  }
  if (mutates && committer_.poisoned()) return finish_later(task, Code::kReadOnly);
  const uint64_t end = request.offset + request.length;
  switch (request.kind) {
    case block::OpKind::kFlush:
      ++stats_.flushes;
      return committer_.wait(task);
    case block::OpKind::kRead:
      if (request.length == 0) return finish_later(task, Code::kOk);
      return start_read(task);
    case block::OpKind::kWrite:
      if (request.length == 0) return finish_later(task, Code::kOk);
      return start_write(task, request.offset, end, request.data.data(), true);
    case block::OpKind::kZero:
      if (request.fast_zero &&
          (request.no_hole ||
           base_.has(Lcn(static_cast<uint32_t>(request.offset >> geometry_.cluster_bits())))))
        return finish_later(task, Code::kUnsupported);
      break;
    case block::OpKind::kTrim:
      break;
  }
  ++stats_.trim_ops;
  task.cursor = request.offset;
  next_unmap_step(task);
}

void Engine::lock_and_go(IoTask& task) {
  if (locks_.acquire(task)) go(task);
}

void Engine::go(IoTask& task) {
  switch (task.step) {
    case IoTask::Step::kRead:
      return run_read(task);
    case IoTask::Step::kFill:
    case IoTask::Step::kWrite:
      return run_write(task);
    case IoTask::Step::kUnmap:
      return run_unmap(task);
  }
}

uint16_t Engine::bits_of(Lcn lcn, uint64_t begin, uint64_t end) const {
  const uint64_t base = uint64_t{lcn.v} << geometry_.cluster_bits();
  const uint64_t from = std::max(begin, base) - base;
  const uint64_t to = std::min(end, base + geometry_.cluster()) - base;
  const auto first = static_cast<uint32_t>(from >> geometry_.sub_block_bits);
  const auto last = static_cast<uint32_t>(div_up(to, geometry_.sub_block()));
  return static_cast<uint16_t>((1u << last) - (1u << first));
}

// [from, to) of the volume, within one cluster, lies with `owner`. Joins the piece before where disk and
// memory go on.
void Engine::add_piece(IoTask& task, Pcn owner, uint64_t from, uint64_t to, bool is_write) {
  Segment& segment = segments_.of(owner);
  const uint64_t at = segment.data_offset(owner, geometry_) + (from & (geometry_.cluster() - 1));
  std::byte* memory = task.memory + (from - task.begin);
  uint64_t length = to - from;
  if (at + length > segment.data_end) {  // a sub-block cut short by the end of an image: the rest is zeros
    const uint64_t inside = segment.data_end - at;
    if (!is_write) std::memset(memory + inside, 0, length - inside);
    length = inside;
  }
  if (!task.pieces.empty()) {
    Piece& last = task.pieces.back();
    if (last.segment == &segment && last.at + last.memory.size() == at &&
        last.memory.data() + last.memory.size() == memory) {
      last.memory = {last.memory.data(), last.memory.size() + length};
      return;
    }
  }
  Piece& piece = task.pieces.emplace_back();
  piece.task = &task;
  piece.segment = &segment;
  piece.at = at;
  piece.memory = {memory, length};
  piece.is_write = is_write;
}

void Engine::submit_pieces(IoTask& task) {
  task.pending += static_cast<uint32_t>(task.pieces.size());
  for (Piece& piece : task.pieces) {
    piece.done = [](io::Op* op, int result) {
      auto* done = static_cast<Piece*>(op);
      done->task->engine->on_piece(*done, result);
    };
    if (piece.is_write) {
      io::File& file = *piece.segment->file;
      task.durable ? file.write_durable(piece, piece.at, piece.memory)
                   : file.write(piece, piece.at, piece.memory);
    } else {
      piece.segment->file->read(piece, piece.at, piece.memory);
    }
  }
}

void Engine::on_piece(Piece& piece, int result) {
  IoTask& task = *piece.task;
  if (task.scrub != nullptr) {
    scrub_piece(piece, result);
    if (--task.pending == 0) pieces_done(task);
    return;
  }
  if (result < 0 && task.code == Code::kOk)
    task.code = code_from_errno(result) == Code::kNoSpace ? Code::kNoSpace : Code::kIo;
  // A durable one that failed may be in the disk's cache all the same, and be read from there.
  if (piece.is_write && (!task.durable || result < 0)) piece.segment->unsynced = true;
  // As a failed sync: it may have taken the error of what was written before.
  if (piece.is_write && task.durable && result < 0)
    committer_.poison(fmt::format("a durable write failed: {}", std::strerror(-result)));
  if (checksums_.on() && result >= 0 && !check_piece(piece) && task.code == Code::kOk)
    task.code = Code::kCorrupt;
  if (--task.pending == 0) pieces_done(task);
}

// Of a piece that has been read or written. False: what was read is not what was written.
bool Engine::check_piece(const Piece& piece) {
  if (piece.is_write) {
    checksums_.written(*piece.segment, piece.at, piece.memory);
    return true;
  }
  const auto wrong = checksums_.verify(*piece.segment, piece.at, piece.memory);
  if (!wrong) return true;
  tell_corrupt(piece, *wrong);
  return false;
}

// `at` bytes into the piece.
void Engine::tell_corrupt(const Piece& piece, uint64_t at) {
  const IoTask& task = *piece.task;
  auto in_task = static_cast<uint64_t>(piece.memory.data() - task.memory);
  if (in_task >= task.end - task.begin) in_task -= task.end - task.begin;  // a blob: add_blob()
  const Lcn lcn(static_cast<uint32_t>((task.begin + in_task + at) >> geometry_.cluster_bits()));
  ++stats_.checksum_errors;
  tell([where = CorruptData{piece.segment->row.id, piece.at + at, lcn}](Listener& listener) {
    listener.on_corrupt_data(where);
  });
}

void Engine::pieces_done(IoTask& task) {
  task.pieces.clear();
  task.unpacks.clear();
  switch (task.step) {
    case IoTask::Step::kRead:
      return read_done(task);
    case IoTask::Step::kFill:
      return run_write(task);
    case IoTask::Step::kWrite:
      return write_done(task);
    case IoTask::Step::kUnmap:
      break;
  }
  ASSERT(false);
}

void Engine::durable_or_finish(IoTask& task) {
  const bool changes = task.request->kind != block::OpKind::kRead;
  if (task.request->fua && changes && !task.durable && task.code == Code::kOk) return committer_.wait(task);
  finish(task, task.code);
}

void Engine::finish_later(IoTask& task, Code code) {
  task.code = code;
  task.step = IoTask::Step::kRead;  // on_posted: complete
  executor_.post(task.post_op);
}

void Engine::on_posted(IoTask& task) {
  if (task.step == IoTask::Step::kUnmap) return next_unmap_step(task);
  durable_or_finish(task);
}

// One read or write that has ended.
void Engine::count(block::OpKind kind, uint64_t offset, uint64_t length, uint64_t latency_us) {
  if (kind == block::OpKind::kRead) {
    ++stats_.read_ops;
    stats_.read_bytes += length;
    stats_.read_latency_us.add(latency_us);
  } else {
    ++stats_.write_ops;
    stats_.write_bytes += length;
    stats_.write_latency_us.add(latency_us);
  }
  stats_.block_size.add(length);
  stats_.sequential_ops += offset == sequential_next_ ? 1 : 0;
  sequential_next_ = offset + length;
}

void Engine::finish(IoTask& task, Code code) {
  ASSERT(task.nodes.empty() && task.pending == 0);
  block::Request& request = *task.request;
  if (task.scrub == nullptr) count(request, code);
  if (task.bounce.size() > 0) buffers_.give(std::move(task.bounce));
  task.bounce = io::Buffer();
  task.request = nullptr;
  task.plans.clear();
  idle_tasks_.push_back(&task);
  if (idle_tasks_.size() == tasks_.size()) drained_.notify_all();
  request.done(&request, code);
}

void Engine::count(const block::Request& request, Code code) {
  const auto latency = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(executor_.now() - request.submitted_at).count());
  if (request.kind == block::OpKind::kRead || request.kind == block::OpKind::kWrite)
    count(request.kind, request.offset, request.length, latency);
  const bool background = !evacuator_.idle() || scrubber_.progress().running;
  if (background && request.kind != block::OpKind::kFlush) pacer_.on_foreground(executor_.now(), latency);
  if (code != Code::kOk && request.kind != block::OpKind::kRead && code != Code::kShutdown)
    ++stats_.failed_writes;
  --stats_.queue_depth;
}

}  // namespace foreshadow::volume
