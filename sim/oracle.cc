#include "sim/oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/assert.h"
#include "base/codec.h"
#include "base/types.h"

namespace foreshadow::sim {
namespace {

constexpr size_t kStamp = 16;

uint32_t seal(uint32_t lba, uint32_t op, uint32_t rest) {
  uint64_t z = (uint64_t{lba} << 32 | op) ^ uint64_t { rest } * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 31)) * 0xbf58476d1ce4e5b9ull;
  return static_cast<uint32_t>(z >> 32) | 1;  // never zero, so that a stamp never is
}

// True if the sector is one 16-byte pattern over and over.
bool repeats(std::span<const std::byte> sector) {
  return std::memcmp(sector.data(), sector.data() + kStamp, kSector - kStamp) == 0;
}

}  // namespace

Oracle::Oracle(uint64_t bytes, uint32_t sub_block, uint16_t volume)
    : sub_block_(sub_block), volume_(volume), sectors_(bytes / kSector), ops_(1) {
  ops_[0].ended = 0;
}

Oracle::OpId Oracle::begin(Kind kind, uint64_t offset, uint64_t length, uint16_t writer) {
  ASSERT(offset % kSector == 0 && length % kSector == 0 && offset + length <= bytes());
  const auto id = static_cast<OpId>(ops_.size());
  Operation op;
  op.offset = offset;
  op.length = length;
  op.submitted = ++clock_;
  op.writer = writer;
  op.kind = kind;
  ops_.push_back(op);
  in_flight_.push_back(id);
  return id;
}

void Oracle::add_node(uint64_t lba, OpId op, bool partial) {
  uint32_t index = free_nodes_;
  if (index == kNone) {
    index = static_cast<uint32_t>(nodes_.size());
    nodes_.emplace_back();
  } else {
    free_nodes_ = nodes_[index].next;
  }
  Sector& sector = sectors_[lba];
  nodes_[index] = {op, sector.head, partial, false};
  sector.head = index;
  sector.seen_at = kNone;
  if (!sector.dirty) dirty_.push_back(static_cast<uint32_t>(lba));
  sector.dirty = true;
}

Oracle::OpId Oracle::begin_write(uint64_t offset, uint64_t length, uint16_t writer) {
  const OpId id = begin(Kind::kWrite, offset, length, writer);
  for (uint64_t at = 0; at < length; at += kSector) add_node((offset + at) / kSector, id, false);
  return id;
}

Oracle::OpId Oracle::begin_zero(uint64_t offset, uint64_t length) {
  const OpId id = begin(Kind::kZero, offset, length, 0);
  for (uint64_t at = 0; at < length; at += kSector) add_node((offset + at) / kSector, id, false);
  return id;
}

Oracle::OpId Oracle::begin_trim(uint64_t offset, uint64_t length) {
  const OpId id = begin(Kind::kTrim, offset, length, 0);
  const uint64_t whole_from = align_up(offset, sub_block_);
  const uint64_t whole_to = align_down(offset + length, sub_block_);
  for (uint64_t at = offset; at < offset + length; at += kSector) {
    add_node(at / kSector, id, at < whole_from || at >= whole_to);
  }
  return id;
}

void Oracle::fill(OpId id, std::span<std::byte> data) const {
  const Operation& op = ops_[id];
  ASSERT(data.size() == op.length);
  std::array<std::byte, kStamp> stamp;
  for (size_t at = 0; at < data.size(); at += kSector) {
    DiskWriter out(stamp);
    const auto lba = static_cast<uint32_t>((op.offset + at) / kSector);
    out.u32(lba);
    out.u32(id);
    out.u16(op.writer);
    out.u16(volume_);
    out.u32(seal(lba, id, uint32_t{op.writer} << 16 | volume_));
    std::byte* to = data.data() + at;
    std::memcpy(to, stamp.data(), kStamp);
    for (size_t have = kStamp; have < kSector; have *= 2) std::memcpy(to + have, to, have);
  }
}

Oracle::Value Oracle::decode(std::span<const std::byte> sector) const {
  Value out;
  if (!repeats(sector)) return out;
  DiskReader in(sector.first(kStamp));
  out.lba = in.u32();
  out.op = in.u32();
  out.writer = in.u16();
  out.volume = in.u16();
  const uint32_t sealed = in.u32();
  if (sealed == seal(out.lba, out.op, uint32_t{out.writer} << 16 | out.volume)) {
    out.kind = Value::kStamp;
  } else if (sealed == 0 && out.lba == 0 && out.op == 0 && out.writer == 0 && out.volume == 0) {
    out.kind = Value::kZero;
  }
  return out;
}

bool Oracle::is_value_of(const Value& value, uint64_t lba, OpId op) const {
  if (ops_[op].kind != Kind::kWrite) return value.kind == Value::kZero;
  return value.kind == Value::kStamp && value.op == op && value.lba == lba && value.volume == volume_ &&
         value.writer == ops_[op].writer;
}

// Whether some operation of the sector that ended before `by_ended_before` supersedes `op`.
bool Oracle::superseded(const Sector& sector, OpId op, uint32_t by_ended_before) const {
  for (uint32_t i = sector.head; i != kNone; i = nodes_[i].next) {
    const Operation& by = ops_[nodes_[i].op];
    // What was acknowledged before a crash says nothing of what came through it.
    if (by.submitted <= crashed_at_ || nodes_[i].partial || !by.ok || by.ended >= by_ended_before ||
        ops_[op].ended >= by.submitted)
      continue;
    return true;
  }
  return false;
}

void Oracle::end(OpId id, bool ok, bool durable) {
  Operation& op = ops_[id];
  ASSERT(op.ended == kNone);
  op.ended = ++clock_;
  op.ok = ok;
  std::erase(in_flight_, id);
  if (!ok || !durable) return;
  for (uint64_t at = 0; at < op.length; at += kSector)
    exclude(sectors_[(op.offset + at) / kSector], kNone, id);
}

uint32_t Oracle::begin_read() {
  reads_.push_back(++clock_);
  return clock_;
}

void Oracle::end_read(uint32_t submitted) {
  const auto found = std::find(reads_.begin(), reads_.end(), submitted);
  ASSERT(found != reads_.end());
  *found = reads_.back();
  reads_.pop_back();
}

uint32_t Oracle::oldest_read() const {
  return reads_.empty() ? kNone : *std::min_element(reads_.begin(), reads_.end());
}

void Oracle::end_flush(uint32_t submitted) {
  size_t kept = 0;
  for (const uint32_t lba : dirty_) {
    Sector& sector = sectors_[lba];
    exclude(sector, submitted, kNone);
    sector.dirty = sector.head != kNone;
    if (sector.dirty) dirty_[kept++] = lba;
  }
  dirty_.resize(kept);
}

// Excludes from what a crash may leave all that is superseded by operation `only`, or if that is kNone by any
// that ended before `ended_before`; forgets what no read in flight may see either.
void Oracle::exclude(Sector& sector, uint32_t ended_before, OpId only) {
  // All are judged before any is forgotten, or one that supersedes might be gone before its turn.
  bool partial = false;
  for (uint32_t i = sector.head; i != kNone; i = nodes_[i].next)
    partial |= nodes_[i].op == only && nodes_[i].partial;
  const auto judge = [&](OpId op) {
    if (only == kNone) return superseded(sector, op, ended_before);
    return !partial && ops_[op].ended < ops_[only].submitted;
  };
  sector.base_excluded = sector.base_excluded || judge(sector.base);
  for (uint32_t i = sector.head; i != kNone; i = nodes_[i].next) {
    nodes_[i].excluded = nodes_[i].excluded || judge(nodes_[i].op);
  }
  for (uint32_t* link = &sector.head; *link != kNone;) {
    Node& node = nodes_[*link];
    if (node.excluded && superseded(sector, node.op, oldest_read())) {
      const uint32_t index = *link;
      *link = node.next;
      node.next = free_nodes_;
      free_nodes_ = index;
    } else {
      link = &node.next;
    }
  }
  settle(sector);
}

// A sector whose one value left is decided needs no list.
void Oracle::settle(Sector& sector) {
  const uint32_t head = sector.head;
  if (head == kNone || nodes_[head].next != kNone || nodes_[head].partial || !sector.base_excluded) return;
  const Operation& op = ops_[nodes_[head].op];
  if (!op.ok || op.ended == kNone || !superseded(sector, sector.base, oldest_read())) return;
  sector.base = nodes_[head].op;
  sector.base_excluded = false;
  nodes_[head].next = free_nodes_;
  free_nodes_ = head;
  sector.head = kNone;
}

Oracle::OpId Oracle::match_read(const Sector& sector, uint64_t lba, const Value& value,
                                uint32_t submitted) const {
  if (is_value_of(value, lba, sector.base) && !superseded(sector, sector.base, submitted)) return sector.base;
  for (uint32_t i = sector.head; i != kNone; i = nodes_[i].next) {
    const OpId op = nodes_[i].op;
    if (is_value_of(value, lba, op) && !superseded(sector, op, submitted)) return op;
  }
  return kNone;
}

std::optional<std::string> Oracle::check_read(uint32_t submitted, uint64_t offset,
                                              std::span<const std::byte> data) {
  for (size_t at = 0; at < data.size(); at += kSector) {
    const uint64_t lba = (offset + at) / kSector;
    Sector& sector = sectors_[lba];
    const Value value = decode(data.subspan(at, kSector));
    if (sector.seen_at != kNone && submitted >= sector.seen_at) {
      if (!is_value_of(value, lba, sector.seen)) return complain("a repeated read", lba, value, sector.seen);
      continue;
    }
    const OpId op = match_read(sector, lba, value, submitted);
    if (op == kNone) return complain("a read", lba, value, std::nullopt);
    bool quiet = true;
    for (uint32_t i = sector.head; i != kNone; i = nodes_[i].next)
      quiet = quiet && ops_[nodes_[i].op].ended < submitted;
    if (quiet && sector.seen_at == kNone) {
      sector.seen = op;
      sector.seen_at = clock_ + 1;
    }
  }
  return std::nullopt;
}

void Oracle::crash() {
  ++clock_;
  for (const OpId id : in_flight_) {
    ops_[id].ended = clock_;
    ops_[id].ok = false;
  }
  crashed_at_ = clock_;
  in_flight_.clear();
  reads_.clear();
  for (Sector& sector : sectors_) sector.seen_at = kNone;
}

std::optional<std::string> Oracle::check_recovered(uint64_t offset, std::span<const std::byte> data) {
  for (size_t at = 0; at < data.size(); at += kSector) {
    const uint64_t lba = (offset + at) / kSector;
    Sector& sector = sectors_[lba];
    const Value value = decode(data.subspan(at, kSector));
    OpId found = kNone;
    if (!sector.base_excluded && is_value_of(value, lba, sector.base)) found = sector.base;
    for (uint32_t i = sector.head; i != kNone && found == kNone; i = nodes_[i].next) {
      if (!nodes_[i].excluded && is_value_of(value, lba, nodes_[i].op)) found = nodes_[i].op;
    }
    if (found == kNone) return complain("recovery", lba, value, std::nullopt);
    while (sector.head != kNone) {
      const uint32_t index = sector.head;
      sector.head = nodes_[index].next;
      nodes_[index].next = free_nodes_;
      free_nodes_ = index;
    }
    // A zero of unknown origin is the zero of the blank volume: both supersede nothing and precede all.
    sector.base = value.kind == Value::kZero ? 0 : found;
    sector.base_excluded = false;
    sector.dirty = false;
  }
  std::erase_if(dirty_, [&](uint32_t lba) { return !sectors_[lba].dirty; });
  return std::nullopt;
}

// ---- words

std::string Oracle::describe(const Value& value) const {
  if (value.kind == Value::kZero) return "zero";
  if (value.kind == Value::kGarbage) return "bytes that nobody wrote";
  return fmt::format("op {} of writer {} for sector {}{}", value.op, value.writer, value.lba,
                     value.volume == volume_ ? "" : fmt::format(" of volume {}", value.volume));
}

std::string Oracle::describe_op(OpId op) const {
  const Operation& o = ops_[op];
  if (op == 0) return "zero (blank)";
  static constexpr const char* kNames[] = {"write", "zero", "trim"};
  const std::string until =
      o.ended == kNone ? "in flight" : fmt::format("{}{}", o.ended, o.ok ? "" : " failed");
  return fmt::format("{} op {} [{}+{}] time {}..{}", kNames[static_cast<size_t>(o.kind)], op,
                     o.offset / kSector, o.length / kSector, o.submitted, until);
}

std::string Oracle::complain(const char* when, uint64_t lba, const Value& value,
                             std::optional<OpId> only) const {
  const Sector& sector = sectors_[lba];
  std::string allowed;
  const auto add = [&](OpId op, const char* note) {
    allowed += (allowed.empty() ? "" : "; ") + describe_op(op) + note;
  };
  if (only) {
    add(*only, " as seen before");
  } else {
    add(sector.base, sector.base_excluded ? " (base, superseded by a flush)" : " (base)");
    for (uint32_t i = sector.head; i != kNone; i = nodes_[i].next) {
      add(nodes_[i].op, nodes_[i].excluded  ? " (superseded by a flush)"
                        : nodes_[i].partial ? " (partial)"
                                            : "");
    }
  }
  std::string origin;
  if (value.kind == Value::kStamp && value.op < ops_.size()) origin = " (" + describe_op(value.op) + ")";
  return fmt::format("{} of sector {} at time {} gave {}{}; known: {}", when, lba, clock_, describe(value),
                     origin, allowed);
}

}  // namespace foreshadow::sim
