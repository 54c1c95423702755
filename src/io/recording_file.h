#pragma once
// A file that notes what is done to it, in order: what a power cut could have left is worked out from the
// notes.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "io/file.h"

namespace foreshadow::io {

// What several files and their user did, in the order in which the executor's one thread saw it. A write that
// has begun and not ended may be on the disk in part; one that has ended is durable when a sync of its file
// that began later has ended well, or when it is a durable write.
struct IoEvent {
  enum class Kind : uint8_t { kWriteBegan, kWriteEnded, kSyncBegan, kSyncEnded, kResized, kMark };
  Kind kind = Kind::kMark;
  bool durable = false;  // kWriteBegan, kWriteEnded: a durable write
  uint32_t file = 0;
  uint64_t call = 0;            // the same when it begins and when it ends; kMark: the user's number
  uint64_t offset = 0;          // kResized: the new size
  int result = 0;               // when it ended
  std::vector<std::byte> data;  // kWriteBegan
};

// Files of one executor note into it, from its thread or from where it offloads to.
class IoLog {
 public:
  void add(IoEvent event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  // A note of the user's own, between those of the files.
  void mark(uint64_t number) { add({IoEvent::Kind::kMark, false, 0, number, 0, 0, {}}); }
  uint64_t next_call() { return ++calls_; }
  // All of it; once nothing is in flight.
  std::vector<IoEvent> take() { return std::move(events_); }

 private:
  std::mutex mutex_;
  std::vector<IoEvent> events_;  // guarded by mutex_
  uint64_t calls_ = 0;
};

// Passes every call on. The log outlives the file. For tests and diagnosis: every write is copied.
class RecordingFile final : public File {
 public:
  RecordingFile(std::unique_ptr<File> inner, IoLog& log, uint32_t number);
  ~RecordingFile() override;

  void read(Op& op, uint64_t offset, std::span<std::byte> into) override { inner_->read(op, offset, into); }
  void write(Op& op, uint64_t offset, std::span<const std::byte> from) override;
  void write_durable(Op& op, uint64_t offset, std::span<const std::byte> from) override;
  void sync(Op& op) override;
  uint64_t size() const override { return inner_->size(); }
  bool in_memory() const override { return inner_->in_memory(); }
  uint32_t alignment() const override { return inner_->alignment(); }
  Status resize(uint64_t bytes) override;

 private:
  // A call on its way, beside the caller's own op.
  struct Call : Op {
    RecordingFile* file = nullptr;
    Op* outer = nullptr;
    IoEvent end;
  };
  Call& begin(Op& op, IoEvent::Kind kind, bool durable, uint64_t offset, std::span<const std::byte> from);
  void on_done(Call& call, int result);

  std::unique_ptr<File> inner_;
  IoLog& log_;
  uint32_t number_;
  std::vector<std::unique_ptr<Call>> calls_;
  std::vector<Call*> idle_;
};

}  // namespace foreshadow::io
