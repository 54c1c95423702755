#include "extent/label.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/codec.h"
#include "base/limits.h"
#include "base/names.h"
#include "extent/sealed_block.h"

namespace foreshadow::extent {
namespace {
constexpr std::string_view kMagic = "FSHLABEL";
constexpr size_t kCrcAt = 8;
constexpr size_t kNameBytes = 64;
constexpr size_t kBaseAt = 192;
constexpr size_t kVolumeSizeAt = 1264;
static_assert(kVolumeSizeAt == kBaseAt + 48 + kBasePathBytes);

Result<BaseArea> decode_base(std::span<const std::byte> block, const Label& label, const std::string& where) {
  DiskReader in(block.subspan(kBaseAt));
  BaseArea out;
  const auto uuid = in.bytes(16);
  std::copy(uuid.begin(), uuid.end(), out.uuid.bytes.begin());
  out.clusters = in.u32();
  in.skip(4);
  out.table_offset = in.u64();
  out.table_pages = in.u32();
  const uint32_t path_length = in.u32();
  out.bytes = in.u64();
  const auto expected = make_base_area(label.layout, label.geometry, out.bytes);
  if (path_length > kBasePathBytes || label.role != SegmentRole::kPrimary || !expected ||
      out.clusters != expected->clusters || out.table_pages != expected->table_pages ||
      out.table_offset != expected->table_offset) {
    return fail(Code::kCorrupt, fmt::format("{}: a base of {} bytes in {} clusters does not fit", where,
                                            out.bytes, out.clusters));
  }
  out.path = in.text(path_length);
  return out;
}

}  // namespace

Layout BaseArea::layout() const {
  Layout out;
  out.table_offset = table_offset;
  out.table_pages = table_pages;
  out.clusters = clusters;
  return out;
}

Result<BaseArea> make_base_area(const Layout& layout, Geometry geometry, uint64_t bytes) {
  const uint64_t clusters = div_up(bytes, geometry.cluster());
  if (bytes < geometry.cluster() || bytes % kSizeUnit != 0 || clusters > kPcnEnd - kGranuleClusters) {
    return fail(Code::kInvalidArgument,
                fmt::format("an image of {} bytes cannot be the base of a volume", bytes));
  }
  BaseArea out;
  out.clusters = static_cast<uint32_t>(clusters);
  out.table_pages = static_cast<uint32_t>(base_table_pages(bytes, geometry));
  out.table_offset = layout.page_offset(layout.table_pages, 0);
  out.bytes = bytes;
  return out;
}

void encode_label(const Label& label, uint64_t offset, std::span<std::byte> block) {
  ASSERT(block.size() == kMetaBlock && label.name.size() <= limits::kNameLength);
  DiskWriter out(block);
  out.text(kMagic);
  out.u32(0);
  out.u32(kFormatVersion);
  const uint64_t checksums = label.layout.checksum_pages > 0 ? kLabelChecksums : 0;
  out.u64(checksums | (label.base ? kLabelFeatureBase : 0));
  out.u64(offset);
  out.bytes(label.volume.bytes);
  out.bytes(label.segment.bytes);
  out.u64(label.size);
  out.u64(label.layout.journal_offset);
  out.u32(label.layout.journal_blocks);
  out.u32(label.layout.table_pages);
  out.u64(label.layout.table_offset);
  out.u64(label.layout.data_offset);
  out.u32(label.layout.clusters);
  out.u8(label.geometry.sub_block_bits);
  out.u8(static_cast<uint8_t>(label.role));
  out.u16(static_cast<uint16_t>(label.name.size()));
  out.text(label.name);
  out.zeros(kNameBytes - label.name.size());
  out.u64(label.layout.checksum_offset);
  out.u32(label.layout.checksum_pages);
  if (label.base) {
    ASSERT(label.base->path.size() <= kBasePathBytes);
    out.zeros(kBaseAt - out.used());
    out.bytes(label.base->uuid.bytes);
    out.u32(label.base->clusters);
    out.u32(0);
    out.u64(label.base->table_offset);
    out.u32(label.base->table_pages);
    out.u32(static_cast<uint32_t>(label.base->path.size()));
    out.u64(label.base->bytes);
    out.text(label.base->path);
  }
  out.zeros(kVolumeSizeAt - out.used());
  out.u64(label.volume_size);
  out.zeros(block.size() - out.used());
  seal_block(block, kCrcAt);
}

Result<Label> decode_label(std::span<const std::byte> block, uint64_t offset) {
  const std::string where = fmt::format("label at offset {}", offset);
  if (all_zero(block.first(kSizeUnit))) return fail(Code::kNotFound, where + " is empty");
  TRY(check_block(block, kMagic, kCrcAt, where));
  DiskReader in(block);
  in.skip(kMagic.size() + 4);
  const uint32_t version = in.u32();
  if (version != kFormatVersion) {
    return fail(Code::kUnsupported,
                fmt::format("{}: format version {}, this program knows {}", where, version, kFormatVersion));
  }
  const uint64_t features = in.u64();
  if ((features & ~(kLabelChecksums | kLabelFeatureBase)) != 0) {
    return fail(Code::kUnsupported, fmt::format("{}: unknown feature bits {:#x}", where, features));
  }
  if (const uint64_t own = in.u64(); own != offset) {
    return fail(Code::kCorrupt, fmt::format("{}: it says it lies at {}", where, own));
  }
  Label out;
  const auto take_uuid = [&](Uuid& id) {
    const auto raw = in.bytes(16);
    std::copy(raw.begin(), raw.end(), id.bytes.begin());
  };
  take_uuid(out.volume);
  take_uuid(out.segment);
  out.size = in.u64();
  out.layout.journal_offset = in.u64();
  out.layout.journal_blocks = in.u32();
  out.layout.table_pages = in.u32();
  out.layout.table_offset = in.u64();
  out.layout.data_offset = in.u64();
  out.layout.clusters = in.u32();
  out.geometry.sub_block_bits = in.u8();
  out.role = static_cast<SegmentRole>(in.u8());
  const uint16_t name_length = in.u16();
  if (name_length > kNameBytes)
    return fail(Code::kCorrupt, fmt::format("{}: name length {}", where, name_length));
  out.name = in.text(name_length);
  in.skip(kNameBytes - name_length);
  out.layout.checksum_offset = in.u64();
  out.layout.checksum_pages = in.u32();
  out.volume_size = DiskReader(block.subspan(kVolumeSizeAt)).u64();
  const bool primary = out.role == SegmentRole::kPrimary;
  if (!primary && out.role != SegmentRole::kShadow) {
    return fail(Code::kCorrupt, fmt::format("{}: role {}", where, static_cast<int>(out.role)));
  }
  if (out.geometry.sub_block_bits < 9 || out.geometry.sub_block_bits > 12) {
    return fail(Code::kCorrupt, fmt::format("{}: sub-block bits {}", where, out.geometry.sub_block_bits));
  }
  if (primary &&
      (out.layout.journal_blocks < kJournalBlocksMin || out.layout.journal_blocks > kJournalBlocksMax)) {
    return fail(Code::kCorrupt, fmt::format("{}: a journal of {} blocks", where, out.layout.journal_blocks));
  }
  // The layout follows from size and journal; anything else was not written by us.
  if ((features & kLabelFeatureBase) != 0) {
    ASSIGN_OR_RETURN(out.base, decode_base(block, out, where));
  }
  const uint64_t base_pages = out.base ? out.base->table_pages : 0;
  const auto expected = make_layout(out.size, out.geometry, out.layout.journal_blocks, out.layout.clusters,
                                    (features & kLabelChecksums) != 0, base_pages);
  if (!expected || *expected != out.layout || primary != (out.layout.journal_blocks > 0)) {
    return fail(Code::kCorrupt, where + ": the areas it describes do not fit its size");
  }
  if (primary ? !Name::parse(out.name) : !out.name.empty()) {
    return fail(Code::kCorrupt, fmt::format("{}: volume name {}", where, quoted(out.name)));
  }
  return out;
}

Status none_twice(std::span<const std::optional<Label>> labels) {
  for (size_t i = 0; i < labels.size(); ++i) {
    for (size_t j = 0; j < i && labels[i]; ++j) {
      if (!labels[j] || labels[j]->segment != labels[i]->segment) continue;
      return fail(Code::kCorrupt,
                  fmt::format("segment {} is there twice: one of its backings is a copy; move the older one "
                              "out of the pools",
                              labels[i]->segment.str()));
    }
  }
  return {};
}

}  // namespace foreshadow::extent
