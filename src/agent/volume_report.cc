#include "agent/volume_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/agent_limits.h"
#include "extent/head.h"
#include "extent/recovery.h"

namespace foreshadow::agent {

v1::SegmentRole to_api(extent::SegmentRole role) {
  switch (role) {
    case extent::SegmentRole::kPrimary:
      return v1::SEGMENT_ROLE_PRIMARY;
    case extent::SegmentRole::kShadow:
      return v1::SEGMENT_ROLE_SHADOW;
    case extent::SegmentRole::kBase:
      return v1::SEGMENT_ROLE_BASE;
  }
  return v1::SEGMENT_ROLE_UNSPECIFIED;
}

v1::SegmentState to_api(extent::SegmentState state) {
  switch (state) {
    case extent::SegmentState::kWarm:
      return v1::SEGMENT_STATE_WARM;
    case extent::SegmentState::kActive:
      return v1::SEGMENT_STATE_ACTIVE;
    case extent::SegmentState::kSealed:
      return v1::SEGMENT_STATE_SEALED;
    case extent::SegmentState::kDraining:
    case extent::SegmentState::kReleased:
      return v1::SEGMENT_STATE_DRAINING;
    case extent::SegmentState::kFolding:
      return v1::SEGMENT_STATE_FOLDING;
    case extent::SegmentState::kMerged:
      return v1::SEGMENT_STATE_MERGED;
  }
  return v1::SEGMENT_STATE_UNSPECIFIED;
}

v1::JobKind to_api(volume::JobKind kind) {
  switch (kind) {
    case volume::JobKind::kFold:
      return v1::JOB_KIND_FOLD;
    case volume::JobKind::kDrain:
      return v1::JOB_KIND_DRAIN;
    case volume::JobKind::kResize:
      return v1::JOB_KIND_RESIZE;
    case volume::JobKind::kSqueeze:
      return v1::JOB_KIND_SQUEEZE;
    case volume::JobKind::kMove:
      return v1::JOB_KIND_MOVE;
    case volume::JobKind::kNone:
      break;
  }
  return v1::JOB_KIND_UNSPECIFIED;
}

v1::RedirectMode to_api(extent::Redirect redirect) {
  return redirect == extent::Redirect::kAll ? v1::REDIRECT_MODE_ALL : v1::REDIRECT_MODE_ALLOCATING;
}

std::string nbd_unix_uri(std::string_view name, const NbdSocket& socket) {
  constexpr std::string_view kPlain = "/-._~";
  std::string path;
  for (const char c : socket.path) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter || kPlain.find(c) != std::string_view::npos) {
      path += c;
    } else {
      path += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return fmt::format("{}+unix:///{}?socket={}", socket.tls ? "nbds" : "nbd", name, path);
}

v1::Squeezed to_api(const volume::Squeezed& squeezed) {
  v1::Squeezed out;
  out.set_logical(squeezed.logical);
  out.set_physical(squeezed.physical);
  out.set_ratio_mean(squeezed.ratio_mean);
  out.set_ratio_stddev(squeezed.ratio_stddev);
  out.set_ratio_p10(squeezed.ratio_p10);
  out.set_ratio_p90(squeezed.ratio_p90);
  return out;
}

uint64_t logical_of(const volume::Usage& usage) {
  return usage.used + usage.squeezed.logical - usage.squeezed.physical;
}

namespace {

void describe_wall(const volume::Volume& volume, v1::Volume* out) {
  const volume::WallPolicy wall = volume.wall();
  out->set_hold_timeout_ms(static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(wall.hold_timeout).count()));
  out->mutable_backpressure()->set_bytes(wall.band_bytes);
  out->mutable_backpressure()->set_percent(wall.band_percent);
  uint64_t capacity = 0;
  for (const volume::SegmentInfo& info : volume.segments()) {
    if (info.role != extent::SegmentRole::kBase) capacity += info.capacity;
  }
  out->set_band(std::min(wall.band_bytes, capacity / 100 * wall.band_percent));
}

}  // namespace

uint64_t leaving_capacity(const volume::Volume& volume) {
  uint64_t out = 0;
  for (const volume::SegmentInfo& info : volume.segments()) {
    const v1::SegmentState state = to_api(info.state);
    const bool leaves = state == v1::SEGMENT_STATE_DRAINING || state == v1::SEGMENT_STATE_FOLDING;
    out += leaves ? info.capacity : 0;
  }
  return out;
}

bool report_job(const volume::Volume& volume, v1::Job* out) {
  const volume::JobInfo job = volume.job();
  if (job.kind == volume::JobKind::kNone) return false;
  out->set_kind(to_api(job.kind));
  out->set_segment_uuid(job.segment.str());
  for (const volume::SegmentInfo& info : volume.segments()) {
    if (info.uuid == job.segment) out->set_segment_id(info.id.v);
  }
  out->set_moved(job.moved);
  out->set_total(job.total);
  return true;
}

v1::Volume make_report(const volume::Volume& volume, const Whereabouts& whereabouts) {
  const volume::Usage usage = volume.usage();
  const block::IoStats& stats = volume.stats();
  v1::Volume out;
  out.set_id(volume.id().str());
  out.set_name(volume.name());
  out.set_size(usage.size);
  out.set_capacity(usage.capacity);
  out.set_used(usage.used);
  out.set_leaving(leaving_capacity(volume));
  out.set_data(usage.data);
  out.set_map_memory_bytes(usage.map_memory);
  out.set_squeeze(whereabouts.squeeze);
  out.set_logical(logical_of(usage));
  *out.mutable_squeezed() = to_api(usage.squeezed);
  out.set_holds(stats.holds);
  out.set_held_now(stats.held_now);
  out.set_hold_us_max(stats.hold_us_max);
  out.set_failed_writes(stats.failed_writes);
  out.set_checksums(volume.checksums());
  out.set_checksum_errors(stats.checksum_errors);
  out.set_paced(stats.paced);
  out.set_paced_now(stats.paced_now);
  out.set_pace_us_total(stats.pace_us_total);
  out.set_pace_us_max(stats.pace_us_max);
  describe_wall(volume, &out);
  if (volume.base()) {
    out.set_base_path(volume.base()->path);
    out.set_base_bytes(volume.base()->bytes);
    out.set_outside_base(usage.outside_base);
  }
  out.set_first_redirect_to_warm(stats.redirects_to_warm);
  out.set_redirect(to_api(volume.redirect()));
  out.set_read_only_reason(volume.read_only_reason());
  out.set_agent_id(whereabouts.agent_id);
  out.set_uri(whereabouts.uri);
  *out.mutable_policy() = whereabouts.policy;
  v1::Job job;
  if (report_job(volume, &job)) *out.mutable_job() = std::move(job);
  for (const volume::SegmentInfo& info : volume.segments()) {
    v1::Segment& segment = *out.add_segments();
    segment.set_id(info.id.v);
    segment.set_uuid(info.uuid.str());
    const auto pool = whereabouts.pool_of.find(info.uuid);
    if (pool != whereabouts.pool_of.end()) segment.set_pool(pool->second);
    segment.set_role(to_api(info.role));
    segment.set_state(to_api(info.state));
    segment.set_capacity(info.capacity);
    segment.set_used(info.used);
    segment.set_backing(info.backing);
    if (info.role == extent::SegmentRole::kPrimary) out.set_pool(segment.pool());
  }
  return out;
}

namespace {

// Adds what label and superblock of a readable primary say.
void describe(const extent::Label& label, const extent::Superblock& super,
              const std::vector<Backing>& backings, v1::Volume* out) {
  out->set_size(super.size);
  out->set_redirect(to_api(super.redirect));
  if (label.base) {
    out->set_base_path(label.base->path);
    out->set_base_bytes(label.base->bytes);
  }
  for (const extent::SegmentRow& row : super.segments) {
    v1::Segment& segment = *out->add_segments();
    segment.set_id(row.id.v);
    segment.set_uuid(row.uuid.str());
    segment.set_role(to_api(row.role));
    segment.set_state(to_api(row.state));
    segment.set_capacity(uint64_t{row.clusters} * label.geometry.cluster());
    out->set_capacity(out->capacity() + segment.capacity());
    const auto at = std::find_if(backings.begin(), backings.end(),
                                 [&](const Backing& backing) { return backing.segment == row.uuid; });
    if (at == backings.end()) continue;
    segment.set_pool(at->pool);
    if (row.role == extent::SegmentRole::kPrimary) out->set_pool(at->pool);
  }
}

}  // namespace

io::Task<v1::Volume> survey(Catalog& catalog, std::vector<Backing> backings, std::string name,
                            std::string reason) {
  v1::Volume out;
  if (!backings.empty()) out.set_id(backings.front().volume.str());
  out.set_name(name);
  out.set_agent_id(catalog.agent_id());
  out.set_read_only_reason(reason);
  uint64_t newest = 0;
  for (const Backing& backing : backings) {
    const auto file = co_await catalog.open_backing(backing, io::Directory::Mode::kReadOnly);
    if (!file) continue;
    std::string blemish;
    const auto label = co_await extent::read_label(**file, &blemish);
    if (!label || label->role != extent::SegmentRole::kPrimary) continue;
    out.set_name(label->name);
    const auto area = co_await extent::read_head_area(**file, label->volume, label->segment);
    if (!area || !area->is_claim() || area->super.sequence <= newest) continue;
    newest = area->super.sequence;
    out.clear_segments();
    out.set_capacity(0);
    describe(*label, area->super, backings, &out);
  }
  co_return out;
}

void put_point(const volume::ScrubPoint& point, uint64_t total, state::ScrubRecord& record) {
  record.set_cursor(point.cursor.v);
  record.set_read(point.counts.read);
  record.set_verified(point.counts.verified);
  record.set_filled(point.counts.filled);
  record.set_corrupt(point.counts.corrupt);
  record.set_unreadable(point.counts.unreadable);
  record.set_total(total);
}

v1::Scrub make_scrub_report(const volume::Volume& volume, const state::VolumeRecord* record) {
  v1::Scrub out;
  state::ScrubRecord now;
  if (record != nullptr) now = record->scrub();
  const volume::ScrubProgress& at = volume.scrub_progress();
  if (at.running) put_point(at.now, at.total, now);
  out.set_running(at.running || now.running());
  out.set_started_ms(now.started_ms());
  out.set_total(now.total());
  out.set_read(now.read());
  out.set_verified(now.verified());
  out.set_filled(now.filled());
  out.set_corrupt(now.corrupt());
  out.set_unreadable(now.unreadable());
  out.set_last_complete_ms(now.last_complete_ms());
  out.set_rate(now.rate());
  out.set_error(now.error());
  return out;
}

v1::CheckReport make_check_report(const extent::CheckReport& check) {
  v1::CheckReport out;
  out.set_ok(check.ok());
  out.set_clusters_mapped(check.clusters_mapped);
  out.set_clusters_free(check.clusters_free);
  out.set_journal_records(check.journal_records);
  out.set_table_pages(check.table_pages);
  for (const std::string& done : check.repaired) out.add_repaired(done.substr(0, limits::kFindingBytes));
  for (const std::string& left : check.refused) out.add_refused(left.substr(0, limits::kFindingBytes));
  for (const std::string& finding : check.findings) {
    if (static_cast<size_t>(out.findings_size()) == limits::kCheckFindings) {
      out.add_findings(fmt::format("and {} more", check.findings.size() - limits::kCheckFindings));
      break;
    }
    out.add_findings(finding.substr(0, limits::kFindingBytes));
  }
  return out;
}

}  // namespace foreshadow::agent
