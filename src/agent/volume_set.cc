#include "agent/volume_set.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/agent_limits.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/size.h"
#include "extent/repair.h"

namespace foreshadow::agent {
namespace {

void note_policy(const v1::VolumePolicy& policy, state::VolumeRecord* record) {
  record->set_fold(policy.merge() == v1::MERGE_MODE_FOLD);
  record->set_reclaim(policy.reclaim());
  record->set_reclaim_hold_s(policy.reclaim_hold_s());
}

v1::VolumePolicy policy_of(const state::VolumeRecord& record) {
  v1::VolumePolicy out;
  out.set_merge(record.fold() ? v1::MERGE_MODE_FOLD : v1::MERGE_MODE_ADOPT);
  out.set_reclaim(record.reclaim());
  out.set_reclaim_hold_s(record.reclaim_hold_s());
  return out;
}

}  // namespace

VolumeSet::VolumeSet(Catalog& catalog, nbd::Server& server, EventSink& sink, Clock clock, Rng& rng,
                     NbdSocket nbd_socket)
    : catalog_(catalog),
      loop_(catalog.loop()),
      server_(server),
      sink_(sink),
      clock_(std::move(clock)),
      rng_(rng),
      nbd_socket_(std::move(nbd_socket)) {}

std::shared_ptr<VolumeHost> VolumeSet::find(const Uuid& id) const {
  const auto found = hosts_.find(id);
  return found == hosts_.end() ? nullptr : found->second;
}

const BrokenVolume* VolumeSet::find_broken(const Uuid& id) const {
  const auto found = broken_.find(id);
  return found == broken_.end() ? nullptr : &found->second;
}

std::vector<v1::Volume> VolumeSet::reports() const {
  std::vector<v1::Volume> out;
  for (const auto& [id, host] : hosts_) out.push_back(host->report());
  for (const auto& [id, broken] : broken_) {
    out.push_back(broken.report);  // control adds what it knows where this one's own segments cannot tell
  }
  return out;
}

// While one is not, it may hide backings.
bool VolumeSet::all_pools_usable() const {
  const std::vector<v1::Pool> pools = catalog_.pools();
  return std::all_of(pools.begin(), pools.end(),
                     [&](const v1::Pool& pool) { return catalog_.pool(pool.name()).has_value(); });
}

volume::RunOptions VolumeSet::run_options(const Uuid& id) const {
  volume::RunOptions options;
  const state::VolumeRecord* record = catalog_.record(id);
  if (record != nullptr && record->hold_timeout_ms() != 0) {
    options.hold_timeout = std::chrono::milliseconds(record->hold_timeout_ms());
  }
  if (record != nullptr && record->has_band()) {
    options.band_bytes = record->band_bytes();
    options.band_percent = record->band_percent();
  }
  return options;
}

// --- start ---

io::Task<Status> VolumeSet::open_found() {
  const std::map<Uuid, std::vector<Backing>> groups = co_await catalog_.find_backings();
  bool news = false;
  for (const auto& [id, backings] : groups) {
    if (hosts_.contains(id)) continue;
    news = true;
    const state::VolumeRecord* record = catalog_.record(id);
    const auto phase = record == nullptr ? state::VOLUME_PHASE_SERVED : record->phase();
    if (phase == state::VOLUME_PHASE_SERVED) {
      const Status opened = co_await open_group(id, backings);
      if (!opened) co_return opened;
      continue;
    }
    log::info("volume {}: finishing its {}", id.str(),
              phase == state::VOLUME_PHASE_CREATING ? "interrupted creation, by removing it" : "removal");
    const Status removed = co_await remove_unserved(backings);
    if (!removed) log::error("volume {}: {}", id.str(), removed.error().message);
  }
  if (news) sink_.on_inventory_changed();
  // Notes of interrupted work whose backings are all gone have served.
  const std::map<Uuid, std::vector<Backing>> left = co_await catalog_.find_backings();
  const std::vector<state::VolumeRecord> records = catalog_.records();
  for (const state::VolumeRecord& record : records) {
    const auto id = Uuid::parse(record.id());
    if (!id || left.contains(*id)) continue;
    if (record.phase() == state::VOLUME_PHASE_SERVED) {
      if (hosts_.contains(*id) || broken_.contains(*id)) continue;
      std::vector<Backing> none;
      Error why{Code::kNotFound, "none of its segments is in any pool: is a pool's file system not mounted?"};
      const Status marked = co_await mark_broken(*id, std::move(none), std::move(why));
      if (!marked) co_return marked;
      continue;
    }
    if (!all_pools_usable()) continue;
    const Status erased = co_await catalog_.erase_record(*id);
    if (!erased) co_return erased;
  }
  co_return Status{};
}

io::Task<Status> VolumeSet::open_group(Uuid id, std::vector<Backing> backings) {
  if (hosts_.size() >= foreshadow::limits::kVolumes) {
    log::error("volume {} is not served: {} volumes are served already, the limit", id.str(), hosts_.size());
    co_return Status{};
  }
  auto opened = co_await open_volume(id, backings);
  if (!opened) {
    const Status marked = co_await mark_broken(id, backings, opened.error());
    co_return marked;
  }
  const volume::Volume& volume = *opened->volume;
  const Status cleaned = co_await remove_orphans(volume, std::move(opened->orphans), backings);
  if (!cleaned) co_return cleaned;
  const auto served = serve(opened->volume, backings);
  if (!served) {
    const Status closed = co_await opened->volume->close();
    if (!closed) log::warn("volume {}: {}", id.str(), closed.error().message);
    opened->volume.reset();
    const Status marked = co_await mark_broken(id, backings, served.error());
    co_return marked;
  }
  broken_.erase(id);
  log::info("volume {} is served", (*served)->name());
  (*served)->resume_jobs(*served);
  co_return Status{};
}

io::Task<Result<volume::Volume::Opened>> VolumeSet::open_volume(Uuid id, std::vector<Backing> backings) {
  std::vector<volume::SegmentFile> files;
  for (const Backing& backing : backings) {
    auto file = co_await catalog_.open_backing(backing, io::Directory::Mode::kReadWriteLocked);
    if (!file) co_return tl::unexpected(file.error());
    files.push_back({backing.segment, std::move(*file)});
  }
  const Status based = co_await add_base(files);
  if (!based) co_return tl::unexpected(based.error());
  auto opened = co_await volume::Volume::open(loop_, std::move(files), run_options(id));
  if (!opened) co_return tl::unexpected(opened.error());
  if (opened->volume->id() != id) {
    const std::string other = opened->volume->id().str();
    const Status closed = co_await opened->volume->close();
    if (!closed) log::warn("volume {}: {}", other, closed.error().message);
    co_return fail(Code::kCorrupt,
                   fmt::format("the backings named for volume {} are of volume {}", id.str(), other));
  }
  co_return opened;
}

// Only backings that the volume itself disowns, or that were never labelled (a nil UUID), and that it does
// not list.
io::Task<Status> VolumeSet::remove_orphans(const volume::Volume& volume, std::vector<Uuid> orphans,
                                           std::vector<Backing> backings) {
  const std::vector<volume::SegmentInfo> segments = volume.segments();
  for (const Backing& backing : backings) {
    const bool attached = std::any_of(segments.begin(), segments.end(),
                                      [&](const auto& info) { return info.uuid == backing.segment; });
    const bool orphan = std::any_of(orphans.begin(), orphans.end(), [&](const Uuid& uuid) {
      return uuid == backing.segment || uuid.is_nil();
    });
    if (attached || !orphan) continue;
    const Status removed = co_await catalog_.remove_backing(backing);
    if (removed) {
      log::info("backing {} in pool {} was never attached and is removed", backing.name(), backing.pool);
    } else {
      log::warn("backing {} in pool {} was never attached; it stays, because: {}", backing.name(),
                backing.pool, removed.error().message);
    }
  }
  co_return Status{};
}

io::Task<Status> VolumeSet::mark_broken(Uuid id, std::vector<Backing> backings, Error error) {
  const state::VolumeRecord* record = catalog_.record(id);
  const std::string name = record == nullptr ? std::string() : record->name();
  const std::string reason = fmt::format("it cannot be opened: {}", error.message);
  v1::Volume report = co_await survey(catalog_, backings, name, reason);
  report.set_id(id.str());
  log::error("volume {} ({}) is not served: {}", report.name().empty() ? "of unknown name" : report.name(),
             id.str(), reason);
  v1::VolumeEvent event;
  event.set_time_ms(clock_());
  event.set_kind(v1::VolumeEvent::KIND_READ_ONLY);
  event.set_message(reason);
  *event.mutable_volume() = report;
  broken_[id] = BrokenVolume{std::move(report), std::move(backings)};
  sink_.on_event(std::move(event));
  co_return Status{};
}

Result<std::shared_ptr<VolumeHost>> VolumeSet::serve(std::unique_ptr<volume::Volume>& volume,
                                                     const std::vector<Backing>& backings) {
  ASSIGN_OR_RETURN(const Name name, Name::parse(volume->name(), "volume name"));
  Whereabouts where;
  where.agent_id = catalog_.agent_id();
  where.uri = nbd_unix_uri(name.str(), nbd_socket_);
  for (const Backing& backing : backings) where.pool_of[backing.segment] = backing.pool;
  const state::VolumeRecord* record = catalog_.record(volume->id());
  const auto squeeze = record == nullptr ? 0 : static_cast<int>(record->squeeze());
  if (v1::SqueezeMode_IsValid(squeeze) && squeeze != v1::SQUEEZE_MODE_UNSPECIFIED)
    where.squeeze = static_cast<v1::SqueezeMode>(squeeze);
  if (record != nullptr) where.policy = policy_of(*record);
  TRY(server_.add_export(name, *volume));
  const Uuid id = volume->id();
  auto host = std::make_shared<VolumeHost>(catalog_, clock_, sink_, std::move(volume), std::move(where));
  hosts_[id] = host;
  return host;
}

// --- create ---

Status VolumeSet::check_spec(const VolumeSpec& spec) const {
  namespace common = foreshadow::limits;
  TRY(Name::parse(spec.name, "volume name"));
  if (spec.size < common::kVolumeSizeMin || spec.size > common::kVolumeSizeMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("volume {}: size {}: expected {} to {}", spec.name, spec.size,
                            format_size(common::kVolumeSizeMin), format_size(common::kVolumeSizeMax)));
  }
  if (spec.primary_size < common::kSegmentSizeMin || spec.primary_size > common::kSegmentSizeMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("volume {}: primary of {}: expected {} to {}", spec.name, spec.primary_size,
                            format_size(common::kSegmentSizeMin), format_size(common::kSegmentSizeMax)));
  }
  if (spec.hold_timeout_ms > limits::kHoldTimeoutMsMax) {
    return fail(Code::kInvalidArgument, fmt::format("volume {}: hold timeout {} ms: at most {}", spec.name,
                                                    spec.hold_timeout_ms, limits::kHoldTimeoutMsMax));
  }
  if (hosts_.size() + broken_.size() >= common::kVolumes) {
    return fail(Code::kLimit, fmt::format("volume {}: {} volumes are served already, the limit", spec.name,
                                          common::kVolumes));
  }
  for (const v1::Volume& other : reports()) {
    if (other.name() == spec.name) {
      return fail(Code::kAlreadyExists, fmt::format("there is a volume {} already", spec.name));
    }
  }
  return {};
}

io::Task<Result<std::shared_ptr<VolumeHost>>> VolumeSet::create(VolumeSpec spec) {
  const std::shared_ptr<VolumeHost> known = find(spec.id);
  if (known != nullptr && known->name() == spec.name) co_return known;
  if (known != nullptr || broken_.contains(spec.id)) {
    co_return fail(Code::kAlreadyExists, fmt::format("volume id {} is taken", spec.id.str()));
  }
  auto image = co_await open_image(spec);
  if (!image) co_return tl::unexpected(image.error());
  const Status good = check_spec(spec);
  if (!good) co_return tl::unexpected(good.error());
  const auto pool = catalog_.pool(spec.pool);
  if (!pool) co_return tl::unexpected(pool.error());

  // Noted first: a crash from here on leaves backings that the next start knows to remove.
  state::VolumeRecord record;
  record.set_id(spec.id.str());
  record.set_name(spec.name);
  record.set_hold_timeout_ms(spec.hold_timeout_ms == 0 ? limits::kHoldTimeoutMsDefault
                                                       : spec.hold_timeout_ms);
  record.set_squeeze(spec.squeeze);
  if (spec.backpressure) {
    record.set_has_band(true);
    record.set_band_bytes(spec.backpressure->bytes());
    record.set_band_percent(spec.backpressure->percent());
  }
  note_policy(spec.policy, &record);
  record.set_base_path(spec.device);
  record.set_phase(state::VOLUME_PHASE_CREATING);
  const Status noted = co_await catalog_.put_record(record);
  if (!noted) co_return tl::unexpected(noted.error());

  const Backing primary{spec.id, Uuid::random(rng_), spec.pool};
  auto made = co_await make(spec, primary, std::move(*image));
  if (made) co_return made;
  const Status removed = co_await catalog_.remove_backing(primary);
  Status erased = removed;
  if (removed) erased = co_await catalog_.erase_record(spec.id);
  if (!erased)
    log::warn("volume {}: its creation failed and cleaning up too: {}", spec.name, erased.error().message);
  co_return made;
}

io::Task<Result<std::shared_ptr<VolumeHost>>> VolumeSet::make(VolumeSpec spec, Backing primary,
                                                              volume::SegmentFile image) {
  const auto pool = catalog_.pool(spec.pool);
  if (!pool) co_return tl::unexpected(pool.error());
  Offload create(loop_, [&] { return (*pool)->create(primary.name(), spec.primary_size); });
  auto file = co_await create;
  if (!file) co_return tl::unexpected(file.error());

  volume::CreateOptions options;
  options.id = spec.id;
  options.name = spec.name;
  options.size = spec.size;
  options.redirect = spec.redirect;
  options.checksums = spec.checksums;
  if (image.file != nullptr) {
    options.size = image.file->size();
    options.base = volume::BaseImage{image.uuid, options.size, spec.device};
  }
  const Status formatted = co_await volume::Volume::format_primary(**file, options, primary.segment);
  if (!formatted) co_return tl::unexpected(formatted.error());

  std::vector<volume::SegmentFile> files;
  files.push_back({primary.segment, std::move(*file)});
  if (image.file != nullptr) files.push_back(std::move(image));
  auto opened = co_await volume::Volume::open(loop_, std::move(files), run_options(spec.id));
  if (!opened) co_return tl::unexpected(opened.error());
  const Status grown = co_await opened->volume->grow(spec.size);
  if (!grown) {
    const Status closed = co_await opened->volume->close();
    if (!closed) log::warn("volume {}: {}", spec.name, closed.error().message);
    co_return tl::unexpected(grown.error());
  }
  // From here on the volume is one to keep. Served before the note says so would let a crash take it from a
  // client.
  const Status noted = co_await note_phase(spec.id, spec.name, state::VOLUME_PHASE_SERVED);
  if (!noted) {
    const Status closed = co_await opened->volume->close();
    if (!closed) log::warn("volume {}: {}", spec.name, closed.error().message);
    co_return tl::unexpected(noted.error());
  }
  const std::vector<Backing> backings{primary};
  auto served = serve(opened->volume, backings);
  if (served) co_return served;
  const Status closed = co_await opened->volume->close();
  if (!closed) log::warn("volume {}: {}", spec.name, closed.error().message);
  co_return served;
}

io::Task<Status> VolumeSet::note_phase(Uuid id, std::string name, state::VolumePhase phase) {
  state::VolumeRecord record;
  const state::VolumeRecord* known = catalog_.record(id);
  if (known != nullptr) record = *known;
  record.set_id(id.str());
  if (!name.empty()) record.set_name(name);
  record.set_phase(phase);
  const Status put = co_await catalog_.put_record(std::move(record));
  co_return put;
}

// --- remove ---

io::Task<Status> VolumeSet::remove(Uuid id, bool force) {
  const std::shared_ptr<VolumeHost> host = find(id);
  const Status allowed = check_removal(id, force);
  if (!allowed) co_return allowed;
  if (host == nullptr) {
    const Status removed = co_await remove_rest(id, Uuid{});
    co_return removed;
  }
  Uuid primary;
  for (const volume::SegmentInfo& info : host->volume().segments()) {
    if (info.role == extent::SegmentRole::kPrimary) primary = info.uuid;
  }
  const Status noted = co_await note_phase(id, host->name(), state::VOLUME_PHASE_DELETING);
  if (!noted) co_return noted;
  hosts_.erase(id);
  Signal drained;
  server_.drain_export(host->volume(), [&drained] { drained.set(); });
  // Closing fails what is held at the wall, which the drain would wait for.
  const Status closed = co_await host->close();
  if (!closed)
    log::warn("volume {} did not close cleanly before its removal: {}", host->name(), closed.error().message);
  co_await drained;
  // The backings found in the pools, not only those attached: nothing of the volume is to be left behind.
  const Status removed = co_await remove_rest(id, primary);
  if (removed) log::info("volume {} is removed", host->name());
  co_return removed;
}

// Removes what the pools hold of a volume that is not served; `last` last, so that what a crash leaves can be
// recognised.
io::Task<Status> VolumeSet::remove_rest(Uuid id, Uuid last) {
  const std::map<Uuid, std::vector<Backing>> groups = co_await catalog_.find_backings();
  const auto found = groups.find(id);
  std::vector<Backing> backings;
  if (found != groups.end()) backings = found->second;
  // Somebody else may be serving it, from another state directory.
  Locked locked;
  if (last.is_nil()) locked = co_await lock_all(backings);
  if (!locked) co_return tl::unexpected(locked.error());
  if (!backings.empty() || !all_pools_usable()) {
    const Status noted = co_await note_phase(id, {}, state::VOLUME_PHASE_DELETING);
    if (!noted) co_return noted;
  }
  std::stable_partition(backings.begin(), backings.end(),
                        [&](const Backing& b) { return b.segment != last; });
  const Status removed = co_await remove_backings(std::move(backings));
  if (!removed) co_return removed;
  broken_.erase(id);
  if (!all_pools_usable()) co_return Status{};  // the note stays, for what may come back
  const Status erased = co_await catalog_.erase_record(id);
  co_return erased;
}

// With the writer's lock of each: kBusy, and nothing happens, if somebody has one.
io::Task<VolumeSet::Locked> VolumeSet::lock_all(std::vector<Backing> backings) {
  std::vector<std::unique_ptr<io::File>> out;
  for (const Backing& backing : backings) {
    auto file = co_await catalog_.open_backing(backing, io::Directory::Mode::kReadWriteLocked);
    if (file) out.push_back(std::move(*file));
    if (file || file.error().code != Code::kBusy) continue;
    co_return fail(Code::kBusy, fmt::format("volume {} is in use, and not by this agent: {}",
                                            backing.volume.str(), file.error().message));
  }
  co_return out;
}

io::Task<Status> VolumeSet::remove_unserved(std::vector<Backing> backings) {
  const auto locked = co_await lock_all(backings);
  if (!locked) co_return tl::unexpected(locked.error());
  const Status removed = co_await remove_backings(std::move(backings));
  co_return removed;
}

io::Task<Status> VolumeSet::remove_backings(std::vector<Backing> backings) {
  for (const Backing& backing : backings) {
    const Status removed = co_await catalog_.remove_backing(backing);
    if (!removed) co_return removed;
  }
  co_return Status{};
}

io::Task<Result<extent::CheckReport>> VolumeSet::repair_broken(Uuid id) {
  const auto found = broken_.find(id);
  if (found == broken_.end())
    co_return fail(Code::kNotFound, fmt::format("volume {} is not broken", id.str()));
  const std::vector<Backing> backings = found->second.backings;
  extent::CheckReport out;
  {
    std::vector<volume::SegmentFile> files;
    for (const Backing& backing : backings) {
      auto file = co_await catalog_.open_backing(backing, io::Directory::Mode::kReadWriteLocked);
      if (!file) co_return tl::unexpected(file.error());
      files.push_back({backing.segment, std::move(*file)});
    }
    const Status based = co_await add_base(files);
    if (!based) co_return tl::unexpected(based.error());
    std::vector<io::File*> pointers;
    size_t base = extent::kNoBase;
    for (const volume::SegmentFile& file : files) {
      if (file.is_base) base = pointers.size();
      pointers.push_back(file.file.get());
    }
    auto repaired = co_await extent::repair_segments(pointers, true, base);
    if (!repaired) co_return tl::unexpected(repaired.error());
    out = co_await extent::check_segments(std::move(pointers), base);
    out.repaired = std::move(repaired->repaired);
    out.refused = std::move(repaired->refused);
  }
  if (!out.ok()) co_return out;
  const Status opened = co_await open_group(id, backings);
  if (!opened) co_return tl::unexpected(opened.error());
  co_return out;
}

io::Task<Status> VolumeSet::set_policy(Uuid id, v1::VolumePolicy policy) {
  const std::shared_ptr<VolumeHost> host = find(id);
  if (host == nullptr) co_return fail(Code::kNotFound, fmt::format("there is no volume {}", id.str()));
  state::VolumeRecord record;
  const state::VolumeRecord* known = catalog_.record(id);
  if (known != nullptr) record = *known;
  record.set_id(id.str());
  record.set_name(host->name());
  note_policy(policy, &record);
  const Status noted = co_await catalog_.put_record(std::move(record));
  if (noted) host->set_policy(std::move(policy));
  co_return noted;
}

void VolumeSet::stop_jobs() {
  for (const auto& [id, host] : hosts_) host->stop_jobs();
}

io::Task<Status> VolumeSet::close_all() {
  Status first;
  const std::map<Uuid, std::shared_ptr<VolumeHost>> hosts = hosts_;
  for (const auto& [id, host] : hosts) {
    const Status closed = co_await host->close();
    if (closed) continue;
    log::error("volume {} did not close cleanly: {}", host->name(), closed.error().message);
    if (first) first = closed;
  }
  co_return first;
}

}  // namespace foreshadow::agent
