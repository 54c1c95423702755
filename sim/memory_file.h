#pragma once
// A file over bytes that its owner keeps: for recovering one image after another, at memory speed.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "base/assert.h"
#include "base/error.h"
#include "io/file.h"
#include "sim/scheduler.h"

namespace foreshadow::sim {

// What is written is there at once, and is never lost. Owns nothing: bytes and scheduler outlive it.
class MemoryFile final : public io::File, private Device {
 public:
  MemoryFile(Scheduler& scheduler, std::span<std::byte> bytes) : scheduler_(scheduler), bytes_(bytes) {}

  void read(io::Op& op, uint64_t offset, std::span<std::byte> into) override {
    start(op, kRead, offset, into.data(), into.size());
  }
  void write(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    // An Op has one data pointer for both directions; a write never stores through it.
    start(op, kWrite, offset, const_cast<std::byte*>(from.data()), from.size());
  }
  void write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    write(op, offset, from);
  }
  void sync(io::Op& op) override { start(op, kSync, 0, nullptr, 0); }
  uint64_t size() const override { return bytes_.size(); }
  uint32_t alignment() const override { return 512; }
  Status resize(uint64_t) override { return fail(Code::kUnsupported, "the bytes are not its own"); }

  uint64_t calls = 0;  // so far; what it costs to recover is bounded by it

 private:
  enum Kind : uint8_t { kRead, kWrite, kSync };
  void start(io::Op& op, Kind kind, uint64_t offset, std::byte* data, size_t length) {
    ASSERT(offset <= bytes_.size() && length <= bytes_.size() - offset);
    op.kind = kind;
    op.offset = offset;
    op.data = data;
    op.length = static_cast<uint32_t>(length);
    ++calls;
    scheduler_.start(op, *this);
  }
  int finish(io::Op& op) override {
    const auto here = bytes_.subspan(op.offset, op.length);
    if (op.kind == kRead) std::memcpy(op.data, here.data(), op.length);
    if (op.kind == kWrite) std::memcpy(here.data(), op.data, op.length);
    return 0;
  }

  Scheduler& scheduler_;
  std::span<std::byte> bytes_;
};

}  // namespace foreshadow::sim
