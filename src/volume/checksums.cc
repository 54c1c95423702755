#include "volume/checksums.h"

#include <algorithm>

#include "extent/checksum_page.h"
#include "extent/checksum_table.h"
#include "volume/committer.h"

namespace foreshadow::volume {

using extent::ChecksumTable;
using extent::kSubBlocks;

bool Checksums::may_write(Segment& segment, uint64_t at, uint64_t length) {
  if (!segment.checksums.exists()) return true;
  const auto page_at = [&](uint64_t offset) {
    return ChecksumTable::page_of(static_cast<uint32_t>(index_of(segment, offset) / kSubBlocks));
  };
  bool now = true;
  for (uint32_t page = page_at(at); page <= page_at(at + length - 1); ++page) {
    if (!segment.checksums.must_note(page)) continue;
    now = false;
    note(segment, page);
  }
  return now;
}

void Checksums::note(Segment& segment, uint32_t page) {
  if (segment.checksums.note(page) == ChecksumTable::Note::kPending) return;
  segment.checksums.set_note(page, ChecksumTable::Note::kPending);
  committer_.note_activity(Pcn(segment.row.pcn_base.v + page * extent::kChecksumClusters));
}

void Checksums::noted(std::span<const Pcn> regions) {
  for (const Pcn region : regions) {
    Segment& segment = segments_.of(region);
    const uint32_t page = ChecksumTable::page_of(region.v - segment.row.pcn_base.v);
    segment.checksums.set_note(page, ChecksumTable::Note::kDurable);
  }
}

void Checksums::writing(Segment& segment, uint64_t at, uint64_t length) {
  if (!segment.checksums.exists()) return;
  const uint64_t first = index_of(segment, at);
  const uint64_t count = length >> geometry_.sub_block_bits;
  for (uint64_t i = 0; i < count; ++i) segment.checksums.set(first + i, extent::kUnknownChecksum);
}

void Checksums::written(Segment& segment, uint64_t at, std::span<const std::byte> bytes) {
  if (!segment.checksums.exists()) return;
  const uint64_t sub_block = geometry_.sub_block();
  uint64_t index = index_of(segment, at);
  for (size_t from = 0; from < bytes.size(); from += sub_block, ++index)
    segment.checksums.set(index, extent::data_checksum(bytes.subspan(from, sub_block)));
}

std::optional<uint64_t> Checksums::verify(const Segment& segment, uint64_t at,
                                          std::span<const std::byte> bytes, uint64_t* unknown) const {
  const uint64_t sub_block = geometry_.sub_block();
  if (!segment.checksums.exists()) {
    if (unknown != nullptr) *unknown += div_up(bytes.size(), sub_block);
    return std::nullopt;
  }
  uint64_t index = index_of(segment, at);
  for (size_t from = 0; from < bytes.size(); from += sub_block, ++index) {
    const uint32_t expected = segment.checksums.get(index);
    if (expected == extent::kUnknownChecksum) {
      if (unknown != nullptr) ++*unknown;
    } else if (extent::data_checksum(bytes.subspan(from, sub_block)) != expected) {
      return from;
    }
  }
  return std::nullopt;
}

void Checksums::carry(Pcn from, Pcn to, uint16_t bits) {
  if (!on_) return;
  const Segment& source = segments_.of(from);
  Segment& target = segments_.of(to);
  const uint64_t first = uint64_t{from.v - source.row.pcn_base.v} * kSubBlocks;
  const uint64_t there = uint64_t{to.v - target.row.pcn_base.v} * kSubBlocks;
  for (uint32_t i = 0; i < kSubBlocks; ++i) {
    if ((bits >> i & 1) != 0) target.checksums.set(there + i, source.checksums.get(first + i));
  }
}

void Checksums::forget(Pcn pcn) {
  if (!on_) return;
  Segment& segment = segments_.of(pcn);
  segment.checksums.forget_cluster(pcn.v - segment.row.pcn_base.v);
}

}  // namespace foreshadow::volume
