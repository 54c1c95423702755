#include "volume/relocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/assert.h"

namespace foreshadow::volume {

using extent::Mapping;

namespace {
constexpr uint32_t kScanAtOnce = 1u << 16;  // clusters looked at before others have their turn
constexpr uint32_t kBatchWhileServing = 4;  // clusters: a shorter time in which the loop copies
constexpr int kOthersTurn = 3;
}  // namespace

// ---- what a batch waits for

// One contiguous copy between a segment and memory.
struct Relocator::Transfer : io::Op {
  Segment* segment = nullptr;
  uint64_t at = 0;
  std::span<std::byte> memory;
  Transfers* all = nullptr;
};

// Starts all of them and waits for the last; the first error is the result.
struct Relocator::Transfers {
  std::vector<Transfer>& list;
  bool writes;
  uint32_t left = 0;
  int outcome = 0;
  std::coroutine_handle<> waiter{};

  bool await_ready() const noexcept { return list.empty(); }
  bool await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    left = static_cast<uint32_t>(list.size()) + 1;  // one for this function
    for (Transfer& transfer : list) {
      transfer.all = this;
      transfer.done = [](io::Op* op, int result) { static_cast<Transfer*>(op)->all->on_done(*op, result); };
      if (writes) {
        transfer.segment->file->write(transfer, transfer.at, transfer.memory);
      } else {
        transfer.segment->file->read(transfer, transfer.at, transfer.memory);
      }
    }
    return --left != 0;
  }
  int await_resume() const noexcept { return outcome; }
  void on_done(io::Op& op, int result) {
    if (result < 0 && outcome == 0) outcome = result;
    if (writes) static_cast<Transfer&>(op).segment->unsynced = true;
    if (--left == 0) waiter.resume();
  }
};

// Passes when every request that is in one of the clusters now has ended. Goes on in a turn of its own: who
// ended last is in the middle of something.
struct Relocator::Watch : LockOwner, io::Op {
  io::Executor& executor;
  LockTable& locks;
  std::coroutine_handle<> waiter{};
  Watch(Parts& parts, const std::vector<Item>& items) : executor(parts.executor), locks(parts.locks) {
    granted = [](LockOwner* owner) {
      auto* self = static_cast<Watch*>(owner);
      self->executor.post(*self);
    };
    done = [](io::Op* op, int) { static_cast<Watch*>(op)->waiter.resume(); };
    for (const Item& item : items) locks.add_watch(*this, item.lcn);
  }
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    return !locks.acquire(*this);
  }
  void await_resume() { locks.release(*this); }
};

struct Relocator::Sleep {
  io::Executor& executor;
  Nanos time;
  io::Timer timer{};
  std::coroutine_handle<> waiter{};
  bool await_ready() const noexcept { return time <= Nanos(0); }
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    timer.op.target = this;
    timer.op.done = [](io::Op* op, int) { static_cast<Sleep*>(op->target)->waiter.resume(); };
    executor.arm(timer, executor.now() + time);
  }
  void await_resume() const noexcept {}
};

// ---- a run

io::Task<Status> Relocator::run(Evacuation what) {
  ASSERT(workers_ == 0);
  what_ = std::move(what);
  progress_ = {0, what_.from->allocator.taken_past(what_.first)};
  outcome_ = {};
  // A cluster that had one owner on its way out to another in the same place comes up again: passes, until
  // one finds nothing.
  for (uint64_t before = UINT64_MAX; outcome_ && progress_.moved != before;) {
    before = progress_.moved;
    cursor_ = Lcn(0);
    workers_ = kWorkers;
    for (uint32_t i = 0; i < kWorkers; ++i) work(i == 0);
    while (workers_ > 0) co_await worker_ended_.wait();
  }
  what_ = {};
  co_return outcome_;
}

// Copying in memory keeps the loop from serving: while it serves, one cluster at a time, and kOthersTurn
// times as long for others in between.
bool Relocator::takes_turns() const {
  return what_.from->file->in_memory() && parts_.pacer.foreground_active(parts_.executor.now());
}

bool Relocator::goes_on() const {
  return outcome_ && !stopped_ && cursor_.v < parts_.map.clusters();
}

io::Detached Relocator::work(bool first) {
  co_await io::yield(parts_.executor);
  const io::Buffer memory(size_t{kBatchClusters} * parts_.geometry.cluster());
  std::vector<Item> items;
  for (;;) {
    while (!first && goes_on() && takes_turns()) {
      Sleep others{parts_.executor, Pacer::kIdleAfter};
      co_await others;
    }
    auto found = co_await next_batch(items);
    if (!found && outcome_) outcome_ = found;
    if (items.empty()) break;
    const MonoTime began = parts_.executor.now();
    parts_.pacer.work_began();
    auto moved = co_await move_batch(items, memory);
    parts_.pacer.work_ended();
    if (!moved && outcome_) outcome_ = moved;
    progress_.moved += items.size();
    const MonoTime now = parts_.executor.now();
    const Nanos due = parts_.pacer.rest_after(now, now - began);
    Sleep rest{parts_.executor, takes_turns() ? std::max(due, kOthersTurn * (now - began)) : due};
    co_await rest;
  }
  --workers_;
  worker_ended_.notify_all();
}

bool Relocator::leaves(Pcn pcn) const {
  const extent::SegmentRow& row = what_.from->row;
  return pcn.v >= row.pcn_base.v + what_.first && pcn.v - row.pcn_base.v < what_.from->allocator.clusters();
}

// No items: none is left, or the run ends.
io::Task<Status> Relocator::next_batch(std::vector<Item>& items) {
  items.clear();
  for (;;) {
    if (!outcome_) co_return Status{};
    if (stopped_) co_return fail(Code::kShutdown, "the volume is closing");
    if (parts_.committer.poisoned()) co_return fail(Code::kReadOnly, parts_.committer.poison_reason());
    if (cursor_.v >= parts_.map.clusters()) co_return Status{};
    const bool serving = parts_.pacer.foreground_active(parts_.executor.now());
    auto found = find_items(items, takes_turns() ? 1 : serving ? kBatchWhileServing : kBatchClusters);
    if (!found && found.error().code == Code::kNoSpace) {
      if (items.empty()) {
        const bool again = co_await wait_for_room(what_);
        if (again) continue;
      } else if (what_.more && what_.more()) {
        found = {};  // some found a place, and the next batch waits for the rest
      }
    }
    if (!found || !items.empty()) co_return found;
    co_await io::yield(parts_.executor);
  }
}

io::Task<bool> Relocator::wait_for_room(const Evacuation& what) {
  const bool waits = what.more && what.more() && !stopped_;
  if (waits) co_await room_.wait();
  co_return waits;
}

Status Relocator::find_items(std::vector<Item>& items, uint32_t most) {
  std::vector<Lcn> found;
  const uint32_t clusters = parts_.map.clusters();
  uint32_t looked = 0;
  while (cursor_.v < clusters && found.size() < most && looked < kScanAtOnce) {
    cursor_ = parts_.map.next_populated(cursor_);
    if (cursor_.v >= clusters) break;
    const Mapping mapping = parts_.map.get(cursor_);
    const bool wanted = !mapping.is_squeezed() && (leaves(mapping.a) || leaves(mapping.b));
    if (wanted && parts_.moves.find(cursor_) == nullptr) found.push_back(cursor_);
    cursor_ = cursor_.next();
    ++looked;
  }
  return begin_moves(items, found);
}

// Each gets its target: the cluster's other owner where it has one that stays, else a new place.
Status Relocator::begin_moves(std::vector<Item>& items, const std::vector<Lcn>& found) {
  extent::Allocator::Run run;
  for (size_t i = 0; i < found.size(); ++i) {
    Mapping mapping = parts_.map.get(found[i]);
    const bool a_leaves = leaves(mapping.a);
    const Pcn source = a_leaves ? mapping.a : mapping.b;
    Pcn target = a_leaves ? mapping.b : mapping.a;
    if (target.v == 0 && what_.home) {
      target = mapping.b = what_.home(found[i]);
      if (target.v != 0) parts_.map.set(found[i], mapping);
    }
    if (target.v == 0) {
      if (run.count == 0) run = what_.take(static_cast<uint32_t>(found.size() - i));
      if (run.count == 0) {
        cursor_ = std::min(cursor_, found[i]);
        return fail(Code::kNoSpace, "there is no room left for what is to be moved");
      }
      target = run.first;
      parts_.checksums.forget(target);
      run = {run.first.next(), run.count - 1};
      mapping.b = target;
      parts_.map.set(found[i], mapping);
    }
    items.push_back({found[i], &parts_.moves.begin(found[i], source, target)});
  }
  // What is left over of the run (others were found to have an owner already) goes back.
  for (; run.count > 0; run = {run.first.next(), run.count - 1})
    parts_.segments.of(run.first).allocator.release(run.first);
  return {};
}

// ---- a batch

io::Task<Status> Relocator::move_batch(std::vector<Item>& items, const io::Buffer& memory) {
  Status outcome;
  for (;;) {
    const bool left =
        std::any_of(items.begin(), items.end(), [&](const Item& i) { return at_source(i) != 0; });
    if (left && outcome) {
      const MonoTime began = parts_.executor.now();
      if (choose(items)) {
        outcome = co_await copy(items, memory);
        if (outcome) outcome = co_await switch_places(items);
        for (const Item& item : items) item.move->copying = item.move->dirty = 0;
      } else {
        Watch watch(parts_, items);
        co_await watch;
      }
      const bool again =
          std::any_of(items.begin(), items.end(), [&](const Item& i) { return at_source(i) != 0; });
      if (again && outcome) {  // the gap of move_table.h
        Sleep gap{parts_.executor, parts_.executor.now() - began};
        co_await gap;
      }
      continue;
    }
    const bool ended = co_await end_moves(items, !outcome);
    if (ended) co_return outcome;
  }
}

// What can be copied now. False: every sub-block that is left is being written.
bool Relocator::choose(std::vector<Item>& items) {
  bool any = false;
  for (const Item& item : items) {
    item.move->dirty = 0;
    item.move->copying = at_source(item) & static_cast<uint16_t>(~parts_.locks.being_written(item.lcn));
    any = any || item.move->copying != 0;
  }
  return any;
}

// One transfer for each stretch that is contiguous on the disk and in memory.
void Relocator::gather(const std::vector<Item>& items, const io::Buffer& memory, bool writes,
                       std::vector<Transfer>& out) {
  const extent::Geometry geometry = parts_.geometry;
  for (size_t i = 0; i < items.size(); ++i) {
    const Pcn place = writes ? items[i].move->target : items[i].move->source;
    Segment& segment = parts_.segments.of(place);
    uint32_t bits = items[i].move->copying;
    while (bits != 0) {
      const auto first = static_cast<uint32_t>(std::countr_zero(bits));
      const auto count = static_cast<uint32_t>(std::countr_one(bits >> first));
      bits &= ~(((1u << count) - 1) << first);
      const uint64_t within = uint64_t{first} << geometry.sub_block_bits;
      const uint64_t at = segment.data_offset(place, geometry) + within;
      auto bytes =
          memory.span().subspan(i * geometry.cluster() + within, size_t{count} << geometry.sub_block_bits);
      if (at + bytes.size() > segment.data_end) {  // an image ends within; what it has not is zeros
        const auto rest = bytes.subspan(segment.data_end - at);
        if (!writes) std::fill(rest.begin(), rest.end(), std::byte{0});
        bytes = bytes.first(segment.data_end - at);
      }
      if (!out.empty() && out.back().segment == &segment && out.back().at + out.back().memory.size() == at &&
          out.back().memory.data() + out.back().memory.size() == bytes.data()) {
        out.back().memory = {out.back().memory.data(), out.back().memory.size() + bytes.size()};
        continue;
      }
      Transfer& transfer = out.emplace_back();
      transfer.segment = &segment;
      transfer.at = at;
      transfer.memory = bytes;
    }
  }
}

io::Task<Status> Relocator::copy(const std::vector<Item>& items, const io::Buffer& memory) {
  std::vector<Transfer> list;
  gather(items, memory, false, list);
  const MonoTime began = parts_.executor.now();
  Transfers reads{list, false};
  const int read = co_await reads;
  if (read < 0) co_return fail_errno(read, "cannot read what is to be moved");
  if (takes_turns()) {
    Sleep others{parts_.executor, parts_.executor.now() - began};
    co_await others;
  }
  auto good = verify(items, memory);
  if (!good) co_return good;
  list.clear();
  gather(items, memory, true, list);
  auto noted = co_await may_write(list);
  if (!noted) co_return noted;
  Transfers writes{list, true};
  const int written = co_await writes;
  if (written < 0) co_return fail_errno(written, "cannot write what is to be moved");
  carry_checksums(items);
  co_return Status{};
}

// Until the regions of checksums that the copies go to are noted; then they are submitted in the same turn.
io::Task<Status> Relocator::may_write(const std::vector<Transfer>& list) {
  for (;;) {
    if (parts_.committer.poisoned()) co_return fail(Code::kReadOnly, parts_.committer.poison_reason());
    bool now = true;
    for (const Transfer& write : list)
      now = parts_.checksums.may_write(*write.segment, write.at, write.memory.size()) && now;
    if (now) break;
    co_await journal_room_.wait();
  }
  for (const Transfer& write : list) parts_.checksums.writing(*write.segment, write.at, write.memory.size());
  co_return Status{};
}

// What goes into a base leaves its checksum behind: it is verified before, or nothing could ever tell that it
// was corrupt. What a client has written meanwhile is dirty, and not copied.
Status Relocator::verify(const std::vector<Item>& items, const io::Buffer& memory) const {
  const extent::Geometry geometry = parts_.geometry;
  for (size_t i = 0; i < items.size(); ++i) {
    const Move& move = *items[i].move;
    const Segment& source = parts_.segments.of(move.source);
    if (!source.checksums.exists() || parts_.segments.of(move.target).checksums.exists()) continue;
    for (uint32_t bits = move.copying & ~uint32_t{move.dirty}; bits != 0; bits &= bits - 1) {
      const uint64_t within = uint64_t(std::countr_zero(bits)) << geometry.sub_block_bits;
      const uint64_t at = source.data_offset(move.source, geometry) + within;
      const auto bytes = memory.span().subspan(i * geometry.cluster() + within, geometry.sub_block());
      if (!parts_.checksums.verify(source, at, bytes)) continue;
      return fail(Code::kCorrupt,
                  fmt::format("segment {}: what is stored at {} is not what was written, and is not moved",
                              source.row.id.v, at));
    }
  }
  return {};
}

// A checksum moves with its data and is not computed anew: what is corrupt stays so, and is found out.
void Relocator::carry_checksums(const std::vector<Item>& items) {
  for (const Item& item : items) {
    const auto bits = static_cast<uint16_t>(item.move->copying & ~item.move->dirty);
    parts_.checksums.carry(item.move->source, item.move->target, bits);
  }
}

io::Task<Status> Relocator::switch_places(std::vector<Item>& items) {
  for (const Item& item : items) {
    if (item.move->copying == 0) continue;
    while (!parts_.committer.poisoned() && !parts_.committer.has_room()) co_await journal_room_.wait();
    if (parts_.committer.poisoned()) co_return fail(Code::kReadOnly, parts_.committer.poison_reason());
    const Mapping before = parts_.map.get(item.lcn);
    const uint16_t bits =
        item.move->copying & static_cast<uint16_t>(~item.move->dirty) & before.mask_of(item.move->source);
    item.move->copying = 0;
    if (bits == 0) continue;
    const Pcn source = item.move->source;
    const Pcn target = item.move->target;
    const auto left = static_cast<uint16_t>(before.mask_of(source) & ~bits);
    const auto there = static_cast<uint16_t>(before.mask_of(target) | bits);
    // The source stays noted, however empty, until end_move(): a first touch under way may be going there.
    parts_.sink.record_mapping(item.lcn, before, Mapping{source, target, left, there});
  }
  co_return Status{};
}

// ---- its end

// False: a cluster is not at rest yet; the caller goes on with it.
io::Task<bool> Relocator::end_moves(std::vector<Item>& items, bool failed) {
  for (Item& item : items) {
    const Mapping mapping = parts_.map.get(item.lcn);
    item.source_was_empty = mapping.mask_of(item.move->source) == 0;
    item.target_was_empty = mapping.mask_of(item.move->target) == 0;
  }
  Watch watch(parts_, items);
  co_await watch;
  std::vector<Item> busy;
  for (const Item& item : items) {
    if (!end_move(item, failed)) busy.push_back(item);
  }
  items = std::move(busy);
  co_return items.empty();
}

// Gives back what is not used: what had fallen out of the map when those were waited for that were in the
// cluster, and who came later found nothing there. Nor does a write go there: one that came later goes to the
// target, and if that is what is empty, or a part has stayed at the source, the move ends in a moment without
// writes. (Not otherwise: a cluster may never have one.)
bool Relocator::end_move(const Item& item, bool failed) {
  const Move move = *item.move;
  Mapping mapping = parts_.map.get(item.lcn);
  const bool written = parts_.locks.being_written(item.lcn) != 0;
  const bool source_empty = mapping.mask_of(move.source) == 0;
  const bool target_empty = mapping.mask_of(move.target) == 0;
  if (!source_empty && !failed) return false;
  if (written && (failed || target_empty)) return false;
  if ((source_empty && !item.source_was_empty) || (target_empty && !item.target_was_empty)) return false;
  for (const Pcn pcn : {move.source, move.target}) {
    if (mapping.mask_of(pcn) != 0) continue;
    if (mapping.b == pcn) {
      mapping.b = Pcn(0);
    } else if (mapping.a == pcn) {
      mapping = {mapping.b, Pcn(0), mapping.mask_b, 0};
    }
    parts_.committer.free_when_durable(pcn);
  }
  parts_.map.set(item.lcn, mapping);
  parts_.moves.end(item.lcn);
  return true;
}

}  // namespace foreshadow::volume
