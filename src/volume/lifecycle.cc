// A shadow's life as the volume sees it, and the volume's own end.
#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "extent/repair.h"
#include "volume/engine.h"
#include "volume/fail_stop_file.h"

namespace foreshadow::volume {

using extent::SegmentState;

// Crash points: before the commit the backing is an orphan, labelled but in no table, and is removed or
// attached again; after it the segment is part of the volume. Nothing is placed in it that is not journaled
// behind its own record.
io::Task<Status> Engine::attach_shadow(SegmentFile segment) {
  auto attached = co_await attach(std::move(segment), SegmentRole::kShadow, SegmentState::kWarm);
  co_return attached;
}

// Of a backing that was made for `role`.
io::Task<Status> Engine::attach(SegmentFile segment, SegmentRole role, SegmentState state) {
  if (segments_.find(segment.uuid) == nullptr) {
    std::string blemish;
    auto label = co_await extent::read_label(*segment.file, &blemish);
    if (!label) co_return tl::unexpected(label.error());
    if (label->volume != id() || label->segment != segment.uuid || label->role != role ||
        label->geometry != geometry_ || label->size > segment.file->size() ||
        (label->layout.checksum_pages > 0) != checksums()) {
      co_return fail(Code::kInvalidArgument,
                     fmt::format("segment {} was not made as a {} of volume {}", segment.uuid.str(),
                                 role == SegmentRole::kShadow ? "shadow" : "primary", name()));
    }
    if (closing_) co_return fail(Code::kShutdown, fmt::format("volume {} is closing", name()));
    if (committer_.poisoned()) co_return fail(Code::kReadOnly, committer_.poison_reason());
    // The same segment may have come in twice while the label was read.
    if (segments_.find(segment.uuid) == nullptr) {
      if (segments_.size() >= limits::kSegments) {
        co_return fail(Code::kLimit, fmt::format("volume {} has {} segments already, the most it can have",
                                                 name(), limits::kSegments));
      }
      auto fresh = std::make_unique<Segment>();
      fresh->row = {next_segment_,
                    segment.uuid,
                    SegmentRole::kShadow,
                    state,
                    segments_.next_pcn_base(label->layout.clusters),
                    extent::clusters_in(label->layout, geometry_, segment.file->size())};
      if (fresh->row.pcn_base.v >= extent::kPcnEnd - label->layout.clusters) {
        co_return fail(Code::kLimit, fmt::format("volume {} has no physical cluster numbers left", name()));
      }
      next_segment_ = next_segment_.next();
      fresh->layout = label->layout;
      fresh->file = std::make_unique<FailStopFile>(std::move(segment.file));
      fresh->allocator = extent::Allocator(fresh->row.pcn_base, fresh->row.clusters);
      fresh->places.assign(fresh->layout.table_pages, extent::kNoPlace);
      fresh->checksums = extent::ChecksumTable(fresh->layout.checksum_pages);
      alignment_ = std::max(alignment_, fresh->file->alignment());
      committer_.append(segments_.add(std::move(fresh)).row, {});
      retry_later();
    }
  }
  auto committed = co_await committer_.commit();
  co_return committed;
}

Status Engine::activate_shadow(Uuid segment) {
  Segment* shadow = segments_.find(segment);
  if (shadow == nullptr)
    return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", name(), segment.str()));
  if (committer_.poisoned()) return fail(Code::kReadOnly, committer_.poison_reason());
  if (shadow->row.state == SegmentState::kActive) return {};
  if (shadow->row.state != SegmentState::kWarm) {
    return fail(Code::kFailedPrecondition,
                fmt::format("segment {} of volume {} is not warm", shadow->row.id.v, name()));
  }
  placement_.activate(*shadow);
  retry_later();
  return {};
}

// prepare: no new cluster goes there, and everything so far is durable. adopt: one record. Map entries name
// physical clusters, so none changes.
io::Task<Status> Engine::merge_shadow(Uuid segment) {
  Segment* shadow = segments_.find(segment);
  if (shadow == nullptr)
    co_return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", name(), segment.str()));
  const auto leaving = [&] {
    return fail(Code::kFailedPrecondition,
                fmt::format("segment {} of volume {} is being released", segment.str(), name()));
  };
  if (shadow->is_leaving()) co_return leaving();
  if (shadow->row.state != SegmentState::kMerged) {
    placement_.seal(*shadow);
    auto prepared = co_await committer_.commit();
    if (!prepared) co_return prepared;
    shadow = segments_.find(segment);
    if (shadow == nullptr || shadow->is_leaving()) co_return leaving();
    placement_.merged(*shadow);
    retry_later();
  }
  auto adopted = co_await committer_.commit();
  co_return adopted;
}

io::Task<Status> Engine::checkpoint() {
  auto committed = co_await committer_.commit();
  if (!committed) co_return committed;
  auto written = co_await checkpointer_.run_now();
  co_return written;
}

// With no commit and no checkpoint under way, what is on disk stands still, and is the volume as of the last
// commit.
io::Task<Result<extent::CheckReport>> Engine::check(bool repair) {
  auto committed = co_await committer_.commit();
  if (!committed) co_return tl::unexpected(committed.error());
  auto commits = co_await committer_.block();
  auto checkpoints = co_await checkpointer_.block();
  while (moving_head_) co_await check_ended_.wait();
  ++checking_;  // no file goes away meanwhile
  std::vector<io::File*> files;
  size_t base = extent::kNoBase;
  for (const Segment* segment : segments_.all()) {
    if (segment == base_.segment()) base = files.size();
    files.push_back(segment->file.get());
  }
  extent::RepairReport repairs;
  if (repair && !committer_.poisoned()) {
    auto repaired = co_await extent::repair_segments(files, true, base);
    if (!repaired) repairs.refused.push_back(repaired.error().message);
    if (repaired) repairs = std::move(*repaired);
  }
  extent::CheckReport report = co_await extent::check_segments(std::move(files), base);
  report.repaired = std::move(repairs.repaired);
  report.refused = std::move(repairs.refused);
  --checking_;
  check_ended_.notify_all();
  checkpointer_.unblock();
  committer_.unblock();
  if (!commits || !checkpoints) co_return fail(Code::kInternal, "the volume could not be held still");
  co_return report;
}

io::Task<Status> Engine::close() {
  closing_ = true;
  fail_held(Code::kShutdown);
  band_.release();
  evacuator_.stop();
  while (!evacuator_.idle()) co_await evacuator_.ended().wait();
  scrubber_.stop();
  auto idle = co_await scrubber_.wait_idle();
  while (idle_tasks_.size() != tasks_.size()) co_await drained_.wait();
  auto committed = co_await committer_.commit();
  auto written = co_await checkpointer_.run_now();
  auto commits = co_await committer_.close();  // for good: nothing runs any more
  auto checkpoints = co_await checkpointer_.close();
  while (retry_posted_ || noted_posted_ || !news_.empty()) co_await io::yield(executor_);
  executor_.cancel(hold_timer_);
  if (!idle) co_return idle;
  if (!committed) co_return committed;
  if (!written) co_return written;
  if (!commits) co_return commits;
  co_return checkpoints;
}

void Engine::on_state_changed(Segment& segment) {
  committer_.append(segment.row, {});
}

void Engine::on_noted(std::span<const Pcn> regions) {
  checksums_.noted(regions);
  checkpointer_.start_within(options_.checksum_age);
  relocator_.on_noted();
  resume_noting();
}

void Engine::on_activated(Segment& segment) {
  ++stats_.redirects_to_warm;
  tell([id = segment.row.id](Listener& listener) { listener.on_redirected(id); });
}

void Engine::on_full(Segment& segment) {
  tell([id = segment.row.id](Listener& listener) { listener.on_shadow_full(id); });
}

void Engine::tell(std::function<void(Listener&)> what) {
  news_.push_back(std::move(what));
  if (news_.size() == 1) executor_.post(news_op_);
}

void Engine::on_news(int) {
  std::vector<std::function<void(Listener&)>> news;
  news.swap(news_);
  for (const auto& what : news) {
    if (listener_ != nullptr) what(*listener_);
  }
}

Usage Engine::usage() const {
  Usage out;
  out.size = size_;
  for (const Segment* segment : segments_.all()) {
    const uint32_t clusters = segment == base_.segment() ? segment->allocator.taken() : segment->row.clusters;
    out.capacity += uint64_t{clusters} * geometry_.cluster();
    out.used += uint64_t{segment->allocator.taken()} * geometry_.cluster();
    if (segment == base_.segment()) continue;
    out.outside_base += uint64_t{segment->allocator.taken()} * geometry_.cluster();
    out.physical += segment->file->size();
  }
  out.data = map_.mapped_sub_blocks() * geometry_.sub_block();
  out.map_memory = map_.memory_bytes() + containers_.memory_bytes();
  out.squeezed = sum_up(containers_, geometry_);
  return out;
}

std::vector<SegmentInfo> Engine::segments() const {
  std::vector<SegmentInfo> out;
  for (const Segment* segment : segments_.all()) {
    const extent::SegmentRow& row = segment->row;
    const uint64_t used = segment->allocator.taken();
    out.push_back({row.id, row.uuid, row.role, row.state, uint64_t{row.clusters} * geometry_.cluster(),
                   used * geometry_.cluster(), segment->file->size(),
                   extent::bytes_for(segment->layout, geometry_, row.clusters),
                   extent::bytes_for(segment->layout, geometry_, segment->layout.clusters),
                   segment->layout.journal_blocks > 0});
  }
  return out;
}

bool Engine::has_warm_shadow() const {
  return std::any_of(segments_.all().begin(), segments_.all().end(),
                     [](const Segment* segment) { return segment->row.state == SegmentState::kWarm; });
}

}  // namespace foreshadow::volume
