#pragma once
// A disk with a volatile cache: loses, tears and reorders as much as io/file.h allows, faults on demand.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "io/file.h"
#include "sim/scheduler.h"

namespace foreshadow::sim {

inline constexpr uint32_t kSector = 512;  // what a crash leaves whole

// Bytes of a disk in 4 KiB pages; a page never written is zero and takes no memory.
class PageStore {
 public:
  explicit PageStore(uint64_t bytes) : pages_((bytes + kPage - 1) / kPage) {}
  PageStore(PageStore&&) = default;
  PageStore(const PageStore& other) : pages_(other.pages_.size()) { copy_from(other); }
  PageStore& operator=(const PageStore&) = delete;
  void read(uint64_t offset, std::span<std::byte> into) const;
  void write(uint64_t offset, std::span<const std::byte> from);
  void copy_range(const PageStore& from, uint64_t offset, uint64_t length);
  void copy_from(const PageStore& other);
  // Room up to `bytes`; reads as zero from `from` on.
  void cut(uint64_t from, uint64_t bytes);
  uint32_t crc() const;

 private:
  static constexpr uint64_t kPage = 4096;
  using Page = std::array<std::byte, kPage>;
  std::vector<std::unique_ptr<Page>> pages_;
};

// Which call fails, counted from 1 over the life of the disk; 0 is never. `persistent`: so do all after it.
struct Faults {
  uint64_t read_at = 0, write_at = 0, sync_at = 0;
  bool persistent = false;
  uint64_t phantom_at = 0;    // this write is acknowledged and goes nowhere
  uint64_t misdirect_at = 0;  // this write lands at `misdirect_to`
  uint64_t misdirect_to = 0;
  uint64_t misled_from = 0;  // of these two: or the first one after it that goes to this offset or past it
  uint64_t slow_at = 0;      // this call takes `slow_by` of virtual time
  Nanos slow_by{};
  Nanos slow_reads{};  // a quarter of all reads take up to this
};

// One call that fails, counted over all the disks that share it: the way to have every call fail once.
struct CallFault {
  enum class Kind : uint8_t { kNone, kRead, kWrite, kSync };
  uint64_t at = 0;  // 0: never
  int error = 0;    // errno
  bool persistent = false;
  bool armed = true;       // calls are counted, and may fail
  uint64_t calls = 0;      // so far
  Kind met = Kind::kNone;  // what the first call that failed was
  uint64_t injected = 0;   // calls that failed
};

struct DiskCounts {
  uint64_t reads = 0, writes = 0, syncs = 0;
  uint64_t failed_reads = 0, failed_writes = 0, failed_syncs = 0, misled = 0;
};

// The platter and its cache. A completed write is visible, and pending until a sync that was issued after it
// completed succeeds; a durable write is pending only while in flight. power_off() decides for every 512-byte
// sector which of the durable value and the pending ones it keeps; from then on every call fails and changes
// nothing, until power_on().
//
// A failed sync leaves each write it covered either pending, or forgotten: visible until the power goes, but
// never durable, as a kernel that marks the pages clean. A failed write has reached any of its sectors.
//
// Lives as long as the scheduler's operations on it. Files opened from it fail for ever once the power was
// off.
class Disk final : public Device {
 public:
  Disk(Scheduler& scheduler, Rng& rng, uint64_t size, uint32_t alignment);
  // A disk that holds this, durably.
  Disk(Scheduler& scheduler, Rng& rng, PageStore content, uint64_t size);
  // The disk as it is after a power cut that kept exactly the sectors chosen, for enumeration; see
  // undecided().
  Disk(Scheduler& scheduler, const Disk& other, std::span<const uint8_t> kept);

  std::unique_ptr<io::File> open();
  uint64_t size() const { return size_; }
  uint32_t alignment() const { return alignment_; }

  void power_off();
  // The process dies and the cache lives: what was completed stays visible and pending, what was in flight
  // has reached any of its sectors. Calls fail as after power_off().
  void kill_process();
  void power_on();
  // Growth is durable with the next sync, as io::File has it; until then a power cut may take it back. What
  // lay past the smaller size is gone for good.
  Status resize(uint64_t bytes);
  // A failed sync has left visible bytes that no sync will ever make durable.
  bool forgot() const { return forgot_; }
  bool powered() const { return powered_; }

  // Every sector of a pending or in-flight write whose value is not the durable one, oldest first, and behind
  // them growth. A power cut may keep any subset.
  size_t undecided() const;
  // Goes up whenever what a power cut may leave has changed.
  uint64_t changes() const { return changes_; }

  // A phantom or misdirected write has happened since the power came on. It is a lie about what is visible:
  // what a power cut leaves is as if the write had gone where it was meant to.
  bool misled() const { return misled_; }

  void flip_bits(uint64_t offset, std::byte mask);  // rot: in cache and on the platter
  // Flips them back where the sector is still `as_it_was` when they were flipped.
  void heal_bits(uint64_t offset, std::byte mask, std::span<const std::byte> as_it_was);
  Faults faults;
  CallFault* shared = nullptr;  // not owned
  // Some reads and writes are done inside the call, as by a file in memory: completed like any other, and as
  // volatile.
  bool at_once = false;
  const DiskCounts& counts() const { return counts_; }
  // Whether a sync has failed since that time, and whoever issued it has been told.
  bool told_of_failed_sync(uint64_t failed_before) const {
    return counts_.failed_syncs > failed_before && scheduler_.delivered(failed_sync_ticket_);
  }
  uint32_t crc() const { return durable_.crc(); }  // of what is durable
  void preload(std::span<const std::byte> bytes);  // what was there before anything began
  std::span<std::byte> peek(uint64_t offset, std::span<std::byte> into) const;

  int finish(io::Op& op) override;

 private:
  friend class DiskFile;
  enum Kind : uint8_t { kRead, kWrite, kWriteDurable, kSync };
  // A completed write that no sync has covered. Its bytes are in arena_, and one flag a sector (superseded or
  // not) in live_.
  struct Pending {
    uint64_t offset;
    uint32_t length;
    uint32_t data_at;
    uint32_t live_at;
    uint64_t order;  // of completion
  };
  // A piece of a write that a power cut decides on.
  struct Undecided {
    uint64_t offset;
    std::span<const std::byte> bytes;
    const uint8_t* live;  // a flag a sector; null: all
  };

  bool misleads(uint64_t at, uint64_t count, uint64_t offset) const {
    if (at == 0 || offset < faults.misled_from) return false;
    return count == at || (count > at && faults.misled_from > 0 && !misled_);
  }
  void submit(io::Op& op, Kind kind, uint64_t offset, std::byte* data, size_t length);
  // The errno with which a call of this kind fails now, or 0. `at` and `count` are of the disk's own faults.
  int error_now(CallFault::Kind kind, uint64_t at, uint64_t count);
  bool transfer_now(Kind kind, uint32_t generation, uint64_t offset, std::byte* data, size_t length);
  int finish_read(io::Op& op);
  int finish_write(io::Op& op);
  int finish_sync(io::Op& op);
  void make_pending(uint64_t offset, std::span<const std::byte> bytes);
  void make_durable(uint64_t offset, std::span<const std::byte> bytes);
  void apply_covered(uint64_t before);
  void forget_some(uint64_t before);
  void drop_front(size_t count);
  void fail_write(uint64_t offset, std::span<const std::byte> bytes);
  void cut(uint64_t bytes);  // it is so long now, whatever happens
  std::vector<Undecided> collect_undecided() const;
  void tear(std::vector<Undecided>& writes);
  std::span<const std::byte> bytes_of(const Pending& p) const {
    return std::span(arena_).subspan(p.data_at, p.length);
  }

  Scheduler& scheduler_;
  Rng& rng_;
  uint64_t size_;
  uint64_t durable_size_;                               // what is left of it after any power cut
  std::vector<std::pair<uint64_t, uint64_t>> growths_;  // not durable: its order, and its size
  uint32_t alignment_;
  bool powered_ = true;
  bool forgot_ = false;  // a failed sync left visible bytes that are neither durable nor pending
  uint32_t generation_ = 0;
  uint64_t next_order_ = 1;
  uint64_t changes_ = 0;
  PageStore durable_;
  PageStore visible_;
  std::vector<Pending> pending_;
  std::vector<std::byte> arena_;
  std::vector<uint8_t> live_;
  std::vector<io::Op*> writes_in_flight_;
  DiskCounts counts_;
  bool misled_ = false;
  uint64_t failed_sync_ticket_ = 0;  // of the first failure of this power cycle
};

}  // namespace foreshadow::sim
