#include "extent/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/limits.h"
#include "base/names.h"
#include "extent/head.h"
#include "extent/journal.h"
#include "extent/table_load.h"
#include "extent/table_page.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

constexpr uint64_t kReadChunk = kMiB;

// Reads `bytes` at `offset` into `into`, a chunk at a time.
io::Task<Status> read_range(io::File& file, uint64_t offset, std::span<std::byte> into, std::string what) {
  for (uint64_t done = 0; done < into.size();) {
    const uint64_t length = std::min<uint64_t>(kReadChunk, into.size() - done);
    const int result = co_await io::read(file, offset + done, into.subspan(done, length));
    if (result < 0)
      co_return fail_errno(result, fmt::format("cannot read {} at offset {}", what, offset + done));
    done += length;
  }
  co_return Status{};
}

// The state of one recovery, a step a method.
class Recovery {
 public:
  Recovery(std::vector<io::File*> files, size_t base, const SupposedHead* supposed)
      : files_(std::move(files)), base_(base), supposed_(supposed), out_(std::make_unique<Recovered>()) {}

  io::Task<Result<std::unique_ptr<Recovered>>> run() {
    auto labels = co_await read_labels();
    if (!labels) co_return tl::unexpected(labels.error());
    auto super = co_await read_super();
    if (!super) co_return tl::unexpected(super.error());
    auto journal = co_await read_journal();
    if (!journal) co_return tl::unexpected(journal.error());
    auto attached = attach_segments();
    if (!attached) co_return tl::unexpected(attached.error());
    for (size_t i = 0; i < out_->segments.size(); ++i) {
      auto loaded = co_await load_table(i);
      if (!loaded) co_return tl::unexpected(loaded.error());
      auto known = co_await load_checksums(i);
      if (!known) co_return tl::unexpected(known.error());
    }
    auto finished = finish();
    if (!finished) co_return tl::unexpected(finished.error());
    co_return std::move(out_);
  }

 private:
  io::Task<Status> read_labels() {
    for (size_t i = 0; i < files_.size(); ++i) {
      if (i == base_) {  // somebody else's bytes: not to be read as ours
        labels_.emplace_back();
        continue;
      }
      std::string blemish;
      auto label = co_await read_label(*files_[i], &blemish);
      // A backing that was created but never labelled can be nothing but an interrupted grant.
      if (!label && label.error().code == Code::kNotFound) {
        labels_.emplace_back();
        continue;
      }
      if (!label) co_return tl::unexpected(label.error());
      if (!blemish.empty()) out_->blemishes.push_back(blemish);
      if (label->role == SegmentRole::kPrimary) candidates_.push_back(i);
      labels_.push_back(std::move(*label));
    }
    if (candidates_.empty()) co_return fail(Code::kNotFound, "none of the segments is a primary");
    out_->label = *labels_[candidates_.front()];
    for (const auto& label : labels_) {
      if (!label) continue;
      if (label->volume != out_->label.volume || label->geometry != out_->label.geometry) {
        co_return fail(Code::kCorrupt,
                       fmt::format("segment {} belongs to volume {}, expected {}", label->segment.str(),
                                   label->volume.str(), out_->label.volume.str()));
      }
    }
    co_return none_twice(labels_);
  }

  // The image must be the one, unchanged in size, that the volume was made over.
  Status check_base() const {
    const auto& base = out_->label.base;
    if (!base && base_ == kNoBase) return {};
    if (!base) return fail(Code::kInvalidArgument, fmt::format("volume {} has no base", out_->label.name));
    if (base_ == kNoBase) {
      return fail(Code::kNotFound,
                  fmt::format("the image {} of volume {} is missing", quoted(base->path), out_->label.name));
    }
    const uint64_t bytes = align_down(files_[base_]->size(), uint64_t{kSizeUnit});
    if (bytes == base->bytes) {
      if (out_->stored.size >= bytes) return {};
      return fail(Code::kCorrupt, fmt::format("the volume has {} bytes by its superblock, and the image that "
                                              "it lies over {}",
                                              out_->stored.size, bytes));
    }
    return fail(
        Code::kCorrupt,
        fmt::format("the image {} has changed since volume {} was made over it: {} bytes, expected {}",
                    quoted(base->path), out_->label.name, bytes, base->bytes));
  }

  // Of every segment that could be the head: which one it is, and who must be told.
  io::Task<Status> read_super() {
    if (supposed_ != nullptr) {
      primary_ = supposed_->file;
      out_->label = *labels_[primary_];
      out_->super = out_->stored = supposed_->super;
      out_->highest_super_sequence = out_->stored.sequence;
      co_return check_base();
    }
    std::vector<HeadArea> areas;
    for (const size_t i : candidates_) {
      auto area = co_await read_head_area(*files_[i], labels_[i]->volume, labels_[i]->segment);
      if (!area) co_return tl::unexpected(area.error());
      areas.push_back(std::move(*area));
    }
    const auto chosen = choose_head(areas);
    if (!chosen) co_return tl::unexpected(chosen.error());
    for (size_t i = 0; i < areas.size(); ++i) {
      out_->highest_super_sequence = std::max(out_->highest_super_sequence, areas[i].highest);
      if (i == *chosen || !needs_mark(areas[i])) continue;
      ToMark mark;
      mark.file = candidates_[i];
      mark.agreed = areas[i].is_mark();
      if (mark.agreed) {
        mark.super = areas[i].super;
        mark.good = areas[i].good;
      }
      out_->to_mark.push_back(std::move(mark));
    }
    HeadArea& head = areas[*chosen];
    primary_ = candidates_[*chosen];
    out_->label = *labels_[primary_];
    out_->stored = std::move(head.super);
    out_->super = out_->stored;
    out_->super_copy_good = head.good;
    for (std::string& blemish : head.blemishes) out_->blemishes.push_back(std::move(blemish));
    co_return check_base();
  }

  io::Task<Status> read_journal() {
    const Layout& layout = out_->label.layout;
    ring_ = io::Buffer(size_t{layout.journal_blocks} * kMetaBlock);
    auto read = co_await read_range(primary(), layout.journal_offset, ring_.span(), "the journal");
    if (!read) co_return tl::unexpected(read.error());
    auto replay = replay_ring(ring_.span(), out_->label.volume, out_->super.replay_from,
                              out_->super.replay_prev_crc, Fence{out_->super.epoch, out_->super.epoch_start});
    if (!replay) co_return tl::unexpected(replay.error());
    if (replay->epoch > out_->super.epoch) {
      co_return fail(Code::kCorrupt,
                     fmt::format("the journal was written in epoch {}, the superblock knows only {}",
                                 replay->epoch.v, out_->super.epoch.v));
    }
    out_->next_block = replay->next;
    out_->prev_crc = replay->prev_crc;
    for (const DecodedBlock& block : replay->blocks) {
      for (uint32_t i = 0; i < block.header.count; ++i) {
        auto record = decode_record(block.records.subspan(size_t{i} * kRecordBytes, kRecordBytes));
        if (!record) {
          co_return fail(record.error().code,
                         fmt::format("journal block {}: {}", block.header.seq.v, record.error().message));
        }
        records_.push_back(*record);
      }
    }
    out_->journal_records = records_.size();
    co_return Status{};
  }

  // The rows of the superblock, brought up to date by the journal, each joined with its backing.
  Status attach_segments() {
    std::vector<SegmentRow>& rows = out_->super.segments;
    for (const Record& record : records_) {
      const auto* row = std::get_if<SegmentRow>(&record);
      if (row == nullptr) continue;
      const auto known =
          std::find_if(rows.begin(), rows.end(), [&](const SegmentRow& r) { return r.id == row->id; });
      if (known != rows.end()) {
        *known = *row;
      } else {
        rows.push_back(*row);
      }
      out_->super.next_segment = std::max(out_->super.next_segment, row->id.next());
    }
    std::vector<bool> used(files_.size(), false);
    for (const SegmentRow& row : rows) {
      if (row.role == SegmentRole::kBase) {
        TRY(attach_base(row));
        used[base_] = true;
        continue;
      }
      size_t found = SIZE_MAX;
      for (size_t i = 0; i < labels_.size(); ++i) {
        if (labels_[i] && labels_[i]->segment == row.uuid && !used[i]) found = i;
      }
      if (found == SIZE_MAX) {
        return fail(Code::kNotFound, fmt::format("segment {} ({}) of volume {} is missing", row.id.v,
                                                 row.uuid.str(), out_->label.name));
      }
      const Label& label = *labels_[found];
      // What is, was or is to be the head can be a shadow for a while.
      const bool fits =
          label.role == row.role || (label.role == SegmentRole::kPrimary && row.role == SegmentRole::kShadow);
      if (label.layout.clusters < row.clusters || !fits) {
        return fail(Code::kCorrupt,
                    fmt::format("segment {}: its label allows {} clusters, the volume says {}", row.id.v,
                                label.layout.clusters, row.clusters));
      }
      const uint64_t needed = bytes_for(label.layout, label.geometry, row.clusters);
      if (files_[found]->size() < needed) {
        return fail(Code::kCorrupt, fmt::format("segment {} is truncated: {} bytes, {} clusters take {}",
                                                row.uuid.str(), files_[found]->size(), row.clusters, needed));
      }
      if ((label.layout.checksum_pages > 0) != checksums()) {
        return fail(Code::kCorrupt,
                    fmt::format("segment {}: its label {} a checksum area, the volume {}", row.id.v,
                                checksums() ? "has not" : "has", checksums() ? "has checksums" : "has none"));
      }
      used[found] = true;
      RecoveredSegment segment{row,
                               label.layout,
                               found,
                               found,
                               std::vector<uint8_t>(label.layout.table_pages, kNoPlace),
                               Allocator(row.pcn_base, row.clusters),
                               ChecksumTable(label.layout.checksum_pages)};
      out_->segments.push_back(std::move(segment));
    }
    auto checked = check_rows();
    if (!checked) return checked;
    if (out_->segments.empty() || out_->segments[0].file != primary_)
      return fail(Code::kCorrupt, "segment 0 is not the primary");
    for (size_t i = 0; i < files_.size(); ++i) {
      if (!used[i]) out_->orphans.push_back(i);
    }
    // As large as it was at the checkpoint; the journal's GROW records enlarge it in their turn.
    out_->map = Map(clusters_of(out_->stored.size));
    return {};
  }

  Status attach_base(const SegmentRow& row) {
    const auto& base = out_->label.base;
    if (!base || row.uuid != base->uuid || row.clusters != base->clusters ||
        row.state != SegmentState::kMerged) {
      return fail(Code::kCorrupt,
                  fmt::format("segment {}: the label does not know it as the base", row.id.v));
    }
    out_->segments.push_back({row, base->layout(), base_, primary_,
                              std::vector<uint8_t>(base->table_pages, kNoPlace),
                              Allocator::by_address(row.pcn_base, row.clusters), ChecksumTable()});
    return {};
  }

  // Rows are believed only where they fit together: ids and ranges of physical clusters are nobody else's.
  Status check_rows() {
    uint64_t size = out_->super.size;
    for (const Record& record : records_) {
      if (const auto* grown = std::get_if<GrowRecord>(&record)) size = std::max(size, grown->size);
    }
    const auto clusters = div_up(size, out_->label.geometry.cluster());
    if (clusters > UINT32_MAX) return fail(Code::kCorrupt, fmt::format("a volume of {} clusters", clusters));
    if (out_->segments.size() > limits::kSegments) {
      return fail(Code::kCorrupt,
                  fmt::format("{} segments, at most {} can be", out_->segments.size(), limits::kSegments));
    }
    for (size_t i = 0; i < out_->segments.size(); ++i) {
      const SegmentRow& row = out_->segments[i].row;
      const auto end_of = [](const RecoveredSegment& segment) {
        return align_up(segment.row.pcn_base.v + uint64_t{segment.layout.clusters}, kGranuleClusters);
      };
      bool good = row.id < out_->super.next_segment && end_of(out_->segments[i]) <= kPcnEnd;
      for (size_t j = 0; j < i; ++j) {
        const SegmentRow& other = out_->segments[j].row;
        const bool apart =
            row.pcn_base.v >= end_of(out_->segments[j]) || other.pcn_base.v >= end_of(out_->segments[i]);
        good = good && apart && row.id != other.id;
      }
      if (!good) {
        return fail(Code::kCorrupt, fmt::format("segment {} (clusters {}+{}) does not fit beside the others",
                                                row.id.v, row.pcn_base.v, row.clusters));
      }
    }
    return {};
  }

  uint32_t clusters_of(uint64_t size) const {
    return static_cast<uint32_t>(div_up(size, out_->label.geometry.cluster()));
  }

  // History may name clusters that a segment has had and has given up since; what counts in the end is
  // checked by rebuild_allocators().
  bool in_a_segment(Pcn pcn) const {
    return std::any_of(out_->segments.begin(), out_->segments.end(), [&](const RecoveredSegment& s) {
      return pcn >= s.row.pcn_base && pcn.v - s.row.pcn_base.v < s.layout.clusters;
    });
  }

  io::Task<Status> load_table(size_t index) {
    RecoveredSegment& segment = out_->segments[index];
    const uint64_t bytes = uint64_t{segment.layout.table_pages} * kTableSlots * kMetaBlock;
    const io::Buffer chunk(std::min(bytes, kReadChunk));
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t length = std::min<uint64_t>(chunk.size(), bytes - done);
      auto read = co_await read_range(*files_[segment.table_file], segment.layout.table_offset + done,
                                      chunk.first(length), "the table");
      if (!read) co_return tl::unexpected(read.error());
      for (uint64_t at = 0; at < length; at += kTableSlots * kMetaBlock) {
        const auto page = static_cast<uint32_t>((done + at) / (kTableSlots * kMetaBlock));
        auto loaded = load_page(index, page, chunk.span().subspan(at, kTableSlots * kMetaBlock));
        if (!loaded) co_return tl::unexpected(loaded.error());
      }
      done += length;
    }
    co_return fill_base(index);
  }

  // Where a base's table was never written, every cluster is in its place.
  Status fill_base(size_t index) {
    const RecoveredSegment& segment = out_->segments[index];
    if (segment.row.role != SegmentRole::kBase) return {};
    bool empty = true;
    const uint64_t bytes = out_->label.base->bytes;
    for (uint32_t page = 0; page < segment.layout.table_pages && empty;) {
      uint32_t end = page;
      while (end < segment.layout.table_pages && segment.places[end] == kNoPlace) ++end;
      const uint32_t first = page * kTableEntries;
      uint32_t last = std::min(end * kTableEntries, segment.row.clusters);
      page = end + 1;
      if (last <= first) continue;
      // The last cluster may be cut short by the end of the image.
      const uint16_t mask = base_mask(bytes, out_->label.geometry, last - 1);
      if (mask != kFullMask) {
        --last;
        empty = add_entry(*out_, segment.row.pcn_base.next(last), {Lcn(last), mask});
      }
      empty = empty && out_->map.fill_linear(Lcn(first), segment.row.pcn_base.next(first), last - first);
    }
    if (empty) return {};
    return fail(Code::kCorrupt, "the tables give sub-blocks to two owners, one of them the base");
  }

  Status load_page(size_t index, uint32_t page, std::span<const std::byte> places) {
    RecoveredSegment& segment = out_->segments[index];
    std::optional<PageSeen> best;
    bool unfinished = false;
    for (uint32_t place = 0; place < kTableSlots; ++place) {
      auto seen = look_at_table_page(head_of(segment, page), place_at(places, place));
      if (!seen) {  // torn by a crash, or rotten: the digest tells which
        unfinished = true;
        note_damage(seen.error().message);
        continue;
      }
      if (!*seen) continue;
      if ((*seen)->checkpoint > out_->super.checkpoint) {
        unfinished = true;
      } else if (!best || (*seen)->checkpoint > best->checkpoint) {
        best = **seen;
        segment.places[page] = static_cast<uint8_t>(place);
      }
    }
    if (unfinished) out_->unfinished.push_back({index, page});
    if (!best) return {};
    ++out_->table_pages;
    digest_ += page_digest(segment.row.pcn_base, page, best->checkpoint, best->crc);
    decode_entries(place_at(places, segment.places[page]), entries_);
    return add_entries(segment, page);
  }

  Status add_entries(const RecoveredSegment& segment, uint32_t page) {
    for (const TableEntry& entry : entries_) {
      if (entry.mask != 0 && entry.lcn.v < out_->map.clusters()) out_->map.prefetch(entry.lcn);
    }
    for (uint32_t i = 0; i < kTableEntries; ++i) {
      const TableEntry& entry = entries_[i];
      if (entry.mask == 0) continue;
      const uint32_t local = page * kTableEntries + i;
      if (local >= segment.layout.clusters || !fits_base(segment, local, entry) ||
          !add_entry(*out_, Pcn(segment.row.pcn_base.v + local), entry)) {
        return fail(
            Code::kCorrupt,
            fmt::format("table page {} of segment {}: entry {} (cluster {}, mask {:04x}) is impossible", page,
                        segment.row.id.v, i, entry.lcn.v, entry.mask));
      }
    }
    return {};
  }

  PageHead head_of(const RecoveredSegment& segment, uint32_t page) const {
    return {out_->label.volume, segment.row.uuid, CkptSeq(), page, segment.row.pcn_base};
  }
  static std::span<const std::byte> place_at(std::span<const std::byte> places, uint32_t place) {
    return places.subspan(size_t{place} * kMetaBlock, kMetaBlock);
  }

  io::Task<Status> load_checksums(size_t index) {
    const RecoveredSegment& segment = out_->segments[index];
    constexpr uint64_t kPlaces = uint64_t{kTableSlots} * kMetaBlock;
    const uint64_t bytes = segment.layout.checksum_pages * kPlaces;
    if (bytes == 0) co_return Status{};
    const io::Buffer chunk(std::min(bytes, kReadChunk));
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t length = std::min<uint64_t>(chunk.size(), bytes - done);
      auto read = co_await read_range(*files_[segment.file], segment.layout.checksum_offset + done,
                                      chunk.first(length), "the checksums");
      if (!read) co_return tl::unexpected(read.error());
      for (uint64_t at = 0; at < length; at += kPlaces)
        load_checksum_page(index, static_cast<uint32_t>((done + at) / kPlaces),
                           chunk.span().subspan(at, kPlaces));
      done += length;
    }
    co_return Status{};
  }

  // As load_page: the newest place that the superblock covers counts, and the digest tells if that is it.
  void load_checksum_page(size_t index, uint32_t page, std::span<const std::byte> places) {
    RecoveredSegment& segment = out_->segments[index];
    std::optional<PageSeen> best;
    uint8_t best_place = kNoPlace;
    for (uint8_t place = 0; place < kTableSlots; ++place) {
      auto seen = look_at_checksum_page(head_of(segment, page), place_at(places, place));
      if (!seen) {
        segment.checksums.touch(page);
        note_damage(seen.error().message);
        continue;
      }
      if (!*seen) continue;
      if ((*seen)->checkpoint > out_->super.checkpoint) {
        segment.checksums.touch(page);
      } else if (!best || (*seen)->checkpoint > best->checkpoint) {
        best = **seen;
        best_place = place;
      }
    }
    if (!best) return;
    ++out_->checksum_pages;
    const uint64_t share = checksum_page_digest(segment.row.pcn_base, page, best->checkpoint, best->crc);
    digest_ += share;
    segment.checksums.load(page, best_place, share, place_at(places, best_place));
  }

  bool checksums() const { return (out_->super.features & kFeatureChecksums) != 0; }

  // What the page says of these regions may be older than their data. A region of a segment that is no longer
  // part of the volume is nobody's.
  void forget(const ActivityRecord& record) {
    for (uint32_t i = 0; i < record.count; ++i) {
      for (RecoveredSegment& segment : out_->segments) {
        const Pcn base = segment.row.pcn_base;
        if (record.regions[i] < base) continue;
        const uint32_t page = ChecksumTable::page_of(record.regions[i].v - base.v);
        if (page >= segment.checksums.pages()) continue;
        segment.checksums.forget_region(page);
        // Its record is in the journal still, and open() makes that durable before anything is written.
        segment.checksums.set_note(page, ChecksumTable::Note::kDurable);
      }
    }
  }

  // A base's cluster holds its own logical cluster, and no more of it than there is.
  bool fits_base(const RecoveredSegment& segment, uint32_t local, const TableEntry& entry) const {
    if (segment.row.role != SegmentRole::kBase) return true;
    const uint16_t mask = base_mask(out_->label.base->bytes, out_->label.geometry, local);
    return entry.lcn.v == local && (entry.mask & ~mask) == 0;
  }
  bool fits_base(Lcn lcn, Pcn pcn, uint16_t mask) const {
    return pcn.v == 0 || !out_->label.base ||
           std::all_of(out_->segments.begin(), out_->segments.end(), [&](const auto& segment) {
             if (pcn < segment.row.pcn_base || pcn.v - segment.row.pcn_base.v >= segment.row.clusters)
               return true;
             return fits_base(segment, pcn.v - segment.row.pcn_base.v, {lcn, mask});
           });
  }

  // The first few by name: there may be as many as a disk has blocks.
  void note_damage(const std::string& what) {
    constexpr uint32_t kNamed = 8;
    if (++damages_ < kNamed) damaged_ += (damages_ == 1 ? "; damaged: " : "; ") + what;
    if (damages_ == kNamed) damaged_ += "; and more";
  }

  Status finish() {
    if (digest_ != out_->super.table_digest) {
      return fail(
          Code::kCorrupt,
          fmt::format("the tables are not those of checkpoint {}: digest {:016x}, expected {:016x}{}",
                      out_->super.checkpoint.v, digest_, out_->super.table_digest, damaged_));
    }
    for (const Record& record : records_) TRY(apply(record));
    TRY(check_tail());
    return rebuild_allocators(*out_);
  }

  // A cluster that the image cuts short has left it before the volume grew beyond.
  Status check_tail() const {
    const auto& base = out_->label.base;
    if (!base || base->bytes % out_->label.geometry.cluster() == 0 || out_->super.size == base->bytes)
      return {};
    const Mapping last = out_->map.get(Lcn(base->clusters - 1));
    if (!in_base(last.a) && !in_base(last.b)) return {};
    return fail(Code::kCorrupt, fmt::format("cluster {} lies past the end of the image", base->clusters - 1));
  }
  bool in_base(Pcn pcn) const {
    return std::any_of(out_->segments.begin(), out_->segments.end(), [&](const RecoveredSegment& s) {
      return s.row.role == SegmentRole::kBase && pcn >= s.row.pcn_base &&
             pcn.v - s.row.pcn_base.v < s.row.clusters;
    });
  }

  Status apply(const Record& record) {
    const uint32_t clusters = out_->map.clusters();
    if (const auto* map = std::get_if<MapRecord>(&record)) {
      if (map->lcn.v >= clusters)
        return fail(Code::kCorrupt, fmt::format("journal maps cluster {} of {}", map->lcn.v, clusters));
      if (!in_a_segment(map->a) || (map->b.v != 0 && !in_a_segment(map->b))) {
        return fail(Code::kCorrupt,
                    fmt::format("journal maps cluster {} to {} and {}, in no segment of the volume",
                                map->lcn.v, map->a.v, map->b.v));
      }
      if (!fits_base(map->lcn, map->a, map->mask_a) || !fits_base(map->lcn, map->b, map->mask_b)) {
        return fail(Code::kCorrupt, fmt::format("journal maps cluster {} to a place of the base that is not "
                                                "its own",
                                                map->lcn.v));
      }
      const Mapping after{map->a, map->b, map->mask_a, map->mask_b, map->pack_a, map->pack_b};
      if (!change(map->lcn, after)) {
        return fail(
            Code::kCorrupt,
            fmt::format("journal puts cluster {} at slots {}+{} of container {}, which cannot be", map->lcn.v,
                        after.container_pack().slot(), after.container_pack().count(), after.container().v));
      }
    } else if (const auto* unmap = std::get_if<UnmapRecord>(&record)) {
      if (unmap->count > clusters || unmap->lcn.v > clusters - unmap->count) {
        return fail(Code::kCorrupt,
                    fmt::format("journal unmaps clusters {}+{} of {}", unmap->lcn.v, unmap->count, clusters));
      }
      const uint32_t end = unmap->lcn.v + unmap->count;
      for (Lcn lcn = out_->map.next_populated(unmap->lcn); lcn.v < end;
           lcn = out_->map.next_populated(lcn.next())) {
        if (!change(lcn, {})) return fail(Code::kInternal, "a cluster cannot be unmapped");
      }
    } else if (const auto* activity = std::get_if<ActivityRecord>(&record)) {
      forget(*activity);
    } else if (const auto* grown = std::get_if<GrowRecord>(&record)) {
      // The superblock of an attach has the size of all records, and older ones are replayed over it.
      out_->super.size = std::max(out_->super.size, grown->size);
      out_->map.grow(clusters_of(out_->super.size));
    }
    return {};
  }

  bool change(Lcn lcn, const Mapping& after) {
    const Mapping before = out_->map.get(lcn);
    out_->map.set(lcn, after);
    return append_deltas(lcn, before, after, out_->containers, out_->deltas);
  }

  io::File& primary() { return *files_[primary_]; }

  std::vector<io::File*> files_;
  size_t base_;
  const SupposedHead* supposed_;
  std::unique_ptr<Recovered> out_;
  std::vector<std::optional<Label>> labels_;
  std::vector<size_t> candidates_;  // for the head, by their labels
  size_t primary_ = SIZE_MAX;
  io::Buffer ring_;
  std::vector<Record> records_;
  uint64_t digest_ = 0;
  TableEntries entries_;   // of the page that is being loaded
  std::string damaged_;
  uint32_t damages_ = 0;
};

}  // namespace

io::Task<Result<std::unique_ptr<Recovered>>> recover(std::vector<io::File*> files, size_t base,
                                                     const SupposedHead* supposed) {
  Recovery recovery(std::move(files), base, supposed);
  auto outcome = co_await recovery.run();
  co_return outcome;
}

}  // namespace foreshadow::extent
