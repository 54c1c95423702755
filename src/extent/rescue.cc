#include "extent/rescue.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/codec.h"
#include "extent/checksum_page.h"
#include "extent/head.h"
#include "extent/journal.h"
#include "extent/recovery.h"
#include "extent/table_page.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

class Rebuild {
 public:
  Rebuild(std::vector<io::File*> files, size_t base) : files_(std::move(files)), base_(base) {}

  io::Task<Result<Rebuilt>> run() {
    auto labels = co_await read_labels();
    if (!labels) co_return tl::unexpected(labels.error());
    auto head = co_await read_areas();
    if (!head) co_return tl::unexpected(head.error());
    if (*head) {
      auto tried = co_await try_it();
      if (tried) co_return std::move(out_);
      // What two copies say is no guess, and none is made in its place.
      if (out_.stands) co_return tl::unexpected(tried.error());
      out_ = {};
    }
    auto guessed = co_await guess();
    if (!guessed) co_return tl::unexpected(guessed.error());
    auto tried = co_await try_it();
    if (!tried)
      co_return fail(tried.error().code, "what could be rebuilt does not fit: " + tried.error().message);
    co_return std::move(out_);
  }

 private:
  io::Task<Status> try_it() {
    const SupposedHead supposed{out_.primary, out_.super};
    auto state = co_await recover(files_, base_, &supposed);
    if (!state) co_return tl::unexpected(state.error());
    out_.state = std::move(*state);
    co_return Status{};
  }

  io::Task<Status> guess() {
    auto head = co_await find_head();
    if (!head) co_return tl::unexpected(head.error());
    set_head(*head);
    out_.from = fmt::format("rebuilt from the tables of all segments and the journal of segment {}",
                            out_.head.str());
    if (primary().layout.checksum_pages > 0) out_.super.features |= kFeatureChecksums;
    if (primary().base) out_.super.features |= kFeatureBase;
    auto ring = co_await read_ring();
    if (!ring) co_return tl::unexpected(ring.error());
    auto chained = find_chain();
    if (!chained) co_return chained;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (!labels_[i]) continue;
      auto pages = co_await read_pages(i, labels_[i]->segment, labels_[i]->layout, bases_[i]);
      if (!pages) co_return pages;
    }
    if (const auto& base = primary().base) {
      image_base_ = Pcn(kGranuleClusters +
                        static_cast<uint32_t>(align_up(primary().layout.clusters, kGranuleClusters)));
      auto pages = co_await read_pages(out_.primary, base->uuid, base->layout(), image_base_);
      if (!pages) co_return pages;
    }
    if (chain_.empty() && out_.super.checkpoint.v > 0 && candidates_.size() == 1) {
      co_return fail(Code::kCorrupt,
                     "the journal is empty, but checkpoints have been made: the newest writes are lost, and "
                     "with them what says which of the tables' places still count");
    }
    auto rows = make_rows();
    if (!rows) co_return rows;
    finish();
    co_return Status{};
  }

  void set_head(size_t file) {
    out_.primary = file;
    out_.head = labels_[file]->segment;
    out_.super.volume = labels_[file]->volume;
    for (const size_t i : candidates_) {
      if (i != file) out_.to_mark.push_back(i);
    }
  }

  io::Task<Status> read_labels() {
    const Label* first = nullptr;
    for (size_t i = 0; i < files_.size(); ++i) {
      labels_.emplace_back();
      bases_.emplace_back();
      if (i == base_) continue;  // somebody else's bytes
      std::string blemish;
      auto label = co_await read_label(*files_[i], &blemish);
      if (!label) continue;
      labels_[i] = std::move(*label);
      if (labels_[i]->role == SegmentRole::kPrimary) candidates_.push_back(i);
    }
    for (const auto& label : labels_) {
      if (!label) continue;
      if (first == nullptr) first = &*label;
      if (label->volume == first->volume) continue;
      co_return fail(Code::kCorrupt, fmt::format("segment {} belongs to volume {}, expected {}",
                                                 label->segment.str(), label->volume.str(),
                                                 first->volume.str()));
    }
    if (candidates_.empty()) co_return fail(Code::kNotFound, "none of the segments is a primary");
    co_return none_twice(labels_);
  }

  // The newest superblock that is left anywhere, if it says what the volume is, and not only who says it.
  // False: none does.
  io::Task<Result<bool>> read_areas() {
    size_t good = 0;
    std::optional<Superblock> newest;
    for (const size_t i : candidates_) {
      const auto area = co_await read_head_area(*files_[i], labels_[i]->volume, labels_[i]->segment);
      if (!area) co_return tl::unexpected(area.error());
      const io::Buffer copy(kSuperBytes);
      for (uint32_t at = 0; at < kSuperCopies; ++at) {
        const uint64_t offset = Layout::super_offset(at);
        const int read = co_await io::read(*files_[i], offset, copy.span());
        if (read < 0) co_return fail_errno(read, "cannot read the superblock");
        const auto super = decode_superblock(copy.span(), offset, labels_[i]->volume);
        if (!super) continue;
        seen_ = std::max(seen_, super->sequence);
        // Of a claim and a mark that are equally old the claim counts: the mark speaks of it.
        const bool newer = !newest || super->sequence > newest->sequence ||
                           (super->sequence == newest->sequence && super->moved_to.is_nil() &&
                            !newest->moved_to.is_nil());
        if (newer) {
          newest = *super;
          named_ = super->moved_to.is_nil() ? labels_[i]->segment : super->moved_to;
          good = 0;
          out_.stands = area->is_claim() && area->super == *super;
        }
        good += *super == *newest ? 1 : 0;
      }
    }
    if (!newest) co_return false;
    const auto head = std::find_if(candidates_.begin(), candidates_.end(),
                                   [&](size_t i) { return labels_[i]->segment == named_; });
    if (head == candidates_.end())
      co_return fail(Code::kNotFound, fmt::format("the primary {} is missing", named_.str()));
    if (!newest->moved_to.is_nil()) {
      out_.stands = false;
      co_return false;
    }
    set_head(*head);
    out_.super = std::move(*newest);
    out_.from = fmt::format("{} of {} copies in segment {} are good: they are believed", good, kSuperCopies,
                            out_.head.str());
    co_return true;
  }

  // A superblock that is left somewhere tells; without any, the newest journal does.
  io::Task<Result<size_t>> find_head() {
    if (candidates_.size() == 1) co_return candidates_.front();
    for (const size_t i : candidates_) {
      if (labels_[i]->segment == named_) co_return i;
    }
    size_t head = SIZE_MAX;
    Epoch newest;
    for (const size_t i : candidates_) {
      out_.primary = i;
      auto ring = co_await read_ring();
      if (!ring) co_return tl::unexpected(ring.error());
      for (uint64_t index = 0; index < ring_.size() / kMetaBlock; ++index) {
        const auto block = decode_block(slot(index), labels_[i]->volume);
        if (!block || block->header.epoch <= newest) continue;
        newest = block->header.epoch;
        head = i;
      }
    }
    if (head == SIZE_MAX) co_return fail(Code::kCorrupt, "nothing tells which segment is the primary");
    out_.assumptions.push_back(fmt::format("segment {} is taken as the primary: its journal is the newest",
                                           labels_[head]->segment.str()));
    co_return head;
  }

  const Label& primary() const { return *labels_[out_.primary]; }

  io::Task<Status> read_ring() {
    const Layout& layout = primary().layout;
    ring_ = io::Buffer(size_t{layout.journal_blocks} * kMetaBlock);
    for (uint64_t done = 0; done < ring_.size(); done += kMiB) {
      const auto into = ring_.span().subspan(done, std::min<uint64_t>(kMiB, ring_.size() - done));
      const int read = co_await io::read(*files_[out_.primary], layout.journal_offset + done, into);
      if (read < 0) co_return fail_errno(read, "cannot read the journal");
    }
    co_return Status{};
  }

  std::span<const std::byte> slot(uint64_t seq) const {
    const uint64_t blocks = ring_.size() / kMetaBlock;
    return ring_.span().subspan(seq % blocks * kMetaBlock, kMetaBlock);
  }

  // The newest block, and all that chain to it.
  Status find_chain() {
    const uint64_t blocks = ring_.size() / kMetaBlock;
    std::optional<DecodedBlock> newest;
    for (uint64_t index = 0; index < blocks; ++index) {
      const auto block = decode_block(ring_.span().subspan(index * kMetaBlock, kMetaBlock), primary().volume);
      if (!block || block->header.seq.v % blocks != index) continue;
      const auto at = std::pair{block->header.epoch, block->header.seq};
      if (!newest || at > std::pair{newest->header.epoch, newest->header.seq}) newest = block;
    }
    Superblock& super = out_.super;
    super.epoch = Epoch(1);
    if (!newest) {
      for (uint64_t index = 0; index < blocks; ++index) {
        if (peek_header(slot(index), primary().volume))
          return fail(Code::kCorrupt, "the journal has blocks, and none of them is good");
      }
      out_.assumptions.emplace_back("the journal is empty: the tables are taken as they are");
      return {};
    }
    super.epoch = newest->header.epoch;
    super.epoch_start = newest->header.seq.next();
    chain_.push_back(*newest);
    while (chain_.back().header.seq.v > 1 && chain_.size() < blocks) {
      const DecodedBlock& later = chain_.back();
      const auto block = decode_block(slot(later.header.seq.v - 1), primary().volume);
      if (!block || block->header.seq.next() != later.header.seq || block->crc != later.header.prev_crc)
        break;
      chain_.push_back(*block);
    }
    std::reverse(chain_.begin(), chain_.end());
    const BlockHeader& first = chain_.front().header;
    super.replay_from = first.seq;
    super.replay_prev_crc = first.prev_crc;
    if (first.seq.v == 1) return {};
    // Behind the chain lies what was written over it, or nothing is proven.
    const auto before = peek_header(slot(first.seq.v - 1), primary().volume);
    if (before && before->seq > newest->header.seq) return {};
    if (chain_.size() + 1 >= blocks) return {};
    return fail(
        Code::kCorrupt,
        fmt::format("history is known from journal block {} on, and block {}, which it follows, is damaged",
                    first.seq.v, first.seq.v - 1));
  }

  // The digest over every page in use of the segment whose tables lie in `file`, the range of physical
  // clusters, and the newest checkpoint.
  io::Task<Status> read_pages(size_t file, Uuid segment, Layout layout, std::optional<Pcn>& range) {
    const Uuid& volume = primary().volume;
    const io::Buffer block(kMetaBlock);
    const auto damaged = [&](const char* what, uint32_t page) {
      return fail(Code::kCorrupt, fmt::format("{} page {} of segment {} is damaged, and without a superblock "
                                              "nothing says whether it counts",
                                              what, page, segment.str()));
    };
    for (uint32_t page = 0; page < layout.table_pages; ++page) {
      CkptSeq newest;
      uint64_t share = 0;
      for (uint32_t place = 0; place < kTableSlots; ++place) {
        const int read = co_await io::read(*files_[file], layout.page_offset(page, place), block.span());
        if (read < 0) co_return fail_errno(read, "cannot read a table page");
        const Pcn base = base_of_page(range, block.span());
        auto content = decode_page(block.span(), volume, segment, page, base);
        if (!content) co_return damaged("table", page);
        if (!*content) continue;
        range = base;
        note_entries((*content)->page);
        if ((*content)->page.checkpoint <= newest) continue;
        newest = (*content)->page.checkpoint;
        share = page_digest(base, page, newest, (*content)->crc);
      }
      out_.super.table_digest += share;
      out_.super.checkpoint = std::max(out_.super.checkpoint, newest);
    }
    for (uint32_t page = 0; page < layout.checksum_pages; ++page) {
      CkptSeq newest;
      uint64_t share = 0;
      for (uint32_t place = 0; place < kTableSlots; ++place) {
        const uint64_t offset = layout.checksum_page_offset(page, place);
        const int read = co_await io::read(*files_[file], offset, block.span());
        if (read < 0) co_return fail_errno(read, "cannot read a checksum page");
        const Pcn base = base_of_page(range, block.span());
        auto content = decode_checksum_page(block.span(), volume, segment, page, base);
        if (!content) co_return damaged("checksum", page);
        if (!*content || (*content)->page.checkpoint <= newest) continue;
        range = base;
        newest = (*content)->page.checkpoint;
        share = checksum_page_digest(base, page, newest, (*content)->crc);
      }
      out_.super.table_digest += share;
      out_.super.checkpoint = std::max(out_.super.checkpoint, newest);
    }
    co_return Status{};
  }

  // The first page tells the segment's range, every further one must agree.
  static Pcn base_of_page(const std::optional<Pcn>& range, std::span<const std::byte> block) {
    constexpr size_t kBaseAt = 52;
    return range ? *range : Pcn(DiskReader(block.subspan(kBaseAt)).u32());
  }

  void note_entries(const TablePage& page) {
    for (const TableEntry& entry : page.entries) {
      if (entry.mask == 0) continue;
      if (!entry.is_container()) {
        clusters_ = std::max(clusters_, uint64_t{entry.lcn.v} + 1);
        continue;
      }
      out_.super.features |= kFeatureSqueezed;
      for (const Lcn lcn : {entry.lcn, entry.more[0], entry.more[1]}) {
        if (lcn.v != UINT32_MAX) clusters_ = std::max(clusters_, uint64_t{lcn.v} + 1);  // else nobody
      }
    }
  }

  bool is_there(const Uuid& segment) const {
    return std::any_of(labels_.begin(), labels_.end(),
                       [&](const auto& label) { return label && label->segment == segment; });
  }

  // Rows as the chain knows them; of the others, as their pages and labels tell.
  Status make_rows() {
    std::vector<SegmentRow>& rows = out_.super.segments;
    std::vector<Uuid> released;
    for (const DecodedBlock& block : chain_) {
      for (uint32_t i = 0; i < block.header.count; ++i) {
        ASSIGN_OR_RETURN(const Record record,
                         decode_record(block.records.subspan(size_t{i} * kRecordBytes, kRecordBytes)));
        if (const auto* map = std::get_if<MapRecord>(&record)) {
          clusters_ = std::max(clusters_, uint64_t{map->lcn.v} + 1);
          if (!map->pack_a.is_raw() || !map->pack_b.is_raw()) out_.super.features |= kFeatureSqueezed;
        }
        if (const auto* grown = std::get_if<GrowRecord>(&record)) grown_ = std::max(grown_, grown->size);
        const auto* row = std::get_if<SegmentRow>(&record);
        if (row == nullptr) continue;
        const auto known =
            std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.id == row->id; });
        known == rows.end() ? rows.push_back(*row) : void(*known = *row);
        if (row->state != SegmentState::kReleased) continue;
        released.push_back(row->uuid);
        if (is_there(row->uuid)) continue;
        // Its file was removed behind a checkpoint that no longer knew it: replay began behind this block.
        out_.super.replay_from = block.header.seq.next();
        out_.super.replay_prev_crc = block.crc;
      }
    }
    std::erase_if(rows, [](const SegmentRow& row) { return row.state == SegmentState::kReleased; });
    uint32_t next_id = 1;
    if (const auto& base = primary().base) {  // as it was when the volume was made
      const bool known =
          std::any_of(rows.begin(), rows.end(), [&](const auto& r) { return r.uuid == base->uuid; });
      if (!known)
        rows.push_back({SegmentId(1), base->uuid, SegmentRole::kBase, SegmentState::kMerged, *image_base_,
                        base->clusters});
    }
    for (const SegmentRow& row : rows) next_id = std::max(next_id, row.id.v + 1);
    // In the order in which their ranges were taken.
    std::vector<size_t> order;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (labels_[i]) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&](size_t x, size_t y) {
      return bases_[x].value_or(Pcn(UINT32_MAX)) < bases_[y].value_or(Pcn(UINT32_MAX));
    });
    for (const size_t i : order) {
      const Label& label = *labels_[i];
      const bool known =
          std::any_of(rows.begin(), rows.end(), [&](const auto& r) { return r.uuid == label.segment; });
      const bool gone = std::find(released.begin(), released.end(), label.segment) != released.end();
      if (known || gone) continue;
      SegmentRow row;
      row.uuid = label.segment;
      row.role = i == out_.primary ? SegmentRole::kPrimary : SegmentRole::kShadow;
      row.state = SegmentState::kMerged;
      row.clusters = clusters_in(label.layout, label.geometry, files_[i]->size());
      if (i == out_.primary) {
        row.pcn_base = bases_[i].value_or(Pcn(kGranuleClusters));
      } else if (bases_[i]) {
        row.id = SegmentId(next_id++);
        row.pcn_base = *bases_[i];
        out_.assumptions.push_back(
            fmt::format("segment {} ({}) is taken as merged", row.id.v, row.uuid.str()));
      } else {
        out_.assumptions.push_back(
            fmt::format("segment {} was never part of a checkpoint and no record names it: "
                        "it is taken as an orphan",
                        label.segment.str()));
        continue;
      }
      rows.push_back(row);
    }
    std::sort(rows.begin(), rows.end(), [](const auto& x, const auto& y) { return x.id < y.id; });
    if (rows.empty() || rows.front().uuid != primary().segment)
      return fail(Code::kCorrupt, "segment 0 is not the primary");
    out_.super.next_segment = SegmentId(next_id);
    return {};
  }

  void finish() {
    Superblock& super = out_.super;
    const uint64_t cluster = primary().geometry.cluster();
    super.size = std::max(primary().volume_size, grown_);
    const char* told = grown_ > primary().volume_size ? "the journal tells of that growth"
                                                      : "as it was made; a record of growth may be gone";
    if (clusters_ > div_up(super.size, cluster)) {  // it has grown, and the record is gone
      super.size = clusters_ * cluster;
      told = "the end of what is stored";
    }
    out_.assumptions.push_back(fmt::format("the size is taken as {} bytes: {}", super.size, told));
    // Past anything that may have been written before.
    super.sequence = std::max(super.epoch.v + super.checkpoint.v * 2 + 1024, seen_ + 1);
    out_.assumptions.emplace_back("redirect is taken as allocating");
  }

  std::vector<io::File*> files_;
  const size_t base_;
  Rebuilt out_;
  std::vector<size_t> candidates_;  // for the head, by their labels
  Uuid named_;                      // the head by the newest superblock copy of any segment
  std::vector<std::optional<Label>> labels_;
  std::vector<std::optional<Pcn>> bases_;
  io::Buffer ring_;
  std::vector<DecodedBlock> chain_;
  uint64_t clusters_ = 0;  // past the last one that anything names
  uint64_t grown_ = 0;     // the size of the newest growth that the chain tells of
  uint64_t seen_ = 0;      // the highest sequence of any superblock copy
  std::optional<Pcn> image_base_;
};

}  // namespace

io::Task<Result<Rebuilt>> rebuild_superblock(std::vector<io::File*> files, size_t base) {
  Rebuild rebuild(std::move(files), base);
  auto outcome = co_await rebuild.run();
  co_return outcome;
}

}  // namespace foreshadow::extent
