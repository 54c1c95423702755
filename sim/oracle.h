#pragma once
// What a volume may hold: the reference that every read, and every recovered volume, is held against.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sim/disk.h"

namespace foreshadow::sim {

// For each 512-byte sector, the set of values it may have. Every operation is an interval of the oracle's own
// clock, from its submission to its acknowledgement. An acknowledged operation w *supersedes* an earlier v of
// the same sector when v had ended before w was submitted; two that overlap may have taken effect in either
// order.
//   A read may give any value but those superseded by an operation that had ended when the read was
//   submitted. After a crash a sector has any value but those superseded by an operation that a flush covers:
//   it had been acknowledged when the flush was submitted, and the flush was acknowledged. FUA makes an
//   operation its own flush. An operation that failed, was in flight at the crash, or trims part of a
//   sub-block, may have happened, and supersedes nothing. A value seen when nothing is in flight, or after
//   recovery, is the only one from then on: nothing comes back.
//
// Written sectors are filled with a stamp of volume, own address, operation and writer, so that a wrong value
// names its source.
class Oracle {
 public:
  using OpId = uint32_t;  // 0 is the blank volume
  Oracle(uint64_t bytes, uint32_t sub_block, uint16_t volume);

  uint64_t bytes() const { return sectors_.size() * kSector; }
  uint32_t clock() const { return clock_; }

  OpId begin_write(uint64_t offset, uint64_t length, uint16_t writer);
  OpId begin_zero(uint64_t offset, uint64_t length);
  OpId begin_trim(uint64_t offset, uint64_t length);
  // The contents of write `id`, all of it.
  void fill(OpId id, std::span<std::byte> data) const;
  // `durable`: it was sent with FUA. `ok` false: it may have happened.
  void end(OpId id, bool ok, bool durable);

  // Reads and flushes are named by the clock at their submission.
  uint32_t begin_read();
  void end_read(uint32_t submitted);
  uint32_t begin_flush() { return ++clock_; }
  void end_flush(uint32_t submitted);
  // What is wrong with `data`, read at `offset` by a read submitted then and ending now; nothing if all is
  // well.
  std::optional<std::string> check_read(uint32_t submitted, uint64_t offset, std::span<const std::byte> data);

  // The power is off: what is in flight ends, maybe done.
  void crash();
  // As check_read for what was read back after recovery, with nothing else in flight. What is seen is from
  // now on the only value.
  std::optional<std::string> check_recovered(uint64_t offset, std::span<const std::byte> data);

  // The volume grew, by zeroes.
  void grow(uint64_t bytes) { sectors_.resize(bytes / kSector); }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  enum class Kind : uint8_t { kWrite, kZero, kTrim };
  struct Operation {
    uint64_t offset = 0;
    uint64_t length = 0;
    uint32_t submitted = 0;
    uint32_t ended = kNone;  // kNone: in flight
    uint16_t writer = 0;
    Kind kind = Kind::kZero;
    bool ok = true;
  };
  // One operation's value in one sector.
  struct Node {
    OpId op;
    uint32_t next;
    bool partial;   // a trim that may leave the old value
    bool excluded;  // not after a crash; kept for reads that are still in flight
  };
  struct Sector {
    OpId base = 0;
    uint32_t head = kNone;
    OpId seen = 0;             // the value of the last read with nothing in flight ...
    uint32_t seen_at = kNone;  // ... and when; kNone: none since the last change
    bool base_excluded = false;
    bool dirty = false;  // is in dirty_
  };
  struct Value {
    enum Kind : uint8_t { kZero, kStamp, kGarbage } kind = kGarbage;
    uint32_t lba = 0;
    OpId op = 0;
    uint16_t writer = 0, volume = 0;
  };

  OpId begin(Kind kind, uint64_t offset, uint64_t length, uint16_t writer);
  void add_node(uint64_t lba, OpId op, bool partial);
  Value decode(std::span<const std::byte> sector) const;
  bool is_value_of(const Value& value, uint64_t lba, OpId op) const;
  bool superseded(const Sector& sector, OpId op, uint32_t by_ended_before) const;
  uint32_t oldest_read() const;
  void exclude(Sector& sector, uint32_t ended_before, OpId only);
  void settle(Sector& sector);
  OpId match_read(const Sector& sector, uint64_t lba, const Value& value, uint32_t submitted) const;
  std::string describe(const Value& value) const;
  std::string describe_op(OpId op) const;
  std::string complain(const char* when, uint64_t lba, const Value& value, std::optional<OpId> only) const;

  uint32_t sub_block_;
  uint16_t volume_;
  uint32_t clock_ = 0;
  uint32_t crashed_at_ = 0;
  std::vector<Sector> sectors_;
  std::vector<Operation> ops_;
  std::vector<OpId> in_flight_;
  std::vector<uint32_t> reads_;  // submissions of those in flight
  std::vector<Node> nodes_;
  uint32_t free_nodes_ = kNone;
  std::vector<uint32_t> dirty_;  // sectors with nodes
};

}  // namespace foreshadow::sim
