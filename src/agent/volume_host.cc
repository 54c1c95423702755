#include "agent/volume_host.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "agent/agent_limits.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/names.h"
#include "base/size.h"

namespace foreshadow::agent {

VolumeHost::VolumeHost(Catalog& catalog, Clock clock, EventSink& sink, std::unique_ptr<volume::Volume> volume,
                       Whereabouts whereabouts)
    : catalog_(catalog),
      clock_(std::move(clock)),
      sink_(sink),
      volume_(std::move(volume)),
      whereabouts_(std::move(whereabouts)),
      shadows_(catalog.loop()),
      checks_(catalog.loop()),
      jobs_(catalog.loop()) {
  volume_->set_listener(this);
}

VolumeHost::~VolumeHost() {
  volume_->set_listener(nullptr);
}

v1::Volume VolumeHost::report() const {
  v1::Volume out = make_report(*volume_, whereabouts_);
  *out.mutable_scrub() = make_scrub_report(*volume_, catalog_.record(id()));
  return out;
}

Status VolumeHost::not_closing() const {
  if (!closing_) return {};
  return fail(Code::kShutdown, fmt::format("volume {} is being closed", name()));
}

std::optional<volume::SegmentInfo> VolumeHost::find_segment(const Uuid& segment) const {
  for (const volume::SegmentInfo& info : volume_->segments()) {
    if (info.uuid == segment) return info;
  }
  return std::nullopt;
}

bool VolumeHost::has_segment(const Uuid& segment) const {
  return find_segment(segment).has_value();
}

io::Task<Status> VolumeHost::grant_shadow(Uuid segment, std::string pool, uint64_t size) {
  const Gate::Turn turn = co_await shadows_.enter();
  const Status open = not_closing();
  if (!open) co_return open;
  if (has_segment(segment)) co_return Status{};
  if (!volume_->read_only_reason().empty()) {
    co_return fail(Code::kReadOnly,
                   fmt::format("volume {} is read-only: {}", name(), volume_->read_only_reason()));
  }
  if (size < foreshadow::limits::kSegmentSizeMin || size > foreshadow::limits::kSegmentSizeMax) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("shadow of {} for volume {}: expected {} to {}", format_size(size), name(),
                               format_size(foreshadow::limits::kSegmentSizeMin),
                               format_size(foreshadow::limits::kSegmentSizeMax)));
  }
  auto file = co_await make_backing(segment, pool, size);
  if (!file) co_return tl::unexpected(file.error());
  const Status attached = co_await attach(segment, std::move(*file));
  if (attached) co_return attached;
  const Status removed = co_await remove_unattached(segment, pool);
  if (!removed) log::warn("{}", removed.error().message);
  co_return attached;
}

io::Task<Result<std::unique_ptr<io::File>>> VolumeHost::make_backing(Uuid segment, std::string pool,
                                                                     uint64_t size) {
  const auto from = catalog_.pool(pool);
  if (!from) co_return tl::unexpected(from.error());
  const Backing backing{id(), segment, pool};
  Offload create(catalog_.loop(), [&]() -> Result<std::unique_ptr<io::File>> {
    auto made = (*from)->create(backing.name(), size);
    if (made || made.error().code != Code::kAlreadyExists) return made;
    TRY((*from)->remove(backing.name()));
    return (*from)->create(backing.name(), size);
  });
  auto file = co_await create;
  if (file) whereabouts_.pool_of[segment] = pool;
  co_return file;
}

// A failed write of metadata may have reached the disk all the same; then the volume is read-only, and the
// next start, which can see what is there, removes the backing if it is an orphan.
io::Task<Status> VolumeHost::remove_unattached(Uuid segment, std::string pool) {
  if (!volume_->read_only_reason().empty() || has_segment(segment)) co_return Status{};
  whereabouts_.pool_of.erase(segment);
  const Backing backing{id(), segment, pool};
  const Status removed = co_await catalog_.remove_backing(backing);
  if (removed) co_return removed;
  co_return fail(removed.error().code, fmt::format("backing {} is left in pool {}: {}", backing.name(), pool,
                                                   removed.error().message));
}

io::Task<Status> VolumeHost::attach(Uuid segment, std::unique_ptr<io::File> file) {
  const Status formatted =
      co_await volume::Volume::format_shadow(*file, id(), segment, volume_->geometry(), volume_->checksums());
  if (!formatted) co_return formatted;
  volume::SegmentFile opened{segment, std::move(file)};
  const Status attached = co_await volume_->attach_shadow(std::move(opened));
  co_return attached;
}

Status VolumeHost::activate_shadow(Uuid segment) {
  TRY(not_closing());
  // Noted before, because the volume tells of it later, from the loop.
  activated_by_control_.insert(segment);
  Status activated = volume_->activate_shadow(segment);
  if (!activated) activated_by_control_.erase(segment);
  return activated;
}

io::Task<Status> VolumeHost::merge_shadow(Uuid segment) {
  const Gate::Turn turn = co_await shadows_.enter();
  const Status open = not_closing();
  if (!open) co_return open;
  const Status merged = co_await volume_->merge_shadow(segment);
  co_return merged;
}

io::Task<Result<volume::SqueezeReport>> VolumeHost::squeeze(Uuid segment, v1::SqueezeMode codec) {
  const Status open = not_closing();
  if (!open) co_return tl::unexpected(open.error());
  volume::SqueezeOptions options;
  switch (codec) {
    case v1::SQUEEZE_MODE_UNSPECIFIED:
    case v1::SQUEEZE_MODE_ZSTD:
      options.how.codec = extent::SqueezeCodec::kZstd;
      break;
    case v1::SQUEEZE_MODE_LZ4:
      options.how.codec = extent::SqueezeCodec::kLz4;
      break;
    default:
      co_return fail(Code::kInvalidArgument,
                     fmt::format("codec {}: expected lz4 or zstd", static_cast<int>(codec)));
  }
  auto report = co_await volume_->squeeze_segment(segment, options);
  co_return report;
}

io::Task<Result<extent::CheckReport>> VolumeHost::check(bool repair) {
  const Gate::Turn turn = co_await checks_.enter();
  const Status open = not_closing();
  if (!open) co_return tl::unexpected(open.error());
  auto report = co_await volume_->check(repair);
  co_return report;
}

io::Task<Status> VolumeHost::grow(uint64_t size) {
  const Gate::Turn turn = co_await shadows_.enter();
  const Status open = not_closing();
  if (!open) co_return open;
  const Status grown = co_await volume_->grow(size);
  co_return grown;
}

io::Task<Status> VolumeHost::close() {
  closing_ = true;
  stop_jobs();
  const Gate::Turn jobs = co_await jobs_.enter();
  const Gate::Turn shadows = co_await shadows_.enter();
  const Gate::Turn checks = co_await checks_.enter();
  const Status closed = co_await volume_->close();
  co_return closed;
}

void VolumeHost::on_redirected(SegmentId to) {
  Uuid segment;
  for (const volume::SegmentInfo& info : volume_->segments()) {
    if (info.id == to) segment = info.uuid;
  }
  const bool asked = activated_by_control_.erase(segment) > 0;
  tell(v1::VolumeEvent::KIND_REDIRECTED, to.v,
       fmt::format("new writes go to segment {}, {}", to.v,
                   asked ? "as control asked" : "by the agent's own decision"));
  tell_if_shadow_needed();
}

void VolumeHost::on_shadow_full(SegmentId segment) {
  tell(v1::VolumeEvent::KIND_SHADOW_FULL, segment.v,
       fmt::format("segment {} takes no new writes any more", segment.v));
  tell_if_shadow_needed();
}

void VolumeHost::on_hold_began() {
  tell(v1::VolumeEvent::KIND_HOLD_BEGAN, 0, "at the wall: new writes wait for space");
  tell_if_shadow_needed();
}

void VolumeHost::on_hold_ended() {
  tell(v1::VolumeEvent::KIND_HOLD_ENDED, 0, "no write waits for space any more");
}

void VolumeHost::on_pace_began() {
  tell(v1::VolumeEvent::KIND_PACE_BEGAN, 0, "little space is left: new writes are slowed down");
  tell_if_shadow_needed();
}

void VolumeHost::on_pace_ended() {
  tell(v1::VolumeEvent::KIND_PACE_ENDED, 0, "there is space again: new writes go at full speed");
}

void VolumeHost::on_read_only(const std::string& reason) {
  log::error("volume {} is read-only now: {}", name(), reason);
  tell(v1::VolumeEvent::KIND_READ_ONLY, 0, reason);
}

void VolumeHost::on_damaged(const std::string& what) {
  tell_corrupt(0, what + "; the read failed instead");
}

void VolumeHost::on_corrupt_data(const volume::CorruptData& where) {
  tell_corrupt(where.segment.v, fmt::format("segment {} at offset {}: the data of cluster {} is not what was "
                                            "written; the read failed instead",
                                            where.segment.v, where.offset, where.cluster.v));
}

void VolumeHost::tell_corrupt(uint32_t segment, const std::string& what) {
  // A dead region of a disk has millions of them.
  const uint64_t errors = ++corrupt_told_;
  if (errors > limits::kCorruptEvents && !std::has_single_bit(errors)) return;
  log::error("volume {}: {}", name(), what);
  tell(v1::VolumeEvent::KIND_CORRUPT_DATA, segment, what);
}

void VolumeHost::tell(v1::VolumeEvent::Kind kind, uint32_t segment, std::string message) {
  v1::VolumeEvent event;
  event.set_time_ms(clock_());
  event.set_kind(kind);
  event.set_message(std::move(message));
  event.set_segment_id(segment);
  *event.mutable_volume() = report();
  sink_.on_event(std::move(event));
}

void VolumeHost::tell_if_shadow_needed() {
  if (volume_->has_warm_shadow() || closing_) return;
  tell(v1::VolumeEvent::KIND_SHADOW_NEEDED, 0, "no warm shadow is left");
}

}  // namespace foreshadow::agent
