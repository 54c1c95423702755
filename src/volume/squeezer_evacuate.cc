// What is squeezed, out of the way of a relocation. A container moves as a whole: its blobs do not change, so
// it is copied, and each member that is still there is switched to the same slots of the copy. An overlay
// that must move is first filled up from the blob below it: then it is a raw cluster as any other, for the
// relocator to move. The crash argument is that of a pass.
#include <fmt/format.h>

#include "volume/await.h"
#include "volume/engine.h"
#include "volume/squeezer.h"

namespace foreshadow::volume {
namespace {

constexpr uint32_t kLooksPerTurn = 1u << 14;  // map entries

// Holds sub-blocks of one cluster alone. Goes on in a turn of its own.
struct AwaitLock : LockOwner, io::Op {
  io::Executor& executor;
  LockTable& locks;
  std::coroutine_handle<> waiter;
  AwaitLock(io::Executor& e, LockTable& l) : executor(e), locks(l) {
    granted = [](LockOwner* owner) {
      auto* self = static_cast<AwaitLock*>(owner);
      self->executor.post(*self);
    };
    done = [](io::Op* op, int) { static_cast<AwaitLock*>(op)->waiter.resume(); };
  }
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    return !locks.acquire(*this);
  }
  void await_resume() const noexcept {}
};

struct AwaitUnpack : Unpack {
  Unpacker& unpacker;
  std::coroutine_handle<> waiter;
  Code outcome = Code::kOk;
  explicit AwaitUnpack(Unpacker& u) : unpacker(u) {
    done = [](Unpack* part, Code code) {
      auto* self = static_cast<AwaitUnpack*>(part);
      self->outcome = code;
      self->waiter.resume();
    };
  }
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    return !unpacker.want(*this, false);
  }
  Code await_resume() const noexcept { return outcome; }
};

}  // namespace

io::Task<Status> Squeezer::evacuate(const Evacuation& what) {
  const Pcn begin = what.from->row.pcn_base.next(what.first);
  const Pcn end = what.from->row.pcn_base.next(what.from->allocator.clusters());
  const auto leaves = [&](Pcn pcn) { return pcn >= begin && pcn < end; };
  const auto may_go_on = [&]() -> Status {
    if (engine_.closing_ || engine_.evacuator_.stopping())
      return fail(Code::kShutdown, "the volume is closing");
    if (engine_.committer_.poisoned()) return fail(Code::kReadOnly, engine_.committer_.poison_reason());
    return {};
  };
  if (engine_.containers_.count() == 0) co_return Status{};
  const extent::Map& map = engine_.map_;
  uint32_t looks = 0;
  for (Lcn lcn = map.next_populated(Lcn(0)); lcn.v < map.clusters(); lcn = map.next_populated(lcn.next())) {
    if (++looks % kLooksPerTurn == 0) co_await io::yield(engine_.executor_);
    const extent::Mapping mapping = map.get(lcn);
    if (!mapping.is_squeezed() || mapping.b.v == 0 || !leaves(mapping.a)) continue;
    Status filled = may_go_on();
    if (filled) filled = co_await fill_overlay(lcn);
    if (!filled) co_return filled;
  }
  for (Pcn from = engine_.containers_.next(begin, end); from.v != 0;
       from = engine_.containers_.next(from.next(), end)) {
    Status moved = may_go_on();
    if (!moved) co_return moved;
    const MonoTime began = engine_.executor_.now();
    extent::Allocator::Run to = what.take(1);
    while (to.count == 0) {
      const bool again = co_await engine_.relocator_.wait_for_room(what);
      moved = may_go_on();
      if (!moved) co_return moved;
      if (!again) co_return fail(Code::kNoSpace, "there is no room left for what is to be moved");
      to = what.take(1);
    }
    engine_.pacer_.work_began();
    moved = co_await move_container(from, to.first);
    engine_.pacer_.work_ended();
    if (!moved) co_return moved;
    const Status paced = co_await pace(began);
    if (!paced) co_return paced;
  }
  co_return Status{};
}

io::Task<Status> Squeezer::journal_room() {
  Status ready;
  while (ready && !engine_.committer_.has_room()) ready = co_await engine_.committer_.commit();
  if (ready && engine_.committer_.poisoned())
    ready = fail(Code::kReadOnly, engine_.committer_.poison_reason());
  co_return ready;
}

// What still counts of the blob is written to its places in the overlay, which nobody else has before: held
// alone meanwhile, so that no write of those sub-blocks is undone.
io::Task<Status> Squeezer::fill_overlay(Lcn lcn) {
  const extent::Geometry geometry = engine_.geometry_;
  const uint16_t asked = engine_.map_.get(lcn).squeezed_mask();
  AwaitLock lock(engine_.executor_, engine_.locks_);
  engine_.locks_.add(lock, lcn, asked, asked, asked);
  co_await lock;
  const extent::Mapping mapping = engine_.map_.get(lcn);
  const uint16_t bits = mapping.squeezed_mask() & asked;
  Status outcome;
  if (mapping.is_squeezed() && mapping.b.v != 0 && bits == mapping.squeezed_mask()) {
    const io::Buffer cluster(geometry.cluster());
    AwaitUnpack unpack(engine_.unpacker_);
    unpack.lcn = lcn;
    unpack.container = mapping.container();
    unpack.pack = mapping.container_pack();
    unpack.into = cluster.first(geometry.cluster());
    const Code code = co_await unpack;
    if (code != Code::kOk) {
      outcome = fail(code, fmt::format("cluster {} cannot be read, and so not be moved", lcn.v));
    }
    Segment& segment = engine_.segments_.of(mapping.a);
    for (uint32_t i = 0; i < extent::kSubBlocks && outcome; ++i) {
      if ((bits >> i & 1) == 0) continue;
      const uint64_t within = uint64_t{i} << geometry.sub_block_bits;
      const uint64_t at = segment.data_offset(mapping.a, geometry) + within;
      const auto bytes = cluster.span().subspan(within, geometry.sub_block());
      outcome = co_await may_write(segment, at, bytes.size());
      if (!outcome) break;
      const int written = co_await io::write(*segment.file, at, bytes);
      segment.unsynced = true;
      if (written < 0) outcome = fail_errno(written, "cannot write what is to be moved");
      if (outcome) engine_.checksums_.written(segment, at, bytes);
    }
    if (outcome) outcome = co_await journal_room();
    const extent::Mapping before = engine_.map_.get(lcn);
    // Its other sub-blocks may have been written to meanwhile; these are ours.
    if (outcome && before.container() == mapping.container() && before.a == mapping.a) {
      engine_.record_mapping(lcn, before, {before.a, Pcn(0), extent::kFullMask, 0});
      engine_.departures_.leave(lcn, mapping.container());
    }
  }
  engine_.locks_.release(lock);
  co_return outcome;
}

io::Task<Status> Squeezer::move_container(Pcn from, Pcn to) {
  const extent::Geometry geometry = engine_.geometry_;
  const io::Buffer image(geometry.cluster());
  const auto bytes = image.first(geometry.cluster());
  Segment& source = engine_.segments_.of(from);
  Segment& target = engine_.segments_.of(to);
  Status outcome;
  const int read = co_await io::read(*source.file, source.data_offset(from, geometry), bytes);
  if (read < 0) outcome = fail_errno(read, "cannot read what is to be moved");
  const uint64_t there = target.data_offset(to, geometry);
  if (outcome) outcome = co_await may_write(target, there, bytes.size());
  if (outcome) {
    const int written = co_await io::write(*target.file, there, bytes);
    target.unsynced = true;
    if (written < 0) outcome = fail_errno(written, "cannot write what is to be moved");
  }
  if (outcome) engine_.checksums_.carry(from, to, extent::kFullMask);
  if (outcome) outcome = co_await journal_room();
  std::array<extent::Container::Member, extent::kMembers> members;
  const extent::Container* container = engine_.containers_.find(from);
  const uint32_t count = outcome && container != nullptr ? container->members(members) : 0;
  if (count == 0) {
    engine_.segments_.of(to).allocator.release(to);
    engine_.retry_later();
  }
  for (uint32_t i = 0; i < count; ++i) {
    const Lcn lcn = members[i].lcn;
    const extent::Mapping before = engine_.map_.get(lcn);
    extent::Mapping after = before;
    (before.pack_a.is_raw() ? after.b : after.a) = to;
    engine_.record_mapping(lcn, before, after);
    engine_.departures_.leave(lcn, from);
  }
  co_return outcome;
}

}  // namespace foreshadow::volume
