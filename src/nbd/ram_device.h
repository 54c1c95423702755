#pragma once
// Test and benchmark support: a BlockDevice over memory that knows its holes. Not part of the product.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "block/block_device.h"
#include "io/executor.h"

namespace foreshadow::nbd {

// Executes each request at once and completes it from the executor, all of a turn together. Tests can hold
// completions back, turn their order round, or make requests fail. Owned by the test; lives on the executor's
// thread.
class RamDevice final : public block::BlockDevice {
 public:
  static constexpr uint64_t kBlock = 4096;

  RamDevice(io::Executor& executor, uint64_t size)
      : executor_(executor),
        bytes_(static_cast<std::byte*>(std::calloc(1, size))),
        allocated_(div_up(size, kBlock), 0) {
    ASSERT(bytes_ != nullptr);
    info_.size = size;
  }
  ~RamDevice() override { ASSERT(head_ == nullptr && !posted_); }

  // Knobs.
  block::DeviceInfo info_;     // tests may change it; `size` only downwards from what was allocated
  bool hold = false;           // keep completions until release()
  bool newest_first = false;   // complete in the opposite order
  Code fail_with = Code::kOk;  // every request fails with this
  bool at_once = false;        // read_now() and write_now() do what they are asked
  // Counters.
  uint64_t flushes = 0;
  uint64_t durable_requests = 0;  // with FUA
  uint64_t submitted = 0;
  uint64_t done_at_once = 0;
  uint64_t unflushed_writes = 0;  // completed since the last flush
  uint64_t misaligned = 0;        // requests whose memory a disk would not take

  void release() {
    hold = false;
    post();
  }
  void allocate(uint64_t block) { allocated_[block] = 1; }
  size_t waiting() const {
    size_t n = 0;
    for (const block::Request* r = head_; r != nullptr; r = r->next) n++;
    return n;
  }

  block::DeviceInfo info() const override { return info_; }

  void submit(block::Request& request) override {
    submitted++;
    request.next = nullptr;
    if (newest_first) {
      request.next = std::exchange(head_, &request);
      if (tail_ == nullptr) tail_ = &request;
    } else {
      (head_ == nullptr ? head_ : tail_->next) = &request;
      tail_ = &request;
    }
    post();
  }

  bool read_now(uint64_t offset, std::span<std::byte> data) override {
    if (!at_once) return false;
    done_at_once++;
    std::memcpy(data.data(), bytes_.get() + offset, data.size());
    return true;
  }
  bool write_now(uint64_t offset, std::span<const std::byte> data) override {
    if (!at_once) return false;
    done_at_once++;
    std::memcpy(bytes_.get() + offset, data.data(), data.size());
    mark(align_down(offset, kBlock), align_up(offset + data.size(), kBlock), 1);
    return true;
  }

  std::vector<block::Extent> extents(uint64_t offset, uint64_t length, size_t max_extents) const override {
    std::vector<block::Extent> out;
    for (uint64_t at = offset; at < offset + length;) {
      const uint64_t end = std::min(align_down(at, kBlock) + kBlock, offset + length);
      const bool hole = allocated_[at / kBlock] == 0;
      if (!out.empty() && out.back().hole == hole) {
        out.back().length += end - at;
      } else {
        if (out.size() == max_extents) break;
        out.push_back({end - at, hole});
      }
      at = end;
    }
    return out;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };

  void post() {
    if (posted_ || hold || head_ == nullptr) return;
    posted_ = true;
    executor_.post(complete_op_);
  }

  void on_complete(int) {
    posted_ = false;
    if (hold) return;
    block::Request* request = std::exchange(head_, nullptr);
    tail_ = nullptr;
    while (request != nullptr) {
      block::Request* next = std::exchange(request->next, nullptr);
      request->done(request, run(*request));
      request = next;
    }
  }

  Code run(block::Request& r) {
    if (fail_with != Code::kOk) return fail_with;
    if (r.offset > info_.size || r.length > info_.size - r.offset) {
      return r.kind == block::OpKind::kRead ? Code::kInvalidArgument : Code::kNoSpace;
    }
    const bool carries = r.kind == block::OpKind::kRead || r.kind == block::OpKind::kWrite;
    if (carries) {
      ASSERT(r.data.size() == r.length && r.length <= limits::kNbdRequestBytes);
      if (std::bit_cast<uintptr_t>(r.data.data()) % kBlock != 0) misaligned++;
    }
    if (r.fua) durable_requests++;
    switch (r.kind) {
      case block::OpKind::kRead:
        std::memcpy(r.data.data(), bytes_.get() + r.offset, r.length);
        if (!any_allocated(r.offset, r.length)) r.read_all_zero = true;  // else as it came
        return Code::kOk;
      case block::OpKind::kWrite:
        std::memcpy(bytes_.get() + r.offset, r.data.data(), r.length);
        mark(align_down(r.offset, kBlock), align_up(r.offset + r.length, kBlock), 1);
        unflushed_writes++;
        return Code::kOk;
      case block::OpKind::kZero:
        if (r.fast_zero && (r.offset % kBlock != 0 || r.length % kBlock != 0)) return Code::kUnsupported;
        clear(r.offset, r.length);
        if (r.no_hole)
          mark(align_down(r.offset, kBlock), align_up(r.offset + r.length, kBlock), 1);
        else
          mark(align_up(r.offset, kBlock), align_down(r.offset + r.length, kBlock), 0);
        unflushed_writes++;
        return Code::kOk;
      case block::OpKind::kTrim: {
        const uint64_t from = align_up(r.offset, kBlock);
        const uint64_t to = align_down(r.offset + r.length, kBlock);
        if (from < to) clear(from, to - from);
        mark(from, to, 0);
        return Code::kOk;
      }
      case block::OpKind::kFlush:
        flushes++;
        unflushed_writes = 0;
        return Code::kOk;
    }
    return Code::kInternal;
  }

  bool any_allocated(uint64_t offset, uint64_t length) const {
    for (uint64_t b = offset / kBlock; b * kBlock < offset + length; b++) {
      if (allocated_[b] != 0) return true;
    }
    return false;
  }
  // Memory of holes is zero already, and is not touched so that it need not exist.
  void clear(uint64_t offset, uint64_t length) {
    for (uint64_t at = offset; at < offset + length;) {
      const uint64_t end = std::min(align_down(at, kBlock) + kBlock, offset + length);
      if (allocated_[at / kBlock] != 0) std::memset(bytes_.get() + at, 0, end - at);
      at = end;
    }
  }
  void mark(uint64_t from, uint64_t to, uint8_t value) {
    for (uint64_t b = from / kBlock; b * kBlock < to; b++) allocated_[b] = value;
  }

  io::Executor& executor_;
  std::unique_ptr<std::byte, Free> bytes_;
  std::vector<uint8_t> allocated_;  // one per block
  block::Request* head_ = nullptr;
  block::Request* tail_ = nullptr;
  bool posted_ = false;
  io::MemberOp<RamDevice, &RamDevice::on_complete> complete_op_{this};
};

}  // namespace foreshadow::nbd
