#pragma once
// The narrow waist between front ends (NBD today; ublk, vhost-user later) and what serves them.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/types.h"

namespace foreshadow::block {

enum class OpKind : uint8_t { kRead, kWrite, kZero, kTrim, kFlush };

// One request. The front end owns it, and its memory, until `done`; the device keeps its own state in
// `device_state`. Zero and trim take any length; read and write at most limits::kNbdRequestBytes.
struct Request {
  using Done = void (*)(Request* request, Code code);

  OpKind kind = OpKind::kRead;
  bool fua = false;        // kWrite, kZero, kTrim: durable before done
  bool no_hole = false;    // kZero: the range must stay allocated afterwards
  bool fast_zero = false;  // kZero: fail with kUnsupported rather than write zeros
  uint64_t offset = 0;
  uint64_t length = 0;
  std::span<std::byte>
      data;  // kRead, kWrite: `length` bytes. Starts on 4 KiB memory, so that it can go to a disk as it is.
  Done done = nullptr;  // called exactly once, from the executor, never from inside submit()

  bool read_all_zero =
      false;  // out, kRead: nothing is stored in the range; `data` was zero-filled all the same

  Request* next = nullptr;       // free for the current owner
  void* device_state = nullptr;  // free for the device while it has the request
  MonoTime submitted_at{};       // set by the device, for latency
};

// A run of bytes with one allocation status.
struct Extent {
  uint64_t length = 0;
  bool hole = false;  // nothing stored here; reads as zero
};

struct DeviceInfo {
  uint64_t size = 0;  // bytes; may grow, never shrinks
  uint32_t preferred_block = 4096;
  bool read_only = false;
  std::string description;
};

// Runs on one executor; not thread-safe. Requests may complete in any order. Semantics are those of a disk
// with a volatile cache: kFlush completes when every request that completed before it was submitted is
// durable, whichever front end or connection it came from.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  virtual DeviceInfo info() const = 0;
  // Takes the request. Ranges past the end complete with kNoSpace (writes) or kInvalidArgument (the rest).
  virtual void submit(Request& request) = 0;
  // A read or a write, done inside the call where nothing has to be waited for: no queue, no lock, no disk. A
  // write done so is durable with the next flush. `data` may lie anywhere in memory. False: not here or not
  // now; what `data` or the range hold then is open, until submit() has done the same.
  virtual bool read_now(uint64_t /*offset*/, std::span<std::byte> /*data*/) { return false; }
  virtual bool write_now(uint64_t /*offset*/, std::span<const std::byte> /*data*/) { return false; }
  // Allocation status from `offset`, `offset + length <= size`: at most `max_extents` runs, coalesced,
  // covering a prefix of the range (all of it when max_extents allows), never more.
  virtual std::vector<Extent> extents(uint64_t offset, uint64_t length, size_t max_extents) const = 0;
};

}  // namespace foreshadow::block
