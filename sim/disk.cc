#include "sim/disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/assert.h"
#include "base/crc32c.h"

namespace foreshadow::sim {

// ---- PageStore

void PageStore::read(uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const uint64_t within = offset % kPage;
    const size_t length = std::min<size_t>(into.size(), kPage - within);
    const auto& page = pages_[offset / kPage];
    if (page) {
      std::memcpy(into.data(), page->data() + within, length);
    } else {
      std::memset(into.data(), 0, length);
    }
    into = into.subspan(length);
    offset += length;
  }
}

void PageStore::write(uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const uint64_t within = offset % kPage;
    const size_t length = std::min<size_t>(from.size(), kPage - within);
    auto& page = pages_[offset / kPage];
    if (!page) page = std::make_unique<Page>();
    std::memcpy(page->data() + within, from.data(), length);
    from = from.subspan(length);
    offset += length;
  }
}

void PageStore::copy_range(const PageStore& from, uint64_t offset, uint64_t length) {
  std::array<std::byte, kPage> bytes;
  for (uint64_t done = 0; done < length;) {
    const size_t step = std::min<uint64_t>(length - done, kPage);
    from.read(offset + done, std::span(bytes).first(step));
    write(offset + done, std::span(bytes).first(step));
    done += step;
  }
}

void PageStore::copy_from(const PageStore& other) {
  ASSERT(pages_.size() == other.pages_.size());
  for (size_t i = 0; i < pages_.size(); ++i) {
    if (!other.pages_[i]) {
      pages_[i].reset();
    } else if (pages_[i]) {
      *pages_[i] = *other.pages_[i];
    } else {
      pages_[i] = std::make_unique<Page>(*other.pages_[i]);
    }
  }
}

void PageStore::cut(uint64_t from, uint64_t bytes) {
  if (pages_.size() * kPage < bytes) pages_.resize((bytes + kPage - 1) / kPage);
  if (from % kPage != 0 && pages_[from / kPage]) {
    std::memset(pages_[from / kPage]->data() + from % kPage, 0, kPage - from % kPage);
  }
  for (uint64_t page = (from + kPage - 1) / kPage; page < pages_.size(); ++page) pages_[page].reset();
}

uint32_t PageStore::crc() const {
  static constexpr Page kZero{};
  uint32_t out = 0;
  for (const auto& page : pages_) out = crc32c(page ? *page : kZero, out);
  return out;
}

// ---- the handle

class DiskFile final : public io::File {
 public:
  explicit DiskFile(Disk& disk) : disk_(disk), generation_(disk.generation_) {}
  void read(io::Op& op, uint64_t offset, std::span<std::byte> into) override {
    start(op, Disk::kRead, offset, into.data(), into.size());
  }
  void write(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    // An Op has one data pointer for both directions; a write never stores through it.
    start(op, Disk::kWrite, offset, const_cast<std::byte*>(from.data()), from.size());
  }
  void write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    start(op, Disk::kWriteDurable, offset, const_cast<std::byte*>(from.data()), from.size());
  }
  void sync(io::Op& op) override { start(op, Disk::kSync, 0, nullptr, 0); }
  bool read_now(uint64_t offset, std::span<std::byte> into) override {
    return disk_.transfer_now(Disk::kRead, generation_, offset, into.data(), into.size());
  }
  bool write_now(uint64_t offset, std::span<const std::byte> from) override {
    return disk_.transfer_now(Disk::kWrite, generation_, offset, const_cast<std::byte*>(from.data()),
                              from.size());
  }
  uint64_t size() const override { return disk_.size(); }
  bool in_memory() const override { return disk_.at_once; }
  uint32_t alignment() const override { return disk_.alignment(); }
  Status resize(uint64_t bytes) override {
    if (generation_ != disk_.generation_) return fail(Code::kIo, "the power is off");
    return disk_.resize(bytes);
  }

 private:
  void start(io::Op& op, Disk::Kind kind, uint64_t offset, std::byte* data, size_t length) {
    op.progress = generation_;
    disk_.submit(op, kind, offset, data, length);
  }
  Disk& disk_;
  uint32_t generation_;
};

// ---- Disk

Disk::Disk(Scheduler& scheduler, Rng& rng, uint64_t size, uint32_t alignment)
    : scheduler_(scheduler),
      rng_(rng),
      size_(size),
      durable_size_(size),
      alignment_(alignment),
      durable_(size),
      visible_(size) {
  ASSERT(size % alignment == 0 && alignment % kSector == 0);
}

Disk::Disk(Scheduler& scheduler, Rng& rng, PageStore content, uint64_t size)
    : scheduler_(scheduler),
      rng_(rng),
      size_(size),
      durable_size_(size),
      alignment_(kSector),
      durable_(std::move(content)),
      visible_(durable_) {}

Disk::Disk(Scheduler& scheduler, const Disk& other, std::span<const uint8_t> kept)
    : scheduler_(scheduler),
      rng_(other.rng_),
      size_(other.size_),
      durable_size_(other.size_),
      alignment_(other.alignment_),
      durable_(other.durable_),
      visible_(other.durable_) {
  size_t index = 0;
  std::array<std::byte, kSector> before;
  for (const Undecided& write : other.collect_undecided()) {
    for (size_t at = 0; at < write.bytes.size(); at += kSector) {
      if (write.live != nullptr && write.live[at / kSector] == 0) continue;
      const auto sector = write.bytes.subspan(at, kSector);
      other.durable_.read(write.offset + at, before);
      if (std::equal(before.begin(), before.end(), sector.begin())) continue;
      if (kept[index++] != 0) durable_.write(write.offset + at, sector);
    }
  }
  if (other.durable_size_ < size_ && kept[index++] == 0) cut(other.durable_size_);
  visible_.copy_from(durable_);
}

std::unique_ptr<io::File> Disk::open() {
  return std::make_unique<DiskFile>(*this);
}

void Disk::submit(io::Op& op, Kind kind, uint64_t offset, std::byte* data, size_t length) {
  // The contract of io::File, checked where the engine meets it. A power cut may have taken back growth.
  ASSERT(offset % alignment_ == 0 && length % alignment_ == 0);
  ASSERT(!powered_ || op.progress != generation_ || (offset <= size_ && length <= size_ - offset));
  ASSERT(kind == kSync || length > 0);
  op.kind = kind;
  op.data = data;
  op.length = static_cast<uint32_t>(length);
  op.offset = kind == kSync ? next_order_ : offset;  // a sync covers what completed before it was issued
  if (kind == kWrite || kind == kWriteDurable) {
    writes_in_flight_.push_back(&op);
    ++changes_;
  }
  const uint64_t call = counts_.reads + counts_.writes + counts_.syncs + 1;
  Nanos delay = call == faults.slow_at ? faults.slow_by : Nanos(0);
  if (kind == kRead && faults.slow_reads > Nanos(0) && rng_.below(4) == 0)
    delay += Nanos(rng_.below(static_cast<uint64_t>(faults.slow_reads.count())));
  scheduler_.start(op, *this, delay);
}

bool Disk::transfer_now(Kind kind, uint32_t generation, uint64_t offset, std::byte* data, size_t length) {
  ASSERT(offset % alignment_ == 0 && length % alignment_ == 0);
  if (!powered_ || generation != generation_) return false;
  ASSERT(offset <= size_ && length <= size_ - offset);
  if (!at_once || rng_.below(4) == 0) return false;
  io::Op op;
  op.kind = kind;
  op.data = data;
  op.length = static_cast<uint32_t>(length);
  op.offset = offset;
  op.progress = generation;
  return finish(op) == 0;
}

int Disk::finish(io::Op& op) {
  if (op.kind == kWrite || op.kind == kWriteDurable) std::erase(writes_in_flight_, &op);
  if (op.kind != kRead) ++changes_;
  if (!powered_ || op.progress != generation_) return -EIO;
  switch (op.kind) {
    case kRead:
      return finish_read(op);
    case kSync:
      return finish_sync(op);
    default:
      return finish_write(op);
  }
}

Status Disk::resize(uint64_t bytes) {
  if (!powered_) return fail(Code::kIo, "the power is off");
  ASSERT(bytes % alignment_ == 0);
  const uint64_t end = std::min(bytes, size_);
  for (const io::Op* op : writes_in_flight_)
    ASSERT(op->progress != generation_ || op->offset + op->length <= end);
  for (const Pending& p : pending_) {
    for (uint64_t at = 0; at < p.length; at += kSector) {
      if (p.offset + at >= end) live_[p.live_at + at / kSector] = 0;
    }
  }
  durable_.cut(end, bytes);
  visible_.cut(end, bytes);
  std::erase_if(growths_, [&](const auto& growth) { return growth.second > bytes; });
  if (bytes > size_) growths_.emplace_back(next_order_++, bytes);
  durable_size_ = std::min(durable_size_, bytes);
  size_ = bytes;
  ++changes_;
  return {};
}

void Disk::cut(uint64_t bytes) {
  durable_.cut(bytes, bytes);
  visible_.cut(bytes, bytes);
  size_ = durable_size_ = bytes;
  growths_.clear();
}

namespace {
bool hits(uint64_t at, uint64_t count, bool persistent) {
  return at != 0 && (count == at || (persistent && count > at));
}
}  // namespace

int Disk::error_now(CallFault::Kind kind, uint64_t at, uint64_t count) {
  if (hits(at, count, faults.persistent)) return EIO;
  if (shared == nullptr || !shared->armed || !hits(shared->at, ++shared->calls, shared->persistent)) return 0;
  if (shared->injected++ == 0) shared->met = kind;
  return shared->error;
}

int Disk::finish_read(io::Op& op) {
  if (const int error = error_now(CallFault::Kind::kRead, faults.read_at, ++counts_.reads); error != 0) {
    ++counts_.failed_reads;
    return -error;
  }
  const std::span<std::byte> into(op.data, op.length);
  visible_.read(op.offset, into);
  // A write still in flight has reached any of its sectors.
  for (const io::Op* write : writes_in_flight_) {
    const uint64_t from = std::max(op.offset, write->offset);
    const uint64_t to = std::min(op.offset + op.length, write->offset + write->length);
    for (uint64_t at = from; at < to; at += kSector) {
      if (rng_.below(2) == 0)
        std::memcpy(into.data() + (at - op.offset), write->data + (at - write->offset), kSector);
    }
  }
  return 0;
}

int Disk::finish_write(io::Op& op) {
  const std::span<const std::byte> bytes(op.data, op.length);
  const uint64_t count = ++counts_.writes;
  if (const int error = error_now(CallFault::Kind::kWrite, faults.write_at, count); error != 0) {
    ++counts_.failed_writes;
    fail_write(op.offset, bytes);
    return -error;
  }
  const bool phantom = misleads(faults.phantom_at, count, op.offset);
  if (phantom || misleads(faults.misdirect_at, count, op.offset)) {
    ++counts_.misled;
    misled_ = true;
    std::vector<std::byte> before(bytes.size());
    visible_.read(op.offset, before);
    op.kind == kWriteDurable ? make_durable(op.offset, bytes) : make_pending(op.offset, bytes);
    visible_.write(op.offset, before);
    if (!phantom) visible_.write(std::min(faults.misdirect_to, size_ - bytes.size()), bytes);
    return 0;
  }
  if (op.kind == kWriteDurable) {
    make_durable(op.offset, bytes);
  } else {
    make_pending(op.offset, bytes);
  }
  return 0;
}

void Disk::fail_write(uint64_t offset, std::span<const std::byte> bytes) {
  for (size_t at = 0; at < bytes.size(); at += kSector) {
    if (rng_.below(2) == 0) make_pending(offset + at, bytes.subspan(at, kSector));
  }
}

void Disk::make_pending(uint64_t offset, std::span<const std::byte> bytes) {
  visible_.write(offset, bytes);
  pending_.push_back({offset, static_cast<uint32_t>(bytes.size()), static_cast<uint32_t>(arena_.size()),
                      static_cast<uint32_t>(live_.size()), next_order_++});
  arena_.insert(arena_.end(), bytes.begin(), bytes.end());
  live_.insert(live_.end(), bytes.size() / kSector, 1);
}

void Disk::make_durable(uint64_t offset, std::span<const std::byte> bytes) {
  visible_.write(offset, bytes);
  durable_.write(offset, bytes);
  ++next_order_;
  // What completed before it can no longer win.
  for (const Pending& p : pending_) {
    const uint64_t from = std::max(offset, p.offset);
    const uint64_t to = std::min(offset + bytes.size(), p.offset + p.length);
    for (uint64_t at = from; at < to; at += kSector) live_[p.live_at + (at - p.offset) / kSector] = 0;
  }
}

int Disk::finish_sync(io::Op& op) {
  if (const int error = error_now(CallFault::Kind::kSync, faults.sync_at, ++counts_.syncs); error != 0) {
    ++counts_.failed_syncs;
    if (failed_sync_ticket_ == 0) failed_sync_ticket_ = scheduler_.next_ticket();
    forget_some(op.offset);
    return -error;
  }
  std::erase_if(growths_, [&](const auto& growth) {
    if (growth.first >= op.offset) return false;  // this sync began before it
    durable_size_ = std::max(durable_size_, growth.second);
    return true;
  });
  apply_covered(op.offset);
  return 0;
}

void Disk::apply_covered(uint64_t before) {
  size_t covered = 0;
  for (; covered < pending_.size() && pending_[covered].order < before; ++covered) {
    const Pending& p = pending_[covered];
    const auto bytes = bytes_of(p);
    const uint8_t* live = live_.data() + p.live_at;
    if (std::memchr(live, 0, p.length / kSector) == nullptr) {
      durable_.write(p.offset, bytes);
      continue;
    }
    for (size_t at = 0; at < p.length; at += kSector) {
      if (live[at / kSector] != 0) durable_.write(p.offset + at, bytes.subspan(at, kSector));
    }
  }
  drop_front(covered);
}

void Disk::forget_some(uint64_t before) {
  for (const Pending& p : pending_) {
    if (p.order >= before || rng_.below(2) == 0) continue;
    std::fill_n(live_.begin() + p.live_at, p.length / kSector, uint8_t{0});
    forgot_ = true;
  }
}

void Disk::drop_front(size_t count) {
  if (count == 0) return;
  if (count == pending_.size()) {
    pending_.clear();
    arena_.clear();
    live_.clear();
    return;
  }
  const uint32_t data_shift = pending_[count].data_at;
  const uint32_t live_shift = pending_[count].live_at;
  arena_.erase(arena_.begin(), arena_.begin() + data_shift);
  live_.erase(live_.begin(), live_.begin() + live_shift);
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(count));
  for (Pending& p : pending_) {
    p.data_at -= data_shift;
    p.live_at -= live_shift;
  }
}

std::vector<Disk::Undecided> Disk::collect_undecided() const {
  std::vector<Undecided> out;
  out.reserve(pending_.size() + writes_in_flight_.size());
  for (const Pending& p : pending_) out.push_back({p.offset, bytes_of(p), live_.data() + p.live_at});
  for (const io::Op* op : writes_in_flight_) {
    if (op->progress == generation_)
      out.push_back({op->offset, std::span<const std::byte>(op->data, op->length), nullptr});
  }
  return out;
}

size_t Disk::undecided() const {
  size_t count = 0;
  std::array<std::byte, kSector> before;
  for (const Undecided& write : collect_undecided()) {
    for (size_t at = 0; at < write.bytes.size(); at += kSector) {
      if (write.live != nullptr && write.live[at / kSector] == 0) continue;
      durable_.read(write.offset + at, before);
      count += std::equal(before.begin(), before.end(), write.bytes.data() + at) ? 0 : 1;
    }
  }
  return count + (durable_size_ < size_ ? 1 : 0);
}

// Draws one of the ways a cache dies, and gives the chosen sectors to the platter.
void Disk::tear(std::vector<Undecided>& writes) {
  enum class Way { kNothing, kEverything, kSectors, kWhole, kPrefixes, kNewest, kCount };
  const auto way = static_cast<Way>(rng_.below(static_cast<uint64_t>(Way::kCount)));
  if (way == Way::kNothing || writes.empty()) return;
  if (way == Way::kNewest) {
    const Undecided& newest = writes.back();
    if (newest.live == nullptr || newest.live[0] != 0)
      durable_.write(newest.offset, newest.bytes.first(kSector));
    return;
  }
  // Any of the pending values of a sector may be the last to reach the platter.
  if (way != Way::kEverything && rng_.below(2) == 0) {
    for (size_t i = writes.size(); i > 1; --i) std::swap(writes[i - 1], writes[rng_.below(i)]);
  }
  const uint64_t odds = uint64_t{1} << rng_.below(8) | 1;
  for (const Undecided& write : writes) {
    const size_t sectors = write.bytes.size() / kSector;
    size_t reach = sectors;
    if (way == Way::kWhole && rng_.below(2) == 0) reach = 0;
    if (way == Way::kPrefixes) reach = rng_.below(sectors + 1);
    for (size_t i = 0; i < reach; ++i) {
      if (write.live != nullptr && write.live[i] == 0) continue;
      if (way == Way::kSectors && rng_.below(129) < odds) continue;
      durable_.write(write.offset + i * kSector, write.bytes.subspan(i * kSector, kSector));
    }
  }
}

void Disk::power_off() {
  ASSERT(powered_);
  auto writes = collect_undecided();
  tear(writes);
  if (forgot_ || misled_) {
    visible_.copy_from(durable_);
  } else {
    for (const Undecided& write : writes) visible_.copy_range(durable_, write.offset, write.bytes.size());
  }
  if (durable_size_ < size_) rng_.below(2) == 0 ? cut(durable_size_) : cut(size_);
  drop_front(pending_.size());
  powered_ = false;
  forgot_ = false;
  misled_ = false;
}

void Disk::kill_process() {
  ASSERT(powered_);
  for (const io::Op* op : writes_in_flight_) {
    if (op->progress == generation_) fail_write(op->offset, std::span<const std::byte>(op->data, op->length));
  }
  powered_ = false;
}

void Disk::power_on() {
  ASSERT(!powered_ && writes_in_flight_.empty());
  powered_ = true;
  failed_sync_ticket_ = 0;
  ++generation_;
}

void Disk::flip_bits(uint64_t offset, std::byte mask) {
  std::array<std::byte, 1> value;
  for (PageStore* store : {&durable_, &visible_}) {
    store->read(offset, value);
    value[0] ^= mask;
    store->write(offset, value);
  }
}

void Disk::heal_bits(uint64_t offset, std::byte mask, std::span<const std::byte> as_it_was) {
  std::vector<std::byte> sector(kSector);
  const uint64_t from = offset / kSector * kSector;
  for (PageStore* store : {&durable_, &visible_}) {
    store->read(from, sector);
    if (!std::equal(sector.begin(), sector.end(), as_it_was.begin())) continue;
    sector[offset - from] ^= mask;
    store->write(from, sector);
  }
}

void Disk::preload(std::span<const std::byte> bytes) {
  durable_.write(0, bytes);
  visible_.write(0, bytes);
}

std::span<std::byte> Disk::peek(uint64_t offset, std::span<std::byte> into) const {
  durable_.read(offset, into);
  return into;
}

}  // namespace foreshadow::sim
