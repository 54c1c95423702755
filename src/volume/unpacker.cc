#include "volume/unpacker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"

namespace foreshadow::volume {

Unpacker::Unpacker(io::Executor& executor, SegmentSet& segments, extent::Geometry geometry,
                   const Checksums& checksums, std::function<void(std::string)> on_damaged)
    : executor_(executor),
      segments_(segments),
      geometry_(geometry),
      checksums_(checksums),
      on_damaged_(std::move(on_damaged)),
      here_(geometry),
      aside_(geometry) {}

Unpacker::~Unpacker() {
  ASSERT(under_way_.empty() && queued_.empty());
}

Unpacker::Kept* Unpacker::find_kept(Pcn container, uint32_t slot) {
  for (Kept& kept : kept_) {
    if (kept.container == container && kept.slot == slot) return &kept;
  }
  return nullptr;
}

void Unpacker::forget(Pcn container) {
  for (Kept& kept : kept_) {
    if (kept.container == container) kept.container = Pcn(0);
  }
}

bool Unpacker::want(Unpack& part, bool aside) {
  if (Kept* kept = find_kept(part.container, part.pack.slot())) {
    kept->used_at = ++clock_;
    std::memcpy(part.into.data(), kept->cluster.data() + part.from, part.into.size());
    return true;
  }
  Fetch* fetch = find_fetch(part);
  if (fetch != nullptr) {
    part.next = std::exchange(fetch->waiting, &part);
    return false;
  }
  fetch = &idle_fetch();
  fetch->lcn = part.lcn;
  fetch->container = part.container;
  fetch->pack = part.pack;
  fetch->aside = aside;
  fetch->waiting = &part;
  part.next = nullptr;
  queued_.push_back(fetch);
  start_next();
  return false;
}

Unpacker::Fetch* Unpacker::find_fetch(const Unpack& part) {
  const auto same = [&](const Fetch* fetch) {
    return fetch->container == part.container && fetch->pack == part.pack && fetch->lcn == part.lcn;
  };
  const auto reading = std::find_if(under_way_.begin(), under_way_.end(), same);
  if (reading != under_way_.end()) return *reading;
  const auto waiting = std::find_if(queued_.begin(), queued_.end(), same);
  return waiting == queued_.end() ? nullptr : *waiting;
}

Unpacker::Fetch& Unpacker::idle_fetch() {
  if (idle_.empty()) {
    idle_.push_back(fetches_.emplace_back(std::make_unique<Fetch>()).get());
    idle_.back()->owner = this;
    idle_.back()->done = [](io::Op* op, int result) {
      auto* fetch = static_cast<Fetch*>(op);
      fetch->owner->on_read(*fetch, result);
    };
  }
  Fetch* fetch = idle_.back();
  idle_.pop_back();
  return *fetch;
}

void Unpacker::start_next() {
  while (!queued_.empty() && under_way_.size() < limits::kUnpacksInFlight) {
    Fetch* fetch = queued_.front();
    queued_.pop_front();
    under_way_.push_back(fetch);
    const size_t bytes = size_t{fetch->pack.count()} * geometry_.sub_block();
    if (fetch->blob.size() < bytes) fetch->blob = io::Buffer(geometry_.cluster());
    if (fetch->cluster.size() == 0) fetch->cluster = io::Buffer(geometry_.cluster());
    segments_.of(fetch->container).file->read(*fetch, place_of(*fetch), fetch->blob.first(bytes));
  }
}

uint64_t Unpacker::place_of(const Fetch& fetch) const {
  return segments_.of(fetch.container).data_offset(fetch.container, geometry_) +
         uint64_t{fetch.pack.slot()} * geometry_.sub_block();
}

std::span<const std::byte> Unpacker::blob_of(const Fetch& fetch) const {
  return fetch.blob.first(size_t{fetch.pack.count()} * geometry_.sub_block());
}

void Unpacker::on_read(Fetch& fetch, int result) {
  if (result < 0) return finish(fetch, Code::kIo);
  if (checksums_.verify(segments_.of(fetch.container), place_of(fetch), blob_of(fetch))) {
    fetch.decoded = fail(Code::kCorrupt, "it is not what was written there");
    return on_decoded(fetch);
  }
  if (fetch.aside) {
    return executor_.offload([this, &fetch] { decode(fetch, aside_); },
                             [this, &fetch] { on_decoded(fetch); });
  }
  decode(fetch, here_);
  on_decoded(fetch);
}

void Unpacker::decode(Fetch& fetch, BlobReader& reader) {
  fetch.decoded =
      reader.decode(fetch.lcn, fetch.pack, blob_of(fetch), fetch.cluster.first(geometry_.cluster()));
}

void Unpacker::on_decoded(Fetch& fetch) {
  if (fetch.decoded) return finish(fetch, Code::kOk);
  on_damaged_(fmt::format("cluster {} is damaged, in slots {}+{} of container {}: {}", fetch.lcn.v,
                          fetch.pack.slot(), fetch.pack.count(), fetch.container.v,
                          fetch.decoded.error().message));
  finish(fetch, Code::kCorrupt);
}

void Unpacker::finish(Fetch& fetch, Code code) {
  std::erase(under_way_, &fetch);
  Unpack* waiting = std::exchange(fetch.waiting, nullptr);
  if (code == Code::kOk) {
    for (const Unpack* part = waiting; part != nullptr; part = part->next)
      std::memcpy(part->into.data(), fetch.cluster.data() + part->from, part->into.size());
    keep(fetch);
  }
  idle_.push_back(&fetch);
  start_next();
  while (waiting != nullptr) {
    Unpack* part = waiting;
    waiting = std::exchange(part->next, nullptr);
    part->done(part, code);
  }
}

// In the place of what was not wanted for longest, whose memory the next decoding takes.
void Unpacker::keep(Fetch& fetch) {
  Kept* place = nullptr;
  if (kept_.size() < limits::kDecodedClusters) {
    place = &kept_.emplace_back();
  } else {
    place = &*std::min_element(kept_.begin(), kept_.end(), [](const Kept& x, const Kept& y) {
      return x.container.v == 0 || (y.container.v != 0 && x.used_at < y.used_at);
    });
  }
  place->container = fetch.container;
  place->slot = fetch.pack.slot();
  place->used_at = ++clock_;
  std::swap(place->cluster, fetch.cluster);
}

}  // namespace foreshadow::volume
