#include "extent/repair.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "extent/checksum_page.h"
#include "extent/head.h"
#include "extent/journal.h"
#include "extent/label.h"
#include "extent/recovery.h"
#include "extent/sealed_block.h"
#include "extent/table_page.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

constexpr size_t kLabelCrcAt = 8;
constexpr size_t kSuperCrcAt = 8;
constexpr size_t kBlockCrcAt = 4;
constexpr uint64_t kCheckpointsTried = 4096;

// A place of a page that is neither empty nor what belongs there.
struct BadPlace {
  size_t segment = 0;
  bool of_checksums = false;
  uint32_t page = 0;
  uint32_t place = 0;
  uint64_t offset = 0;
};

class Repair {
 public:
  Repair(std::vector<io::File*> files, bool apply, size_t base)
      : files_(std::move(files)), apply_(apply), base_(base) {}

  io::Task<Result<RepairReport>> run() {
    auto labels = co_await labels_step();
    if (!labels) co_return tl::unexpected(labels.error());
    if (const Status once = none_twice(labels_); !once) {
      out_.refused.push_back(once.error().message);
      co_return std::move(out_);
    }
    if (candidates_.empty()) {
      out_.refused.emplace_back("no primary can be told from its label: `foreshadow rescue` may know more");
      co_return std::move(out_);
    }
    auto super = co_await head_step();
    if (!super) co_return tl::unexpected(super.error());
    if (!*super) co_return std::move(out_);
    auto journal = co_await journal_step();
    if (!journal) co_return tl::unexpected(journal.error());
    if (!*journal) co_return std::move(out_);
    auto tables = co_await table_step();
    if (!tables) co_return tl::unexpected(tables.error());
    co_return std::move(out_);
  }

 private:
  io::Task<Status> put(size_t file, uint64_t offset, std::span<const std::byte> bytes, std::string what) {
    out_.repaired.push_back(what);
    if (!apply_) co_return Status{};
    const int written = co_await io::write(*files_[file], offset, bytes);
    if (written < 0) co_return fail_errno(written, what);
    const int synced = co_await io::sync(*files_[file]);
    if (synced < 0) co_return fail_errno(synced, what);
    co_return Status{};
  }

  // ---- labels

  io::Task<Status> labels_step() {
    for (size_t i = 0; i < files_.size(); ++i) {
      labels_.emplace_back();
      if (i == base_) continue;  // somebody else's bytes
      const io::Buffer copies(size_t{kLabelCopies} * kMetaBlock);
      if (files_[i]->size() < copies.size()) continue;
      const int read = co_await io::read(*files_[i], 0, copies.span());
      if (read < 0) co_return fail_errno(read, "cannot read a label");
      std::array<std::optional<Label>, kLabelCopies> good;
      for (uint32_t copy = 0; copy < kLabelCopies; ++copy) {
        const auto block = copies.span().subspan(size_t{copy} * kMetaBlock, kMetaBlock);
        auto label = decode_label(block, Layout::label_offset(copy));
        if (label) good[copy] = std::move(*label);
      }
      for (uint32_t copy = 0; copy < kLabelCopies && !good[0] && !good[1]; ++copy) {
        const auto block = copies.span().subspan(size_t{copy} * kMetaBlock, kMetaBlock);
        if (all_zero(block) || !flip_back(block, "FSHLABEL", kLabelCrcAt)) continue;
        auto label = decode_label(block, Layout::label_offset(copy));
        if (!label) continue;
        good[copy] = std::move(*label);
        std::string what =
            fmt::format("label {} of segment {}: one flipped bit", copy, good[copy]->segment.str());
        auto put_back = co_await put(i, Layout::label_offset(copy), block, std::move(what));
        if (!put_back) co_return put_back;
      }
      if (good[0] && good[1] && *good[0] != *good[1]) {
        out_.refused.push_back(fmt::format("the two labels of segment {} are both good and not the same",
                                           good[0]->segment.str()));
      } else if (good[0].has_value() != good[1].has_value()) {
        const uint32_t bad = good[0] ? 1 : 0;
        const io::Buffer block(kMetaBlock);
        encode_label(*good[1 - bad], Layout::label_offset(bad), block.span());
        std::string what =
            fmt::format("label {} of segment {}: from the other one", bad, good[1 - bad]->segment.str());
        auto put_back = co_await put(i, Layout::label_offset(bad), block.span(), std::move(what));
        if (!put_back) co_return put_back;
      } else if (!good[0] && !all_zero(copies.span())) {
        out_.refused.push_back(fmt::format("both labels of backing {} are damaged", i));
      }
      labels_[i] = good[0] ? good[0] : good[1];
      if (labels_[i] && labels_[i]->role == SegmentRole::kPrimary) candidates_.push_back(i);
    }
    co_return Status{};
  }

  // ---- the superblock

  // Of every segment that may be the head, and then which one it is.
  io::Task<Result<bool>> head_step() {
    std::vector<HeadArea> areas;
    std::vector<size_t> files;
    for (const size_t file : candidates_) {
      if (candidates_.size() > 1) {
        auto area = co_await read_head_area(*files_[file], labels_[file]->volume, labels_[file]->segment);
        if (!area) co_return tl::unexpected(area.error());
        if (area->unfinished) continue;  // it never was
      }
      auto good = co_await super_step(file);
      if (!good) co_return tl::unexpected(good.error());
      if (!*good) co_return false;
      HeadArea& area = areas.emplace_back();
      area.segment = labels_[file]->segment;
      area.agreed = true;
      area.super = super_;
      files.push_back(file);
    }
    const auto head = choose_head(areas);
    if (!head) out_.refused.push_back(head.error().message);
    if (!head) co_return false;
    primary_ = files[*head];
    super_ = areas[*head].super;
    co_return true;
  }

  io::Task<Result<bool>> super_step(size_t file) {
    const Uuid& volume = labels_[file]->volume;
    const io::Buffer copies(size_t{kSuperCopies} * kSuperBytes);
    const int read = co_await io::read(*files_[file], Layout::super_offset(0), copies.span());
    if (read < 0) co_return fail_errno(read, "cannot read the superblock");
    uint64_t highest = 0;
    auto chosen = choose_superblock(copies.span(), volume, &highest);
    if (!chosen) {
      std::string mended;
      for (uint32_t i = 0; i < kSuperCopies; ++i) {
        const auto copy = copies.span().subspan(size_t{i} * kSuperBytes, kSuperBytes);
        if (decode_superblock(copy, Layout::super_offset(i), volume)) continue;
        if (flip_back(copy, "FSHSUPER", kSuperCrcAt)) mended += fmt::format(" {}", i);
      }
      const std::string why = chosen.error().message;
      chosen = choose_superblock(copies.span(), volume, &highest);
      if (!chosen) {
        out_.refused.push_back(why + ": `foreshadow rescue` may know more");
        co_return false;
      }
      out_.repaired.push_back(fmt::format("superblock copies{}: one flipped bit each", mended));
    }
    super_ = *chosen;
    std::array<bool, kSuperCopies> good{};
    const io::Buffer on_disk(copies.size());
    const int again = co_await io::read(*files_[file], Layout::super_offset(0), on_disk.span());
    if (again < 0) co_return fail_errno(again, "cannot read the superblock");
    for (uint32_t i = 0; i < kSuperCopies; ++i) {
      const auto copy = on_disk.span().subspan(size_t{i} * kSuperBytes, kSuperBytes);
      const auto decoded = decode_superblock(copy, Layout::super_offset(i), volume);
      good[i] = decoded && *decoded == super_;
      if (!good[i]) out_.repaired.push_back(fmt::format("superblock copy {}: from the others", i));
    }
    if (!apply_) co_return true;
    auto written = co_await repair_superblock(*files_[file], super_, good);
    if (!written) co_return tl::unexpected(written.error());
    co_return true;
  }

  // ---- the journal

  std::span<std::byte> block_at(uint64_t seq) {
    const uint64_t blocks = ring_.size() / kMetaBlock;
    return ring_.span().subspan(seq % blocks * kMetaBlock, kMetaBlock);
  }
  // A block that ends the replay, though history is known to go on: mended if one bit explains it.
  io::Task<Result<bool>> journal_step() {
    const Layout& layout = labels_[primary_]->layout;
    ring_ = io::Buffer(size_t{layout.journal_blocks} * kMetaBlock);
    for (uint64_t done = 0; done < ring_.size(); done += kMiB) {
      const uint64_t length = std::min<uint64_t>(kMiB, ring_.size() - done);
      const int read = co_await io::read(*files_[primary_], layout.journal_offset + done,
                                         ring_.span().subspan(done, length));
      if (read < 0) co_return fail_errno(read, "cannot read the journal");
    }
    const Fence fence{super_.epoch, super_.epoch_start};
    for (uint32_t tries = 0; tries < layout.journal_blocks; ++tries) {
      auto replay =
          replay_ring(ring_.span(), super_.volume, super_.replay_from, super_.replay_prev_crc, fence);
      if (replay) {
        for (const DecodedBlock& block : replay->blocks) {
          for (uint32_t i = 0; i < block.header.count; ++i) {
            auto record = decode_record(block.records.subspan(size_t{i} * kRecordBytes, kRecordBytes));
            if (!record) {
              out_.refused.push_back(record.error().message);
              co_return false;
            }
            if (const auto* row = std::get_if<SegmentRow>(&*record)) note_row(*row);
          }
        }
        co_return true;
      }
      auto mended = co_await mend_block(replay.error().message);
      if (!mended) co_return tl::unexpected(mended.error());
      if (!*mended) co_return false;
    }
    co_return false;
  }

  io::Task<Result<bool>> mend_block(std::string why) {
    BlockSeq next = super_.replay_from;
    uint32_t prev = super_.replay_prev_crc;
    for (;;) {
      const auto block = decode_block(block_at(next.v), super_.volume);
      if (!block || block->header.seq != next || block->header.prev_crc != prev) break;
      prev = block->crc;
      next = next.next();
    }
    const io::Buffer mended(kMetaBlock);
    const auto bad = block_at(next.v);
    std::copy(bad.begin(), bad.end(), mended.span().begin());
    const bool flipped = flip_back(mended.span(), "FSHJ", kBlockCrcAt);
    const auto block = decode_block(mended.span(), super_.volume);
    // The chain proves it on both sides: it follows the one before, and the one after follows it.
    const auto after = decode_block(block_at(next.v + 1), super_.volume);
    if (!flipped || !block || block->header.seq != next || block->header.prev_crc != prev ||
        (after && after->header.seq == next.next() && after->header.prev_crc != block->crc)) {
      out_.refused.push_back(why);
      co_return false;
    }
    std::copy(mended.span().begin(), mended.span().end(), bad.begin());
    std::string what = fmt::format("journal block {}: one flipped bit", next.v);
    auto put_back =
        co_await put(primary_, labels_[primary_]->layout.block_offset(next.v), bad, std::move(what));
    if (!put_back) co_return tl::unexpected(put_back.error());
    co_return true;
  }

  void note_row(const SegmentRow& row) {
    const auto known = std::find_if(rows_later_.begin(), rows_later_.end(),
                                    [&](const SegmentRow& r) { return r.id == row.id; });
    known == rows_later_.end() ? rows_later_.push_back(row) : void(*known = row);
  }

  // ---- tables and checksums

  io::Task<Result<bool>> table_step() {
    std::vector<SegmentRow> rows = super_.segments;
    for (const SegmentRow& row : rows_later_) {
      if (std::none_of(rows.begin(), rows.end(), [&](const auto& r) { return r.id == row.id; }))
        rows.push_back(row);
    }
    for (const SegmentRow& row : rows) {
      size_t file = SIZE_MAX;
      for (size_t i = 0; i < labels_.size(); ++i) {
        if (labels_[i] && labels_[i]->segment == row.uuid) file = i;
      }
      const auto& base = labels_[primary_]->base;
      if (base && row.role == SegmentRole::kBase && row.uuid == base->uuid) file = base_;
      if (file == SIZE_MAX) {
        out_.refused.push_back(fmt::format("segment {} ({}) is missing", row.id.v, row.uuid.str()));
        co_return false;
      }
      row_of_[file] = row;
      auto read = co_await read_pages(file, row);
      if (!read) co_return tl::unexpected(read.error());
    }
    for (size_t i = 0; i < labels_.size(); ++i) {
      if (!row_of_.contains(i)) out_.orphans.push_back(i);
    }
    if (digest_ == super_.table_digest) co_return true;  // what is damaged is what nobody counts
    // Each that one bit explains; its crc is the proof, and the digest in the end.
    std::vector<BadPlace> left;
    for (const BadPlace& bad : bad_) {
      auto mended = co_await mend_page(bad);
      if (!mended) co_return tl::unexpected(mended.error());
      if (!*mended) left.push_back(bad);
    }
    if (digest_ == super_.table_digest) co_return true;
    for (const BadPlace& bad : left) {
      if (bad.of_checksums) continue;
      auto rebuilt = co_await rebuild_page(bad);
      if (!rebuilt) co_return tl::unexpected(rebuilt.error());
      if (*rebuilt) co_return true;
    }
    out_.refused.push_back(fmt::format(
        "the tables are not those of checkpoint {}, and nothing proves what was there: {} damaged pages",
        super_.checkpoint.v, bad_.size()));
    co_return false;
  }

  io::Task<Status> read_pages(size_t file, const SegmentRow& row) {
    const Layout layout = layout_of(file);
    const io::Buffer block(kMetaBlock);
    for (const bool of_checksums : {false, true}) {
      const uint32_t pages = of_checksums ? layout.checksum_pages : layout.table_pages;
      for (uint32_t page = 0; page < pages; ++page) {
        CkptSeq newest;
        uint64_t share = 0;
        for (uint32_t place = 0; place < kTableSlots; ++place) {
          const uint64_t offset =
              of_checksums ? layout.checksum_page_offset(page, place) : layout.page_offset(page, place);
          const int read = co_await io::read(*files_[table_file(file)], offset, block.span());
          if (read < 0) co_return fail_errno(read, "cannot read a table page");
          const auto found = look(block.span(), row, page, of_checksums);
          if (!found) {
            bad_.push_back({file, of_checksums, page, place, offset});
          } else if (found->first > newest && found->first <= super_.checkpoint) {
            newest = found->first;
            share = found->second;
          }
        }
        digest_ += share;
        shares_[{file, of_checksums, page}] = {newest, share};
      }
    }
    co_return Status{};
  }

  // Checkpoint and digest share of one place, zeros if it is empty; nothing if it is damaged.
  std::optional<std::pair<CkptSeq, uint64_t>> look(std::span<const std::byte> block, const SegmentRow& row,
                                                   uint32_t page, bool of_checksums) const {
    if (of_checksums) {
      const auto found = decode_checksum_page(block, super_.volume, row.uuid, page, row.pcn_base);
      if (!found) return std::nullopt;
      if (!*found) return std::pair{CkptSeq(), uint64_t{0}};
      const CkptSeq at = (*found)->page.checkpoint;
      return std::pair{at, checksum_page_digest(row.pcn_base, page, at, (*found)->crc)};
    }
    const auto found = decode_page(block, super_.volume, row.uuid, page, row.pcn_base);
    if (!found) return std::nullopt;
    if (!*found) return std::pair{CkptSeq(), uint64_t{0}};
    const CkptSeq at = (*found)->page.checkpoint;
    return std::pair{at, page_digest(row.pcn_base, page, at, (*found)->crc)};
  }

  // A base's table lies in the primary.
  Layout layout_of(size_t file) const {
    return file == base_ ? labels_[primary_]->base->layout() : labels_[file]->layout;
  }
  size_t table_file(size_t file) const { return file == base_ ? primary_ : file; }

  std::string name_of(const BadPlace& bad) {
    return fmt::format("{} page {} of segment {}", bad.of_checksums ? "checksum" : "table", bad.page,
                       row_of_[bad.segment].id.v);
  }

  io::Task<Result<bool>> mend_page(BadPlace bad) {
    const io::Buffer block(kMetaBlock);
    const int read = co_await io::read(*files_[table_file(bad.segment)], bad.offset, block.span());
    if (read < 0) co_return fail_errno(read, "cannot read a table page");
    if (!flip_back(block.span(), bad.of_checksums ? "FSHC" : "FSHT", kBlockCrcAt)) co_return false;
    const auto found = look(block.span(), row_of_[bad.segment], bad.page, bad.of_checksums);
    auto& [newest, share] = shares_[{bad.segment, bad.of_checksums, bad.page}];
    if (!found || found->first <= newest || found->first > super_.checkpoint) co_return false;
    digest_ += found->second - share;
    newest = found->first;
    share = found->second;
    std::string what = name_of(bad) + ": one flipped bit";
    auto put_back = co_await put(table_file(bad.segment), bad.offset, block.span(), std::move(what));
    if (!put_back) co_return tl::unexpected(put_back.error());
    co_return true;
  }

  // The page before the lost one, with what the ring still tells of the time between, for every checkpoint it
  // may have been of. The missing share of the digest names the right one.
  io::Task<Result<bool>> rebuild_page(BadPlace bad) {
    const SegmentRow& row = row_of_[bad.segment];
    const auto& [newest, share] = shares_[{bad.segment, false, bad.page}];
    TablePage page;
    page.volume = super_.volume;
    page.segment = row.uuid;
    page.page = bad.page;
    page.pcn_base = row.pcn_base;
    const io::Buffer block(kMetaBlock);
    if (bad.segment == base_) {  // before the first one, everything is in its place
      const Label& label = *labels_[primary_];
      page.entries = base_entries(label.base->bytes, label.geometry, bad.page);
    }
    if (newest.v != 0) {
      const uint64_t other = layout_of(bad.segment).page_offset(bad.page, 1 - bad.place);
      const int read = co_await io::read(*files_[table_file(bad.segment)], other, block.span());
      if (read < 0) co_return fail_errno(read, "cannot read a table page");
      auto old = decode_page(block.span(), super_.volume, row.uuid, bad.page, row.pcn_base);
      if (!old || !*old) co_return false;
      page.entries = (*old)->page.entries;
    }
    replay_history(page);
    const uint64_t wanted = super_.table_digest - (digest_ - share);
    for (uint64_t back = 0; back < kCheckpointsTried && super_.checkpoint.v - back > newest.v; ++back) {
      page.checkpoint = CkptSeq(super_.checkpoint.v - back);
      const uint32_t crc = encode_page(page, block.span());
      if (page_digest(row.pcn_base, bad.page, page.checkpoint, crc) != wanted) continue;
      digest_ = super_.table_digest;
      std::string what = name_of(bad) + ": from the page before it and the journal";
      auto put_back = co_await put(table_file(bad.segment), bad.offset, block.span(), std::move(what));
      if (!put_back) co_return tl::unexpected(put_back.error());
      co_return true;
    }
    co_return false;
  }

  // Applies to `page` all that the ring holds of history before the replay position, as far back as it
  // chains.
  void replay_history(TablePage& page) {
    std::vector<DecodedBlock> history;
    uint32_t crc = super_.replay_prev_crc;
    const uint64_t blocks = ring_.size() / kMetaBlock;
    for (uint64_t seq = super_.replay_from.v - 1; seq > 0 && history.size() < blocks; --seq) {
      const auto block = decode_block(block_at(seq), super_.volume);
      if (!block || block->header.seq.v != seq || block->crc != crc) break;
      crc = block->header.prev_crc;
      history.push_back(*block);
    }
    for (auto block = history.rbegin(); block != history.rend(); ++block) {
      for (uint32_t i = 0; i < block->header.count; ++i) {
        const auto record = decode_record(block->records.subspan(size_t{i} * kRecordBytes, kRecordBytes));
        if (!record) return;
        apply(*record, page);
      }
    }
  }

  static void apply(const Record& record, TablePage& page) {
    const uint32_t first = page.pcn_base.v + page.page * kTableEntries;
    if (const auto* map = std::get_if<MapRecord>(&record)) {
      for (TableEntry& entry : page.entries) {
        if (entry.mask != 0 && entry.lcn == map->lcn) entry = {};
      }
      const auto put = [&](Pcn pcn, uint16_t mask) {
        if (mask != 0 && pcn.v >= first && pcn.v - first < kTableEntries)
          page.entries[pcn.v - first] = {map->lcn, mask};
      };
      put(map->a, map->mask_a);
      put(map->b, map->mask_b);
    } else if (const auto* unmap = std::get_if<UnmapRecord>(&record)) {
      for (TableEntry& entry : page.entries) {
        if (entry.mask != 0 && entry.lcn >= unmap->lcn && entry.lcn.v - unmap->lcn.v < unmap->count)
          entry = {};
      }
    }
  }

  std::vector<io::File*> files_;
  const bool apply_;
  const size_t base_;
  RepairReport out_;
  std::vector<std::optional<Label>> labels_;
  std::vector<size_t> candidates_;  // for the head, by their labels
  size_t primary_ = SIZE_MAX;
  Superblock super_;
  io::Buffer ring_;
  std::vector<SegmentRow> rows_later_;  // what the journal says of rows
  std::map<size_t, SegmentRow> row_of_;
  std::vector<BadPlace> bad_;
  std::map<std::tuple<size_t, bool, uint32_t>, std::pair<CkptSeq, uint64_t>> shares_;
  uint64_t digest_ = 0;
};

}  // namespace

bool flip_back(std::span<std::byte> block, std::string_view magic, size_t crc_at) {
  for (size_t at = 0; at < block.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      block[at] ^= std::byte{1} << bit;
      if (is_sealed(block, magic, crc_at)) return true;
      block[at] ^= std::byte{1} << bit;
    }
  }
  return false;
}

io::Task<Result<RepairReport>> repair_segments(std::vector<io::File*> files, bool apply, size_t base) {
  Repair repair(std::move(files), apply, base);
  auto outcome = co_await repair.run();
  co_return outcome;
}

}  // namespace foreshadow::extent
