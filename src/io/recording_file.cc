#include "io/recording_file.h"

#include <utility>

#include "base/assert.h"

namespace foreshadow::io {

RecordingFile::RecordingFile(std::unique_ptr<File> inner, IoLog& log, uint32_t number)
    : inner_(std::move(inner)), log_(log), number_(number) {}

RecordingFile::~RecordingFile() {
  ASSERT(idle_.size() == calls_.size());
}

RecordingFile::Call& RecordingFile::begin(Op& op, IoEvent::Kind kind, bool durable, uint64_t offset,
                                          std::span<const std::byte> from) {
  if (idle_.empty()) {
    idle_.push_back(calls_.emplace_back(std::make_unique<Call>()).get());
    idle_.back()->file = this;
    idle_.back()->done = [](Op* done, int result) {
      auto* call = static_cast<Call*>(done);
      call->file->on_done(*call, result);
    };
  }
  Call& call = *idle_.back();
  idle_.pop_back();
  call.outer = &op;
  const bool writes = kind == IoEvent::Kind::kWriteBegan;
  call.end = {writes ? IoEvent::Kind::kWriteEnded : IoEvent::Kind::kSyncEnded,
              durable,
              number_,
              log_.next_call(),
              offset,
              0,
              {}};
  log_.add({kind, durable, number_, call.end.call, offset, 0, {from.begin(), from.end()}});
  return call;
}

void RecordingFile::write(Op& op, uint64_t offset, std::span<const std::byte> from) {
  inner_->write(begin(op, IoEvent::Kind::kWriteBegan, false, offset, from), offset, from);
}

void RecordingFile::write_durable(Op& op, uint64_t offset, std::span<const std::byte> from) {
  inner_->write_durable(begin(op, IoEvent::Kind::kWriteBegan, true, offset, from), offset, from);
}

void RecordingFile::sync(Op& op) {
  inner_->sync(begin(op, IoEvent::Kind::kSyncBegan, false, 0, {}));
}

Status RecordingFile::resize(uint64_t bytes) {
  TRY(inner_->resize(bytes));
  log_.add({IoEvent::Kind::kResized, true, number_, 0, bytes, 0, {}});
  return {};
}

void RecordingFile::on_done(Call& call, int result) {
  call.end.result = result;
  log_.add(std::move(call.end));
  Op* outer = std::exchange(call.outer, nullptr);
  idle_.push_back(&call);
  outer->done(outer, result);  // may be the last use of this file
}

}  // namespace foreshadow::io
