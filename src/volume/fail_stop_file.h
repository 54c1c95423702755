#pragma once
// A segment's file as the engine may use it: one sync at a time, and after a failed one no other ever
// succeeds.
#include <memory>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "io/file.h"

namespace foreshadow::volume {

// A kernel reports a failed write-back to one of the callers of fsync and marks the pages clean; a second
// sync of the same file, issued beside the first or after it, then succeeds although data is lost. Commit and
// checkpoint sync the same files independently, so each could take the other's loss for success. Here a sync
// that arrives while one is in flight waits for the next, and a failure sticks.
class FailStopFile final : public io::File {
 public:
  explicit FailStopFile(std::unique_ptr<io::File> inner) : inner_(std::move(inner)) {
    sync_.file = this;
    sync_.done = [](io::Op* op, int result) { static_cast<SyncOp*>(op)->file->on_synced(result); };
  }
  void read(io::Op& op, uint64_t offset, std::span<std::byte> into) override {
    inner_->read(op, offset, into);
  }
  void write(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    inner_->write(op, offset, from);
  }
  void write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    // Its failure is a failed sync as well, for it may have taken the error of everything before.
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
    durable.outer = &op;
    inner_->write_durable(durable, offset, from);
  }
  void sync(io::Op& op) override {
    op.next = waiting_;
    waiting_ = &op;
    if (running_ == nullptr) start();
  }
  bool read_now(uint64_t offset, std::span<std::byte> into) override {
    return inner_->read_now(offset, into);
  }
  bool write_now(uint64_t offset, std::span<const std::byte> from) override {
    return inner_->write_now(offset, from);
  }
  uint64_t size() const override { return inner_->size(); }
  bool in_memory() const override { return inner_->in_memory(); }
  uint32_t alignment() const override { return inner_->alignment(); }
  Status resize(uint64_t bytes) override { return inner_->resize(bytes); }

 private:
  struct SyncOp : io::Op {
    FailStopFile* file = nullptr;
  };
  struct DurableOp : SyncOp {
    io::Op* outer = nullptr;
  };
  void on_written(DurableOp& durable, int result) {
    if (result < 0 && failed_ == 0) failed_ = result;
    io::Op* outer = std::exchange(durable.outer, nullptr);
    idle_.push_back(&durable);
    outer->done(outer, failed_);
  }
  void start() {
    running_ = std::exchange(waiting_, nullptr);
    inner_->sync(sync_);
  }
  void on_synced(int result) {
    if (result < 0 && failed_ == 0) failed_ = result;
    const int outcome = failed_;
    io::Op* done = std::exchange(running_, nullptr);
    if (waiting_ != nullptr) start();
    while (done !=
           nullptr) {  // a callback may be the last user of this file: nothing of it is touched from here on
      io::Op* next = std::exchange(done->next, nullptr);
      done->done(done, outcome);
      done = next;
    }
  }

  std::unique_ptr<io::File> inner_;
  SyncOp sync_;
  std::vector<std::unique_ptr<DurableOp>> durable_;  // as many as were ever in flight at once
  std::vector<DurableOp*> idle_;
  io::Op* waiting_ = nullptr;
  io::Op* running_ = nullptr;
  int failed_ = 0;
};

}  // namespace foreshadow::volume
