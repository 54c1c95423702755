#include "extent/checksum_table.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "extent/sealed_block.h"

namespace foreshadow::extent {
namespace {

bool any_known(const ChecksumValues& values) {
  return std::any_of(values.begin(), values.end(), [](uint32_t v) { return v != kUnknownChecksum; });
}

}  // namespace

void ChecksumTable::mark(uint32_t page) {
  if (std::exchange(pages_[page].dirty, true)) return;
  dirty_.push_back(page);
}

void ChecksumTable::set(uint64_t index, uint32_t value) {
  const auto number = static_cast<uint32_t>(index / kPageValues);
  if (number >= pages_.size()) return;
  Page& page = pages_[number];
  if (page.values == nullptr) {
    if (value == kUnknownChecksum) return;
    page.values = std::make_unique<ChecksumValues>();
  }
  uint32_t& at = (*page.values)[index % kPageValues];
  if (at == value) return;
  at = value;
  mark(number);
}

void ChecksumTable::forget_cluster(uint32_t cluster) {
  for (uint32_t i = 0; i < kSubBlocks; ++i) set(uint64_t{cluster} * kSubBlocks + i, kUnknownChecksum);
}

void ChecksumTable::forget_region(uint32_t page) {
  if (pages_[page].values != nullptr) pages_[page].values.reset();
  // Also when nothing was known here: the page on disk may say otherwise.
  touch(page);
}

void ChecksumTable::set_note(uint32_t page, Note note) {
  if (pages_[page].note == note) return;
  pages_[page].note = note;
  if (note == Note::kDurable) noted_.push_back(page);
}

std::vector<uint32_t> ChecksumTable::freeze() {
  for (const uint32_t page : noted_) {
    if (pages_[page].note == Note::kDurable) pages_[page].note = Note::kNone;
  }
  noted_.clear();
  return std::exchange(dirty_, {});
}

ChecksumTable::Capture ChecksumTable::capture(uint32_t number, ChecksumValues& values) {
  Page& page = pages_[number];
  page.dirty = false;
  const bool known = page.values != nullptr && any_known(*page.values);
  if (!known) page.values.reset();
  const bool write = known || page.place != kNoPlace || page.forced;
  page.forced = false;
  // Never cleared here: until the superblock is durable the page before counts, with what it claims.
  page.claimed = page.claimed || known;
  if (known) {
    values = *page.values;
  } else {
    values.fill(kUnknownChecksum);
  }
  return {write, known};
}

void ChecksumTable::written(uint32_t page, uint8_t place, uint64_t digest, bool known) {
  pages_[page].place = place;
  pages_[page].digest = digest;
  pages_[page].claimed = known;
}

void ChecksumTable::load(uint32_t number, uint8_t place, uint64_t digest, std::span<const std::byte> block) {
  Page& page = pages_[number];
  page.place = place;
  page.digest = digest;
  if (all_zero(block.subspan(kPageHeadBytes))) return;
  page.claimed = true;
  page.values = std::make_unique_for_overwrite<ChecksumValues>();
  decode_checksums(block, *page.values);
}

void ChecksumTable::touch(uint32_t page) {
  pages_[page].forced = true;
  mark(page);
}

uint64_t ChecksumTable::digest_sum() const {
  uint64_t sum = 0;
  for (const Page& page : pages_) sum += page.digest;
  return sum;
}

uint64_t ChecksumTable::memory_bytes() const {
  uint64_t held = 0;
  for (const Page& page : pages_) held += page.values != nullptr ? 1 : 0;
  return pages_.size() * sizeof(Page) + held * sizeof(ChecksumValues);
}

}  // namespace foreshadow::extent
