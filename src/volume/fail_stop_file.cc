#include "volume/fail_stop_file.h"

#include <utility>

namespace foreshadow::volume {

FailStopFile::FailStopFile(std::unique_ptr<io::File> inner) : inner_(std::move(inner)) {
  sync_.file = this;
  sync_.done = [](io::Op* op, int result) { static_cast<SyncOp*>(op)->file->flushed(result); };
}

FailStopFile::DurableOp& FailStopFile::take_durable() {
  if (idle_.empty()) {
    durable_.push_back(std::make_unique<DurableOp>());
    durable_.back()->file = this;
    durable_.back()->done = [](io::Op* done, int result) {
      auto* durable = static_cast<DurableOp*>(done);
      durable->file->on_written(*durable, result);
    };
    idle_.push_back(durable_.back().get());
  }
  DurableOp& durable = *idle_.back();
  idle_.pop_back();
  return durable;
}

void FailStopFile::write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) {
  DurableOp& durable = take_durable();
  durable.outer = &op;
  durable.alone = !flushing_ && waiting_ == nullptr && writing_ == 0;
  if (!durable.alone) {
    ++writing_;
    return inner_->write(durable, offset, from);
  }
  flushing_ = true;
  op.next = nullptr;
  running_ = &op;
  inner_->write_durable(durable, offset, from);
}

void FailStopFile::on_written(DurableOp& durable, int result) {
  io::Op& outer = *std::exchange(durable.outer, nullptr);
  idle_.push_back(&durable);
  // Where it was alone, its failure is a failed flush as well: it may have taken the error of all before.
  if (durable.alone) return flushed(result);
  --writing_;
  if (result == 0) {
    ++written_;
    wait_for_flush(outer);
  }
  start_if_due();
  if (result != 0) outer.done(&outer, result);
}

void FailStopFile::sync(io::Op& op) {
  asked_ = true;
  wait_for_flush(op);
  start_if_due();
}

void FailStopFile::wait_for_flush(io::Op& op) {
  op.next = waiting_;
  waiting_ = &op;
}

void FailStopFile::start_if_due() {
  if (flushing_ || waiting_ == nullptr) return;
  if (!asked_ && 2 * written_ < writing_) return;
  flushing_ = true;
  asked_ = false;
  written_ = 0;
  running_ = std::exchange(waiting_, nullptr);
  inner_->sync(sync_);
}

void FailStopFile::flushed(int result) {
  if (result < 0 && failed_ == 0) failed_ = result;
  const int outcome = failed_;
  io::Op* done = std::exchange(running_, nullptr);
  flushing_ = false;
  start_if_due();
  // A callback may be the last user of this file: nothing of it is touched from here on.
  while (done != nullptr) {
    io::Op* next = std::exchange(done->next, nullptr);
    done->done(done, outcome);
    done = next;
  }
}

}  // namespace foreshadow::volume
