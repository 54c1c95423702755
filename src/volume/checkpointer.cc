#include "volume/checkpointer.h"

#include <fmt/format.h>

#include <algorithm>

#include "extent/checksum_page.h"
#include "extent/recovery.h"
#include "extent/table_page.h"

namespace foreshadow::volume {
namespace {
constexpr size_t kChecksumPagesAtOnce = 32;
}  // namespace

Checkpointer::Checkpointer(io::Executor& executor, SegmentSet& segments, Committer& committer,
                           const Uuid& volume, extent::Geometry geometry, extent::Superblock super)
    : executor_(executor),
      segments_(segments),
      committer_(committer),
      volume_(volume),
      geometry_(geometry),
      super_(std::move(super)),
      page_buffer_(extent::kMetaBlock),
      ended_(executor) {
  timer_.op.target = this;
  timer_.op.done = [](io::Op* op, int) { static_cast<Checkpointer*>(op->target)->start(); };
}

Checkpointer::~Checkpointer() {
  executor_.cancel(timer_);
  ASSERT(!running_);
}

void Checkpointer::start_within(Nanos time) {
  if (!timer_.armed() && !closed_) executor_.arm(timer_, executor_.now() + time);
}

void Checkpointer::start() {
  if (running_ || blocked_ > 0 || committer_.poisoned()) {
    again_ = true;
    return;
  }
  running_ = true;
  run_detached();
}

io::Detached Checkpointer::run_detached() {
  co_await io::yield(executor_);
  again_ = false;
  last_ = co_await run();
  if (!last_) committer_.poison(fmt::format("a checkpoint failed: {}", last_.error().message));
  running_ = false;
  ended_.notify_all();
}

io::Task<Status> Checkpointer::run_now() {
  while (running_ || (blocked_ > 0 && !closed_)) co_await ended_.wait();
  if (closed_) co_return fail(Code::kShutdown, "the volume is closed");
  if (committer_.poisoned()) co_return fail(Code::kReadOnly, committer_.poison_reason());
  start();
  while (running_) co_await ended_.wait();
  co_return last_;
}

io::Task<Status> Checkpointer::close() {
  closed_ = true;
  executor_.cancel(timer_);
  auto blocked = co_await block();
  ended_.notify_all();
  co_return blocked;
}

io::Task<Status> Checkpointer::block() {
  ++blocked_;
  while (running_) co_await ended_.wait();
  co_return Status{};
}

void Checkpointer::unblock() {
  ASSERT(blocked_ > 0);
  if (--blocked_ > 0) return;
  if (again_) start();
  ended_.notify_all();
}

io::Task<Status> Checkpointer::run() {
  executor_.cancel(timer_);
  // Both at the same instant: a write from here on notes its region behind the frozen position.
  const Committer::Frozen frozen = committer_.freeze();
  const DirtyChecksums checksums = freeze_checksums(frozen.rows);
  const CkptSeq sequence = super_.checkpoint.next();
  extent::Superblock next = super_;
  new_places_.clear();
  new_checksums_.clear();
  auto pages = co_await write_pages(frozen, checksums, sequence, &next.table_digest);
  if (!pages) co_return pages;
  next.sequence = super_.sequence + 1;
  next.checkpoint = sequence;
  next.replay_from = frozen.replay_from;
  next.replay_prev_crc = frozen.prev_crc;
  next.segments = frozen.rows;
  next.features |= required_;
  next.size = frozen.size;
  auto dropped = co_await drop_released(next);
  if (!dropped) co_return dropped;
  for (const extent::SegmentRow& row : frozen.rows)
    next.next_segment = std::max(next.next_segment, row.id.next());
  if (committer_.poisoned()) co_return fail(Code::kReadOnly, committer_.poison_reason());
  auto written = co_await extent::write_superblock(*segments_.primary().file, next);
  if (!written) co_return written;
  super_ = next;
  for (const NewPlace& at : new_places_) segments_.at(at.segment_index).places[at.page] = at.place;
  for (const NewChecksums& at : new_checksums_)
    segments_.at(at.segment_index).checksums.written(at.page, at.place, at.digest, at.known);
  committer_.checkpointed(frozen.replay_from);
  for (const extent::SegmentRow& row : frozen.rows) {
    if (row.state == extent::SegmentState::kReleased) committer_.forget(row.id);
  }
  co_return Status{};
}

// A released segment leaves the table: its row, and its pages' share of the digest.
io::Task<Status> Checkpointer::drop_released(extent::Superblock& next) {
  for (const extent::SegmentRow& row : next.segments) {
    if (row.state != extent::SegmentState::kReleased) continue;
    Segment& segment = *segments_.find(row.uuid);
    for (uint32_t page = 0; page < segment.layout.table_pages; ++page) {
      if (segment.places[page] == extent::kNoPlace) continue;
      auto old = co_await read_page(segment, page);
      if (!old) co_return tl::unexpected(old.error());
      next.table_digest -= extent::page_digest(row.pcn_base, page, old->page.checkpoint, old->crc);
    }
    next.table_digest -= segment.checksums.digest_sum();
  }
  std::erase_if(next.segments,
                [](const extent::SegmentRow& row) { return row.state == extent::SegmentState::kReleased; });
  co_return Status{};
}

// What is in use of one page, as the last checkpoint left it.
io::Task<Result<extent::PlaceContent>> Checkpointer::read_page(Segment& segment, uint32_t page) {
  const uint64_t offset = segment.layout.page_offset(page, segment.places[page]);
  const int read = co_await io::read(segment.table_file(), offset, page_buffer_.span());
  if (read < 0) co_return fail_errno(read, "cannot read a table page");
  auto content =
      extent::decode_page(page_buffer_.span(), volume_, segment.row.uuid, page, segment.row.pcn_base);
  if (!content) co_return tl::unexpected(content.error());
  if (!*content) {
    co_return fail(Code::kCorrupt,
                   fmt::format("table page {} of segment {} has vanished", page, segment.row.id.v));
  }
  co_return **content;
}

// Of the segments that the superblock will name: the pages of one whose record is not durable yet, and of one
// that leaves, are no part of its digest.
Checkpointer::DirtyChecksums Checkpointer::freeze_checksums(const std::vector<extent::SegmentRow>& rows) {
  DirtyChecksums out(segments_.slots());
  for (const auto& segment : segments_.all()) {
    const bool named = std::any_of(rows.begin(), rows.end(), [&](const extent::SegmentRow& row) {
      return row.id == segment->row.id && row.state != extent::SegmentState::kReleased;
    });
    if (named) out[segment->index] = segment->checksums.freeze();
  }
  return out;
}

io::Task<Status> Checkpointer::write_pages(const Committer::Frozen& frozen, const DirtyChecksums& checksums,
                                           CkptSeq sequence, uint64_t* digest) {
  std::vector<bool> touched(segments_.slots(), false);
  std::vector<bool> leaving(segments_.slots(), false);
  for (const extent::SegmentRow& row : frozen.rows) {
    if (row.state == extent::SegmentState::kReleased) leaving[segments_.find(row.uuid)->index] = true;
  }
  for (const extent::DirtyPages::Page& page : frozen.pages.pages()) {
    if (leaving[page.segment_index]) continue;
    auto written = co_await write_page(frozen.pages, page, sequence, digest);
    if (!written) co_return written;
    touched[page.segment_index] = true;
  }
  for (uint32_t i = 0; i < checksums.size(); ++i) {
    const std::span<const uint32_t> all(checksums[i]);
    for (size_t done = 0; done < all.size(); done += kChecksumPagesAtOnce) {
      const auto some = all.subspan(done, std::min(kChecksumPagesAtOnce, all.size() - done));
      auto written = co_await write_checksum_pages(i, some, sequence, digest);
      if (!written) co_return written;
      touched[i] = true;
    }
  }
  // Behind every page, so that it covers the data whose checksums the pages claim as well.
  for (uint32_t i = 0; i < touched.size(); ++i) {
    if (!touched[i]) continue;
    const int synced = co_await io::sync(segments_.at(i).table_file());
    if (synced < 0) co_return fail_errno(synced, "cannot sync the table");
  }
  co_return Status{};
}

// At most kChecksumPagesAtOnce. They have nothing to do with each other, so all are in flight together.
io::Task<Status> Checkpointer::write_checksum_pages(uint32_t segment_index, std::span<const uint32_t> pages,
                                                    CkptSeq sequence, uint64_t* digest) {
  writes_.clear();
  for (const uint32_t page : pages) capture_checksums(segment_index, page, sequence, digest);
  const int written = co_await writes_;
  if (written < 0) co_return fail_errno(written, "cannot write a checksum page");
  co_return Status{};
}

// What is known of a page now, into the next block of the buffer and on the list, if it must be written.
void Checkpointer::capture_checksums(uint32_t segment_index, uint32_t number, CkptSeq sequence,
                                     uint64_t* digest) {
  Segment& segment = segments_.at(segment_index);
  extent::ChecksumValues values;
  const auto captured = segment.checksums.capture(number, values);
  if (!captured.write) return;
  if (checksum_buffer_.size() == 0) checksum_buffer_ = io::Buffer(kChecksumPagesAtOnce * extent::kMetaBlock);
  const auto block =
      checksum_buffer_.span().subspan(writes_.list.size() * extent::kMetaBlock, extent::kMetaBlock);
  const extent::PageHead head{volume_, segment.row.uuid, sequence, number, segment.row.pcn_base};
  const uint32_t crc = extent::encode_checksum_page(head, values, block);
  const uint64_t share = extent::checksum_page_digest(head.pcn_base, number, sequence, crc);
  *digest += share - segment.checksums.digest(number);
  const uint8_t other = segment.checksums.place(number) == 0 ? 1 : 0;
  writes_.add(*segment.file, segment.layout.checksum_page_offset(number, other), block);
  new_checksums_.push_back({segment_index, number, other, captured.known, share});
}

io::Task<Status> Checkpointer::write_page(const extent::DirtyPages& pages, extent::DirtyPages::Page at,
                                          CkptSeq sequence, uint64_t* digest) {
  Segment& segment = segments_.at(at.segment_index);
  const uint8_t place = segment.places[at.page];
  extent::TablePage page;
  page.volume = volume_;
  page.segment = segment.row.uuid;
  page.page = at.page;
  page.pcn_base = segment.row.pcn_base;
  if (place != extent::kNoPlace) {
    auto old = co_await read_page(segment, at.page);
    if (!old) co_return tl::unexpected(old.error());
    page.entries = old->page.entries;
    *digest -= extent::page_digest(page.pcn_base, at.page, old->page.checkpoint, old->crc);
  } else if (segment.row.role == extent::SegmentRole::kBase) {
    page.entries = extent::base_entries(segment.data_end, geometry_, at.page);
  }
  page.checkpoint = sequence;
  pages.apply(at, page.entries);
  const uint32_t crc = extent::encode_page(page, page_buffer_.span());
  *digest += extent::page_digest(page.pcn_base, at.page, sequence, crc);
  const uint8_t other = place == 0 ? 1 : 0;
  const int written = co_await io::write(segment.table_file(), segment.layout.page_offset(at.page, other),
                                         page_buffer_.span());
  if (written < 0) co_return fail_errno(written, "cannot write a table page");
  new_places_.push_back({at.segment_index, at.page, other});
  co_return Status{};
}

}  // namespace foreshadow::volume
