// The second half of a pass: which blobs share a container, where it goes, and the switch of the map.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "volume/await.h"
#include "volume/engine.h"
#include "volume/squeezer.h"

namespace foreshadow::volume {
namespace {

constexpr size_t kNobody = SIZE_MAX;
constexpr size_t kParcelsPerTurn = 8;
constexpr uint32_t kWaitsForOwn = 4;
constexpr uint32_t kWaitsMax = 1000;
constexpr Nanos kWait = std::chrono::milliseconds(1);
constexpr uint32_t kParcelsPerCommit = 64;  // a sync for each 4 MiB of containers, and their space comes back

}  // namespace

// ---- who shares a container

Squeezer::Cargo Squeezer::take_waiting(size_t index) {
  std::swap(waiting_[index], waiting_.back());
  Cargo out = std::move(waiting_.back());
  waiting_.pop_back();
  return out;
}

// The largest that fits into `room` slots.
size_t Squeezer::best_partner(uint32_t room) const {
  size_t best = kNobody;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    const uint32_t count = waiting_[i].to.count();
    if (count <= room && (best == kNobody || count > waiting_[best].to.count())) best = i;
  }
  return best;
}

// The two that fill `room` slots best.
std::pair<size_t, size_t> Squeezer::best_partners(uint32_t room) const {
  std::pair<size_t, size_t> best{kNobody, kNobody};
  uint32_t most = 0;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    for (size_t j = i + 1; j < waiting_.size(); ++j) {
      const uint32_t sum = waiting_[i].to.count() + waiting_[j].to.count();
      if (sum > room || sum <= most) continue;
      most = sum;
      best = {i, j};
      if (sum == room) return best;
    }
  }
  return best;
}

// The largest blob first, with the two that fill its container best, or one if no two fit. False: none of
// those that wait has a partner. A container for one alone would save nothing.
bool Squeezer::pick(Parcel& parcel) {
  while (!waiting_.empty()) {
    const auto largest =
        std::max_element(waiting_.begin(), waiting_.end(),
                         [](const Cargo& x, const Cargo& y) { return x.to.count() < y.to.count(); });
    Cargo first = take_waiting(static_cast<size_t>(largest - waiting_.begin()));
    const uint32_t room = extent::kSlots - first.to.count();
    auto [i, j] = best_partners(room);
    if (i == kNobody) i = best_partner(room);
    if (i == kNobody) {
      odd_.push_back(std::move(first));
      continue;
    }
    parcel.members.clear();
    parcel.members.push_back(std::move(first));
    if (j != kNobody) parcel.members.push_back(take_waiting(std::max(i, j)));
    parcel.members.push_back(take_waiting(j == kNobody ? i : std::min(i, j)));
    return true;
  }
  return false;
}

// ---- where it goes

// Where a first touch could go, but never ahead of a write that waits for one.
Pcn Squeezer::cluster_elsewhere() {
  if (!engine_.held_.empty() || engine_.retrying_ != nullptr) return Pcn(0);
  for (Segment* segment : engine_.segments_.all()) {
    if (segment->row.state != SegmentState::kMerged || segment->room() == 0) continue;
    if (const auto other = segment->allocator.allocate(1); other.count > 0) return other.first;
  }
  if (engine_.placement_.active_with_room() == nullptr) return Pcn(0);
  std::vector<Pcn> taken;
  engine_.placement_.take(1, taken);
  return taken.front();
}

// A cluster of the segment itself, if need be when what was squeezed before is free: after a commit, and when
// requests that were in it have ended. Another one only if that does not help.
io::Task<Result<Pcn>> Squeezer::take_cluster(Uuid segment) {
  for (uint32_t waits = 0;; ++waits) {
    const Status wanted = may_go_on(segment);
    if (!wanted) co_return tl::unexpected(wanted.error());
    const auto own = engine_.segments_.find(segment)->allocator.allocate(1);
    if (own.count > 0) co_return own.first;
    const bool expected = engine_.committer_.frees_pending() || !engine_.departures_.empty();
    if (!expected || waits >= kWaitsForOwn) {
      const Pcn other = cluster_elsewhere();
      if (other.v != 0) co_return other;
    }
    if (!expected || waits == kWaitsMax) {
      co_return fail(Code::kNoSpace,
                     fmt::format("volume {} has no free cluster to squeeze others into", engine_.name()));
    }
    const Status committed = co_await engine_.committer_.commit();
    if (!committed) co_return tl::unexpected(committed.error());
    if (!engine_.departures_.empty()) co_await rest(engine_.executor_, kWait);
  }
}

// ---- the containers

// With `all`, what finds no partner is left raw; else it waits on, unless too much does.
io::Task<Status> Squeezer::pack(Uuid segment, bool all) {
  drop_stale();
  std::vector<Parcel> parcels;
  for (;;) {
    parcels.clear();
    Status going = co_await load_parcels(segment, all, parcels);
    const Status written = co_await write(parcels);
    if (going) going = written;
    for (Parcel& parcel : parcels) {  // all of them, whatever happens: each has a cluster to give back
      const Status delivered = co_await deliver(parcel);
      if (going) going = delivered;
    }
    if (!going) co_return going;
    if (parcels.empty()) break;
    if (since_commit_ < kParcelsPerCommit) continue;
    since_commit_ = 0;
    const Status committed = co_await engine_.committer_.commit();
    if (!committed) co_return committed;
  }
  const bool give_up = all || odd_.size() > limits::kSqueezeWaiting / 2;
  for (Cargo& cargo : odd_) {
    if (give_up) {
      ++report_.alone;
      drop(cargo);
    } else {
      waiting_.push_back(std::move(cargo));
    }
  }
  odd_.clear();
  co_return Status{};
}

io::Task<Status> Squeezer::load_parcels(Uuid segment, bool all, std::vector<Parcel>& parcels) {
  const size_t enough = all ? 1 : limits::kSqueezeWaiting / 2;
  while (parcels.size() < kParcelsPerTurn && waiting_.size() > enough) {
    Parcel parcel;
    if (!pick(parcel)) break;
    // The first waits for its cluster if it must. Where that is scarce the others come when it has made room.
    Result<Pcn> taken = Pcn(0);
    if (parcels.empty()) {
      taken = co_await take_cluster(segment);
    } else if (may_go_on(segment)) {
      taken = engine_.segments_.find(segment)->allocator.allocate(1).first;
    }
    if (taken && taken->v != 0) {
      parcel.container = *taken;
      parcels.push_back(std::move(parcel));
      continue;
    }
    for (Cargo& cargo : parcel.members) waiting_.push_back(std::move(cargo));
    if (!taken) co_return tl::unexpected(taken.error());
    break;
  }
  co_return Status{};
}

io::Task<Status> Squeezer::write(std::vector<Parcel>& parcels) {
  const extent::Geometry geometry = engine_.geometry_;
  transfers_used_ = 0;
  Status noted;
  for (Parcel& parcel : parcels) {
    parcel.image = io::Buffer(geometry.cluster());
    size_t used = 0;
    for (const Cargo& cargo : parcel.members) {
      const size_t bytes = size_t{cargo.to.count()} * geometry.sub_block();
      std::memcpy(parcel.image.data() + used, cargo.blob.data(), bytes);
      used += bytes;
    }
    Segment& segment = engine_.segments_.of(parcel.container);
    const uint64_t at = segment.data_offset(parcel.container, geometry);
    parcel.image_bytes = used;
    noted = co_await may_write(segment, at, used);
    if (!noted) break;
    segment.file->write(next_transfer(), at, parcel.image.first(used));
  }
  co_await AwaitTransfers{*this};
  if (!noted) co_return noted;
  int failure = 0;
  for (size_t i = 0; i < parcels.size(); ++i) {
    engine_.segments_.of(parcels[i].container).unsynced = true;
    parcels[i].written = transfers_[i]->outcome >= 0;
    if (!parcels[i].written) failure = transfers_[i]->outcome;
    if (parcels[i].written) note_checksums(parcels[i]);
  }
  if (failure < 0) co_return fail_errno(failure, "cannot write a container");
  co_return Status{};
}

io::Task<Status> Squeezer::may_write(Segment& segment, uint64_t at, uint64_t length) {
  while (!engine_.checksums_.may_write(segment, at, length)) {
    const Status committed = co_await engine_.committer_.commit();
    if (!committed) co_return committed;
  }
  engine_.checksums_.writing(segment, at, length);
  co_return Status{};
}

void Squeezer::note_checksums(const Parcel& parcel) {
  Segment& segment = engine_.segments_.of(parcel.container);
  engine_.checksums_.written(segment, segment.data_offset(parcel.container, engine_.geometry_),
                             parcel.image.first(parcel.image_bytes));
}

// Switches those of its members that nothing has happened to. A container of fewer than two is not worth it:
// its cluster, which no record names, is free at once.
io::Task<Status> Squeezer::deliver(Parcel& parcel) {
  const Status ready = co_await journal_room();
  const auto alive =
      std::count_if(parcel.members.begin(), parcel.members.end(), [&](const Cargo& c) { return is_true(c); });
  if (!ready || !parcel.written || alive < 2) {
    for (Cargo& cargo : parcel.members) waiting_.push_back(std::move(cargo));
    drop_stale();
    engine_.segments_.of(parcel.container).allocator.release(parcel.container);
    engine_.retry_later();
    co_return ready;
  }
  uint32_t slot = 0;
  for (Cargo& cargo : parcel.members) {
    if (is_true(cargo)) {
      switch_member(cargo, parcel.container, slot);
    } else {
      ++report_.busy;
      drop(cargo);
    }
    slot += cargo.to.count();
  }
  ++report_.containers;
  ++since_commit_;
  co_return Status{};
}

void Squeezer::switch_member(const Cargo& cargo, Pcn container, uint32_t slot) {
  const extent::Mapping before = engine_.map_.get(cargo.lcn);
  const extent::Pack pack = extent::Pack::make(slot, cargo.to.count(), cargo.to.codec());
  extent::Mapping after = before;
  if (cargo.from.is_raw()) {
    after = {container, Pcn(0), extent::kFullMask, 0, pack, {}};
    engine_.moves_.end(cargo.lcn);
    ++report_.squeezed;
  } else {
    (before.pack_a.is_raw() ? after.b : after.a) = container;
    (before.pack_a.is_raw() ? after.pack_b : after.pack_a) = pack;
    ++report_.repacked;
  }
  engine_.record_mapping(cargo.lcn, before, after);
  engine_.departures_.leave(cargo.lcn, cargo.source);
}

bool Squeezer::is_true(const Cargo& cargo) const {
  const extent::Mapping mapping = engine_.map_.get(cargo.lcn);
  if (!cargo.from.is_raw())
    return mapping.container() == cargo.source && mapping.container_pack() == cargo.from;
  const Move* move = engine_.moves_.find(cargo.lcn);
  return move->dirty == 0 && mapping == extent::Mapping{cargo.source, Pcn(0), extent::kFullMask, 0};
}

void Squeezer::drop(const Cargo& cargo) {
  if (cargo.from.is_raw()) engine_.departures_.end_move(cargo.lcn);
}

void Squeezer::drop_stale() {
  std::erase_if(waiting_, [&](const Cargo& cargo) {
    if (is_true(cargo)) return false;
    ++report_.busy;
    drop(cargo);
    return true;
  });
}

}  // namespace foreshadow::volume
