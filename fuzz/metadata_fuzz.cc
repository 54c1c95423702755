// Label, superblock and table page as any bytes: the same back from what was decoded, or a clean error.
// Checksums are made good first. Half of the inputs change a valid block here and there instead of making
// one.
#include <algorithm>
#include <cstring>
#include <span>

#include "extent/label.h"
#include "extent/sealed_block.h"
#include "extent/superblock.h"
#include "extent/table_page.h"
#include "fuzz/target.h"
#include "io/buffer.h"

using namespace foreshadow;
using namespace foreshadow::extent;
using fuzz::expect;

namespace {

constexpr size_t kLabelCrcAt = 8;
constexpr size_t kSuperCrcAt = 8;

void overwrite(fuzz::Input& in, std::span<std::byte> block) {
  const auto raw = in.bytes(block.size());
  std::copy(raw.begin(), raw.end(), block.begin());
}
// (where, what) again and again; most of what matters lies in front.
void change(fuzz::Input& in, std::span<std::byte> block) {
  while (!in.empty()) {
    const uint16_t at = in.u16();
    const auto what = in.bytes(1 + in.u8() % 8u);
    for (size_t i = 0; i < what.size(); ++i) block[(at + i) % block.size()] = what[i];
  }
}

Label valid_label(bool primary) {
  Label out;
  out.role = primary ? SegmentRole::kPrimary : SegmentRole::kShadow;
  out.geometry.sub_block_bits = 9;
  out.size = 256 * kKiB;
  out.layout = *make_layout(out.size, out.geometry, primary ? 8 : 0);
  if (primary) out.name = "fuzzed";
  return out;
}

Superblock valid_super() {
  Superblock out;
  out.sequence = 3;
  out.size = kMiB;
  out.next_segment = SegmentId(2);
  for (uint32_t i = 0; i < 2; ++i) {
    SegmentRow& row = out.segments.emplace_back();
    row.id = SegmentId(i);
    row.role = i == 0 ? SegmentRole::kPrimary : SegmentRole::kShadow;
    row.pcn_base = Pcn((i + 1) * kGranuleClusters);
    row.clusters = 20;
  }
  return out;
}

void fuzz_label(fuzz::Input& in, bool change_valid, bool primary) {
  static const io::Buffer memory(2 * kMetaBlock);
  const auto block = memory.first(kMetaBlock);
  const auto again = memory.span().subspan(kMetaBlock);
  std::memset(block.data(), 0, block.size());
  if (change_valid) encode_label(valid_label(primary), 0, block);
  change_valid ? change(in, block) : overwrite(in, block);
  seal_block(block, kLabelCrcAt);
  const auto label = decode_label(block, 0);
  if (!label) return expect(!label.error().message.empty(), "a refusal says why");
  encode_label(*label, 0, again);
  const auto back = decode_label(again, 0);
  expect(back && *back == *label, "a label returns");
  expect(!decode_label(again, kMetaBlock), "a label elsewhere is none");
}

void fuzz_super(fuzz::Input& in, bool change_valid, bool all_copies) {
  static const io::Buffer memory((kSuperCopies + 1) * size_t{kSuperBytes});
  const auto copies = memory.first(kSuperCopies * size_t{kSuperBytes});
  const auto again = memory.span().subspan(copies.size());
  const auto copy = [&](uint32_t i) { return copies.subspan(size_t{i} * kSuperBytes, kSuperBytes); };
  if (all_copies) {
    for (uint32_t i = 0; i < kSuperCopies; ++i)
      encode_superblock(valid_super(), Layout::super_offset(i), copy(i));
    change(in, copies);
    for (uint32_t i = 0; i < kSuperCopies; ++i) seal_block(copy(i), kSuperCrcAt);
    uint64_t highest = 0;
    const auto chosen = choose_superblock(copies, Uuid{}, &highest);
    return expect(!chosen || chosen->sequence <= highest, "the chosen one is among those seen");
  }
  std::memset(copy(0).data(), 0, kSuperBytes);
  if (change_valid) encode_superblock(valid_super(), 0, copy(0));
  change_valid ? change(in, copy(0)) : overwrite(in, copy(0));
  seal_block(copy(0), kSuperCrcAt);
  const auto super = decode_superblock(copy(0), 0, Uuid{});
  if (!super) return expect(!super.error().message.empty(), "a refusal says why");
  encode_superblock(*super, 0, again);
  const auto back = decode_superblock(again, 0, Uuid{});
  expect(back && *back == *super, "a superblock returns");
}

void fuzz_page(fuzz::Input& in, bool change_valid) {
  static const io::Buffer memory(2 * kMetaBlock);
  const auto block = memory.first(kMetaBlock);
  const auto again = memory.span().subspan(kMetaBlock);
  std::memset(block.data(), 0, block.size());
  TablePage page;
  page.pcn_base = Pcn(kGranuleClusters);
  page.checkpoint = CkptSeq(1);
  page.entries[0] = {Lcn(1), 3};
  if (change_valid) encode_page(page, block);
  change_valid ? change(in, block) : overwrite(in, block);
  seal_block(block, kPageCrcAt);
  const auto place = decode_page(block, Uuid{}, Uuid{}, 0, Pcn(kGranuleClusters));
  if (!place) return expect(!place.error().message.empty(), "a refusal says why");
  if (!*place) return;
  encode_page((*place)->page, again);
  const auto back = decode_page(again, Uuid{}, Uuid{}, 0, Pcn(kGranuleClusters));
  expect(back && *back && (*back)->page.entries == (*place)->page.entries, "a table page returns");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  fuzz::Input in(data, size);
  const uint8_t how = in.u8();
  const bool change_valid = (how & 4) != 0;
  switch (how % 4) {
    case 0:
      fuzz_label(in, change_valid, (how & 8) != 0);
      break;
    case 1:
      fuzz_super(in, change_valid, false);
      break;
    case 2:
      fuzz_super(in, change_valid, true);
      break;
    default:
      fuzz_page(in, change_valid);
  }
  return 0;
}
