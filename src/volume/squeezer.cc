// The pass, and its first half: finding clusters, reading and compressing them. squeezer_pack.cc has the
// second.
#include "volume/squeezer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "volume/await.h"
#include "volume/engine.h"

namespace foreshadow::volume {
namespace {

constexpr uint32_t kLooksPerTurn = 4096;  // map entries
constexpr size_t kCompressedPerTurn = 4;  // so that a decoding behind them on the worker does not wait long
constexpr Nanos kPaceMin = std::chrono::milliseconds(1);

// A lot for each cluster, the same in every run of a simulation.
uint32_t lot(uint64_t seed, Lcn lcn) {
  uint64_t z = (seed ^ lcn.v) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 31)) * 0xbf58476d1ce4e5b9ull;
  return static_cast<uint32_t>(z >> 40);
}

}  // namespace

Squeezer::Squeezer(Engine& engine) : engine_(engine), writer_(engine.geometry_) {}

io::Task<Status> Squeezer::run(Pass& state) {
  options_ = state.options;
  report_ = state.report;
  cursor_ = state.cursor;
  const Status done = co_await pass(state.segment);
  for (const auto* left : {&fresh_, &waiting_, &odd_}) {
    for (const Cargo& cargo : *left) drop(cargo);
  }
  fresh_.clear();
  waiting_.clear();
  odd_.clear();
  raw_.clear();
  // No move is left behind that another job would meet.
  while (!engine_.moves_.empty()) co_await rest(engine_.executor_, kPaceMin);
  state.report = report_;
  state.cursor = cursor_;
  state.finished = cursor_.v >= engine_.map_.clusters();
  co_return done;
}

bool Squeezer::must_yield() const {
  return engine_.evacuator_.others_wait();
}

io::Task<Status> Squeezer::pass(Uuid segment) {
  const Status announced = co_await announce();
  if (!announced) co_return announced;
  since_commit_ = 0;
  for (bool last = false; !last;) {
    const Status wanted = may_go_on(segment);
    if (!wanted) co_return wanted;
    const MonoTime began = engine_.executor_.now();
    engine_.pacer_.work_began();
    gather(segment);
    last = cursor_.v >= engine_.map_.clusters() || must_yield();
    const Status loaded = co_await load();
    Status going = co_await compress();
    if (going && (last || waiting_.size() >= limits::kSqueezeWaiting)) going = co_await pack(segment, last);
    engine_.pacer_.work_ended();
    if (!loaded) co_return loaded;
    if (!going) co_return going;
    const Status paced = co_await pace(began);
    if (!paced) co_return paced;
  }
  const Status committed = co_await engine_.committer_.commit();
  co_return committed;
}

// A volume that has squeezed clusters says so before it has any.
io::Task<Status> Squeezer::announce() {
  Checkpointer& checkpointer = engine_.checkpointer_;
  if ((checkpointer.super().features & extent::kFeatureSqueezed) != 0) co_return Status{};
  checkpointer.require(extent::kFeatureSqueezed);
  const Status written = co_await checkpointer.run_now();
  co_return written;
}

Status Squeezer::may_go_on(const Uuid& segment) const {
  if (engine_.closing_ || stopped_)
    return fail(Code::kShutdown, fmt::format("volume {} is closing", engine_.name()));
  if (engine_.committer_.poisoned()) return fail(Code::kReadOnly, engine_.committer_.poison_reason());
  const Segment* found = engine_.segments_.find(segment);
  if (found == nullptr) {
    return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", engine_.name(), segment.str()));
  }
  if (found->row.state == SegmentState::kSealed || found->row.state == SegmentState::kMerged) return {};
  return fail(Code::kFailedPrecondition, fmt::format("segment {} of volume {} is neither sealed nor merged",
                                                     found->row.id.v, engine_.name()));
}

// ---- finding

void Squeezer::gather(const Uuid& id) {
  const Segment& segment = *engine_.segments_.find(id);
  const extent::Map& map = engine_.map_;
  for (uint32_t looks = 0; looks < kLooksPerTurn && fresh_.size() < limits::kSqueezeInFlight; ++looks) {
    cursor_ = map.next_populated(cursor_);
    if (cursor_.v >= map.clusters()) return;
    if (take(segment, cursor_)) ++report_.taken;
    cursor_ = cursor_.next();
  }
}

bool Squeezer::take(const Segment& segment, Lcn lcn) {
  const extent::Mapping mapping = engine_.map_.get(lcn);
  if (mapping.is_squeezed()) {
    const Pcn container = mapping.container();
    if (&engine_.segments_.of(container) != &segment) return false;
    std::array<extent::Container::Member, extent::kMembers> members;
    if (engine_.containers_.find(container)->members(members) > 1) return false;
    const extent::Pack from = mapping.container_pack();
    fresh_.push_back({lcn, container, from, extent::Pack::make(0, from.count(), from.codec()), {}});
    return true;
  }
  if (mapping.b.v != 0 || mapping.mask_a != extent::kFullMask) return false;
  if (&engine_.segments_.of(mapping.a) != &segment) return false;
  // Somebody else moves it, or a write of it is under way that knows of no move.
  if (engine_.moves_.find(lcn) != nullptr || engine_.locks_.being_written(lcn) != 0) {
    ++report_.busy;
    return false;
  }
  engine_.moves_.begin(lcn, mapping.a, Pcn(0)).copying = extent::kFullMask;
  fresh_.push_back({lcn, mapping.a, {}, {}, {}});
  return true;
}

// ---- reading

Squeezer::Transfer& Squeezer::next_transfer() {
  if (transfers_used_ == transfers_.size()) {
    Transfer& fresh = *transfers_.emplace_back(std::make_unique<Transfer>());
    fresh.owner = this;
    fresh.done = [](io::Op* op, int result) {
      auto* transfer = static_cast<Transfer*>(op);
      transfer->outcome = result;
      Squeezer& self = *transfer->owner;
      if (--self.transfers_left_ == 0 && self.transfers_waiter_)
        std::exchange(self.transfers_waiter_, {}).resume();
    };
  }
  ++transfers_left_;
  return *transfers_[transfers_used_++];
}

uint64_t Squeezer::place_of(const Cargo& cargo) const {
  const uint64_t at = engine_.segments_.of(cargo.source).data_offset(cargo.source, engine_.geometry_);
  return cargo.from.is_raw() ? at : at + uint64_t{cargo.from.slot()} * engine_.geometry_.sub_block();
}

std::span<std::byte> Squeezer::memory_of(size_t index) const {
  const Cargo& cargo = fresh_[index];
  if (cargo.from.is_raw()) return raw_[index].first(engine_.geometry_.cluster());
  return cargo.blob.first(size_t{cargo.from.count()} * engine_.geometry_.sub_block());
}

// What cannot be read stays as it is: whoever reads it will be told.
io::Task<Status> Squeezer::load() {
  raw_.resize(std::max(raw_.size(), fresh_.size()));
  transfers_used_ = 0;
  for (size_t i = 0; i < fresh_.size(); ++i) {
    Cargo& cargo = fresh_[i];
    io::Buffer& memory = cargo.from.is_raw() ? raw_[i] : cargo.blob;
    if (memory.size() == 0) memory = io::Buffer(engine_.geometry_.cluster());
    engine_.segments_.of(cargo.source).file->read(next_transfer(), place_of(cargo), memory_of(i));
  }
  co_await AwaitTransfers{*this};
  for (size_t i = 0; i < fresh_.size(); ++i) {
    Cargo& cargo = fresh_[i];
    const Segment& segment = engine_.segments_.of(cargo.source);
    bool good = transfers_[i]->outcome >= 0 && is_true(cargo);
    // The checksum of what is written next would make bad data look good.
    good = good && !engine_.checksums_.verify(segment, place_of(cargo), memory_of(i));
    if (good && !cargo.from.is_raw())
      good = BlobReader::verify(cargo.lcn, cargo.from, memory_of(i)).has_value();
    if (!good) cargo.to = extent::Pack{};
    cargo.given_up = !good;
  }
  co_return Status{};
}

// ---- compressing

io::Task<Status> Squeezer::compress() {
  for (size_t from = 0; from < fresh_.size(); from += kCompressedPerTurn) {
    const size_t to = std::min(fresh_.size(), from + kCompressedPerTurn);
    AwaitWorker worker{engine_.executor_, [this, from, to] {
                         for (size_t i = from; i < to; ++i) compress_one(i);
                       }};
    co_await worker;
  }
  for (Cargo& cargo : fresh_) {
    if (cargo.given_up || cargo.to.is_raw()) {
      ++(cargo.given_up ? report_.busy : report_.incompressible);
      drop(cargo);
    } else {
      waiting_.push_back(std::move(cargo));
    }
  }
  fresh_.clear();
  co_return Status{};
}

void Squeezer::compress_one(size_t index) {
  Cargo& cargo = fresh_[index];
  if (cargo.given_up || !cargo.from.is_raw()) return;
  const extent::Geometry geometry = engine_.geometry_;
  if (scratch_.size() == 0) scratch_ = io::Buffer(geometry.cluster());
  const auto out = scratch_.first(geometry.cluster());
  uint32_t slots = writer_.encode(cargo.lcn, raw_[index].first(geometry.cluster()), options_.how, out);
  if (slots > 0 && options_.lots != 0) {
    const uint32_t drawn = lot(options_.lots, cargo.lcn);
    const uint32_t more = std::min(kBlobSlotsMax, slots + drawn % 13);
    std::fill(out.begin() + static_cast<ptrdiff_t>(slots * geometry.sub_block()),
              out.begin() + static_cast<ptrdiff_t>(more * geometry.sub_block()), std::byte{0});
    slots = drawn / 13 % 8 == 0 ? 0 : more;
  }
  if (slots == 0) return;
  const size_t bytes = size_t{slots} * geometry.sub_block();
  cargo.blob = io::Buffer(bytes);
  std::memcpy(cargo.blob.data(), out.data(), bytes);
  cargo.to = extent::Pack::make(0, slots, options_.how.codec);
}

io::Task<Status> Squeezer::pace(MonoTime began) {
  const MonoTime now = engine_.executor_.now();
  const Nanos due = engine_.pacer_.rest_after(now, now - began);
  if (due > Nanos(0)) {
    co_await rest(engine_.executor_, due);
  } else {
    co_await io::yield(engine_.executor_);
  }
  co_return Status{};
}

}  // namespace foreshadow::volume
