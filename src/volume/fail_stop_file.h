#pragma once
// A segment's file as the engine may use it: one flush of the disk's cache at a time, for all who want one,
// and after a failed one no other ever succeeds.
//
// A kernel reports a failed write-back to one of the callers of fsync and marks the pages clean; a second
// flush of the same file, issued beside the first or after it, then succeeds although data is lost. Commits,
// checkpoints and durable writes flush the same files independently, so each could take the other's loss for
// success. Here one that arrives while another is in flight waits for the next, and a failure sticks.
//
// Durable writes share flushes. A disk that cannot write through its cache (no FUA) makes a write and a flush
// of each, and a flush is what it can do few of: 32 at a time, each by itself, came to a third of what one
// flush for many does. So one that comes alone is a durable write of the file below; those that come while
// that, or a sync, or others of their kind are in flight are written plainly and then wait for a sync. It
// starts when half as many wait as are still being written (or somebody asked for a sync): whoever is a
// moment too late for one waits for all of the next. Writes in flight end, so this comes.
//
// Crash points. A durable write beside another flush: before its plain write has completed, the disk may hold
// any part of it, and so after that, until the sync: it is acknowledged only with the success of a sync that
// was started after its write had completed, which is what File asks for. A write that fails by itself is no
// failed flush: it is not waited for by any, nothing else is lost with it, and only its own caller is told.
#include <memory>
#include <vector>

#include "io/file.h"

namespace foreshadow::volume {

class FailStopFile final : public io::File {
 public:
  explicit FailStopFile(std::unique_ptr<io::File> inner);
  void read(io::Op& op, uint64_t offset, std::span<std::byte> into) override {
    inner_->read(op, offset, into);
  }
  void write(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    inner_->write(op, offset, from);
  }
  void write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) override;
  void sync(io::Op& op) override;
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
    bool alone = false;  // it is the flush that is in flight
  };
  DurableOp& take_durable();
  void on_written(DurableOp& durable, int result);
  void wait_for_flush(io::Op& op);
  void start_if_due();
  void flushed(int result);

  std::unique_ptr<io::File> inner_;
  SyncOp sync_;
  std::vector<std::unique_ptr<DurableOp>> durable_;  // as many as were ever in flight at once
  std::vector<DurableOp*> idle_;
  bool flushing_ = false;      // a sync, or a durable write that is alone, is in flight
  io::Op* running_ = nullptr;  // who it is for
  io::Op* waiting_ = nullptr;  // who needs one that starts from here on
  bool asked_ = false;         // one of them called sync()
  uint32_t written_ = 0;       // of them, durable writes
  uint32_t writing_ = 0;       // durable writes, not alone, that are in flight
  int failed_ = 0;
};

}  // namespace foreshadow::volume
