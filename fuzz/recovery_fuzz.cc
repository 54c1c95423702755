// A whole image, changed here and there with its checksums made good again, is recovered: a map that holds
// together, or a refusal that says why, in bounded time and memory. What is taken is also opened and read.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "extent/checksum_page.h"
#include "extent/container.h"
#include "extent/journal.h"
#include "extent/recovery.h"
#include "extent/sealed_block.h"
#include "extent/table_page.h"
#include "fuzz/target.h"
#include "io/buffer.h"
#include "sim/golden_image.h"
#include "sim/memory_file.h"
#include "volume/volume.h"

using namespace foreshadow;
using namespace foreshadow::extent;
using fuzz::expect;

namespace {

constexpr uint64_t kSteps = 200'000;
constexpr uint64_t kCallsMax = 200;  // a recovery of a few metadata blocks
// A volume may be larger than the fuzzer has patience for: its map's directory alone would take 128 MiB.
constexpr uint64_t kSizeMax = 16 * kGiB;

template <typename T>
T wait(sim::Scheduler& scheduler, io::Task<T> task) {
  std::optional<T> out;
  io::spawn(std::move(task), [&](T&& value) { out.emplace(std::move(value)); });
  scheduler.run_until([&] { return out.has_value(); }, kSteps);
  expect(out.has_value(), "it comes to an end");
  return std::move(*out);
}

// One golden image, and what it takes to change it and to have it back.
class Image {
 public:
  Image(sim::Golden what, bool closed) : golden_(sim::make_golden_image(what, closed)), bytes_(golden_) {
    for (const auto& backing : golden_.backings) {
      if (backing.is_base) {
        base_ = touched_.size();
      } else {
        ours_.push_back(touched_.size());
      }
      touched_.emplace_back(backing.metadata_bytes / kMetaBlock, false);
    }
    state_ = recovered("the image as it is can be recovered");
    // Or all that is mended would be refused for its digest, and nothing behind that be looked at.
    mend_digest();
    (void)recovered("the image with its digest mended can be recovered");
    restore(false);
  }

  std::vector<std::unique_ptr<sim::MemoryFile>> open(sim::Scheduler& scheduler) {
    std::vector<std::unique_ptr<sim::MemoryFile>> out;
    for (auto& backing : bytes_.backings) {
      out.push_back(std::make_unique<sim::MemoryFile>(scheduler, std::span(backing.bytes)));
    }
    return out;
  }
  static std::vector<io::File*> pointers(const std::vector<std::unique_ptr<sim::MemoryFile>>& files) {
    std::vector<io::File*> out;
    for (const auto& file : files) out.push_back(file.get());
    return out;
  }
  const Uuid& uuid(size_t backing) const { return golden_.backings[backing].uuid; }
  size_t base() const { return base_; }

  void change(fuzz::Input& in) {
    const uint8_t what = in.u8();
    switch (what % 8) {
      case 0:
        return change_block(in, (what & 8) != 0, (what & 16) == 0);
      case 1:
        return append_block(in, [&](std::span<std::byte> into) { encode_record(draw_record(in), into); });
      case 2:
        return change_super(in);
      case 3:
        return draw_entry(in);
      case 4:
        return append_block(in, [&](std::span<std::byte> into) {
          const auto raw = in.bytes(into.size());
          std::copy(raw.begin(), raw.end(), into.begin());
        });
      case 5:
        return change_entry(in);
      case 6:
        return zero_block(in);
      default:
        return change_label(in, (what & 8) != 0);
    }
  }

  // After all changes: the digest of the tables as they are now, in every copy of the superblock.
  void mend_digest() {
    uint64_t digest = 0;
    for (const RecoveredSegment& segment : state_->segments) {
      for (uint32_t page = 0; page < segment.layout.table_pages; ++page) digest += digest_of(segment, page);
      for (uint32_t page = 0; page < segment.layout.checksum_pages; ++page)
        digest += checksum_digest_of(segment, page);
    }
    constexpr size_t kDigestAt = 88;
    for_each_super([&](std::span<std::byte> copy) {
      for (size_t i = 0; i < 8; ++i) copy[kDigestAt + i] = static_cast<std::byte>(digest >> 8 * i);
    });
  }
  bool too_large() {
    constexpr size_t kSizeAt = 56;
    bool out = false;
    for (uint32_t i = 0; i < kSuperCopies; ++i) {
      uint64_t size = 0;
      for (size_t b = 8; b-- > 0;) size = size << 8 | static_cast<uint8_t>(super(i)[kSizeAt + b]);
      out = out || size > kSizeMax;
    }
    return out;
  }
  // Only what was changed; all of it where an engine wrote as well.
  void restore(bool all) {
    for (size_t i = 0; i < golden_.backings.size(); ++i) {
      const auto& from = golden_.backings[i];
      auto& to = bytes_.backings[i];
      if (all) {
        to.bytes = from.bytes;
        touched_[i].assign(touched_[i].size(), false);
        continue;
      }
      for (size_t b = 0; b < touched_[i].size(); ++b) {
        if (!touched_[i][b]) continue;
        touched_[i][b] = false;
        std::memcpy(&to.bytes[b * kMetaBlock], &from.bytes[b * kMetaBlock], kMetaBlock);
      }
    }
    appended_.reset();
  }

 private:
  std::unique_ptr<Recovered> recovered(const char* property) {
    sim::Scheduler scheduler(1);
    scheduler.set_orderly(true);
    auto files = open(scheduler);
    auto out = wait(scheduler, recover(pointers(files), base_));
    expect(out.has_value(), property);
    return std::move(*out);
  }
  std::span<std::byte> block(size_t backing, uint64_t offset) {
    touched_[backing][offset / kMetaBlock] = true;
    return std::span(bytes_.backings[backing].bytes).subspan(offset, kMetaBlock);
  }
  std::span<std::byte> super(uint32_t copy) {
    const uint64_t offset = Layout::super_offset(copy);
    touched_[0][offset / kMetaBlock] = touched_[0][offset / kMetaBlock + 1] = true;
    return std::span(bytes_.backings[0].bytes).subspan(offset, kSuperBytes);
  }
  static void put(fuzz::Input& in, std::span<std::byte> into) {
    const uint16_t where = in.u16();
    const size_t at = where % (where < 0x8000 ? 256 : into.size());  // the front is where the fields are
    const auto what = in.bytes(1 + in.u8() % 8u);
    for (size_t i = 0; i < what.size(); ++i) into[(at + i) % into.size()] = what[i];
  }
  template <typename Change>
  void for_each_super(Change change) {
    for (uint32_t i = 0; i < kSuperCopies; ++i) {
      change(super(i));
      seal_block(super(i), 8);
    }
  }
  // Any block of metadata. Whatever it is, its checksum is at 4 or at 8.
  void change_block(fuzz::Input& in, bool at_eight, bool seal) {
    const size_t backing = ours_[in.u8() % ours_.size()];
    const uint64_t blocks = golden_.backings[backing].metadata_bytes / kMetaBlock;
    const auto target = block(backing, in.u8() % blocks * kMetaBlock);
    put(in, target);
    if (seal) seal_block(target, at_eight ? 8 : 4);
  }
  // The same in all copies, as a writer would.
  void change_super(fuzz::Input& in) {
    fuzz::Input start = in;
    for_each_super([&](std::span<std::byte> copy) {
      in = start;
      put(in, copy);
    });
  }
  void change_label(fuzz::Input& in, bool rows_too) {
    const size_t backing = ours_[in.u8() % ours_.size()];
    fuzz::Input start = in;
    for (uint32_t copy = 0; copy < kLabelCopies; ++copy) {
      in = start;
      const auto target = block(backing, Layout::label_offset(copy));
      put(in, target);
      seal_block(target, 8);
    }
    if (rows_too) change_super(in);
  }
  // One more block of history, with one to four records that `draw` writes.
  template <typename Draw>
  void append_block(fuzz::Input& in, Draw draw) {
    const Layout& layout = state_->label.layout;
    std::array<std::byte, 4 * kRecordBytes> records{};
    BlockHeader header;
    header.epoch = state_->super.epoch;
    header.seq = appended_.value_or(state_->next_block);
    header.durable = BlockSeq(header.seq.v - 1);
    header.prev_crc = appended_ ? appended_crc_ : state_->prev_crc;
    header.count = static_cast<uint16_t>(1 + in.u8() % 4);
    for (uint16_t i = 0; i < header.count; ++i)
      draw(std::span(records).subspan(i * size_t{kRecordBytes}, kRecordBytes));
    const auto target = block(0, layout.block_offset(header.seq.v));
    appended_crc_ = encode_block(state_->label.volume, header,
                                 std::span(records).first(header.count * size_t{kRecordBytes}), target);
    appended_ = header.seq.next();
  }
  // What follows is well-formed and nearly right, in numbers that the image has or just has not: what a
  // decoder cannot refuse, but only who knows the whole volume.
  Lcn draw_lcn(fuzz::Input& in) { return Lcn(in.u8() % (state_->map.clusters() + 2)); }
  Pcn draw_place(fuzz::Input& in) {
    const RecoveredSegment& segment = state_->segments[in.u8() % state_->segments.size()];
    return segment.row.pcn_base.next(in.u8() % (segment.layout.clusters + 2));
  }
  static Pack draw_pack(fuzz::Input& in) {
    const uint32_t slot = in.u8() % kSlots;
    const uint32_t count = 1 + in.u8() % std::min(15u, kSlots - slot);
    return Pack::make(slot, count, (in.u8() & 1) != 0 ? SqueezeCodec::kZstd : SqueezeCodec::kLz4);
  }
  MapRecord draw_map(fuzz::Input& in, bool overlay, bool squeezed) {
    MapRecord out;
    out.lcn = draw_lcn(in);
    out.a = draw_place(in);
    out.mask_a = squeezed && !overlay ? kFullMask : std::max<uint16_t>(in.u16(), 1);
    if (squeezed && !overlay) out.pack_a = draw_pack(in);
    if (!overlay || out.mask_a == kFullMask) return out;
    out.b = draw_place(in);
    out.mask_b = static_cast<uint16_t>(~out.mask_a);
    if (squeezed) out.pack_b = draw_pack(in);
    return out;
  }
  Record draw_record(fuzz::Input& in) {
    const uint8_t what = in.u8();
    switch (what % 8) {
      case 4:
        return UnmapRecord{draw_lcn(in), in.u8() % (state_->map.clusters() + 2)};
      case 5: {
        ActivityRecord out{static_cast<uint8_t>(1 + in.u8() % kActivityRegions), {}};
        for (uint32_t i = 0; i < out.count; ++i) out.regions[i] = draw_place(in);
        return out;
      }
      case 6:
        return GrowRecord{state_->super.size + kSizeUnit * uint64_t{in.u8()}};
      case 7: {
        SegmentRow out = state_->segments[in.u8() % state_->segments.size()].row;
        out.state = static_cast<SegmentState>(1 + in.u8() % 7);
        out.clusters += in.u8();
        out.clusters -= in.u8() % (out.clusters + 1);
        return out;
      }
      default:
        return draw_map(in, (what & 1) != 0, (what & 2) != 0);
    }
  }
  // In the page that counts; the digest must be mended, or nobody comes to look.
  void draw_entry(fuzz::Input& in) {
    const RecoveredSegment& segment = state_->segments[in.u8() % state_->segments.size()];
    if (segment.places[0] == kNoPlace) return;
    const auto target = block(segment.table_file, segment.layout.page_offset(0, segment.places[0]));
    auto content = decode_page(target, state_->label.volume, segment.row.uuid, 0, segment.row.pcn_base);
    if (!content || !*content) return;
    TablePage& page = (*content)->page;
    TableEntry& entry = page.entries[in.u8() % (segment.layout.clusters + 1) % kTableEntries];
    const uint8_t what = in.u8();
    entry = {draw_lcn(in), in.u16()};
    if ((what & 1) != 0) {
      entry.kind = static_cast<uint16_t>(0x8000 | in.u8());
      for (Lcn& lcn : entry.more) lcn = (what & 2) != 0 ? draw_lcn(in) : kNoMember;
    }
    encode_page(page, target);
  }
  void change_entry(fuzz::Input& in) {
    const RecoveredSegment& segment = state_->segments[in.u8() % state_->segments.size()];
    const auto target = block(segment.table_file, segment.layout.page_offset(0, in.u8() % kTableSlots));
    const size_t at = 64 + in.u8() % kTableEntries * 16u;
    const auto what = in.bytes(1 + in.u8() % 16u);
    std::copy(what.begin(), what.end(), target.begin() + static_cast<ptrdiff_t>(at));
    seal_block(target, 4);
  }
  void zero_block(fuzz::Input& in) {
    const size_t backing = ours_[in.u8() % ours_.size()];
    const uint64_t blocks = golden_.backings[backing].metadata_bytes / kMetaBlock;
    const auto target = block(backing, in.u8() % blocks * kMetaBlock);
    std::fill(target.begin(), target.end(), std::byte{0});
  }
  uint64_t digest_of(const RecoveredSegment& segment, uint32_t page) {
    std::optional<PlaceContent> best;
    for (uint32_t place = 0; place < kTableSlots; ++place) {
      auto content = decode_page(block(segment.table_file, segment.layout.page_offset(page, place)),
                                 state_->label.volume, segment.row.uuid, page, segment.row.pcn_base);
      if (!content || !*content || (*content)->page.checkpoint > state_->super.checkpoint) continue;
      if (!best || (*content)->page.checkpoint > best->page.checkpoint) best = std::move(**content);
    }
    return best ? page_digest(segment.row.pcn_base, page, best->page.checkpoint, best->crc) : 0;
  }
  uint64_t checksum_digest_of(const RecoveredSegment& segment, uint32_t page) {
    std::optional<ChecksumContent> best;
    for (uint32_t place = 0; place < kTableSlots; ++place) {
      const uint64_t offset =
          segment.layout.checksum_offset + (uint64_t{page} * kTableSlots + place) * kMetaBlock;
      auto content = decode_checksum_page(block(segment.file, offset), state_->label.volume, segment.row.uuid,
                                          page, segment.row.pcn_base);
      if (!content || !*content || (*content)->page.checkpoint > state_->super.checkpoint) continue;
      if (!best || (*content)->page.checkpoint > best->page.checkpoint) best = std::move(**content);
    }
    return best ? checksum_page_digest(segment.row.pcn_base, page, best->page.checkpoint, best->crc) : 0;
  }

  const sim::GoldenImage golden_;
  sim::GoldenImage bytes_;
  std::vector<size_t> ours_;  // backings, but for the image
  size_t base_ = kNoBase;
  std::vector<std::vector<bool>> touched_;  // by backing and metadata block
  std::unique_ptr<Recovered> state_;
  std::optional<BlockSeq> appended_;
  uint32_t appended_crc_ = 0;
};

bool lies_in_a_segment(const Recovered& volume, Pcn pcn) {
  return std::any_of(volume.segments.begin(), volume.segments.end(), [&](const RecoveredSegment& s) {
    return pcn >= s.row.pcn_base && pcn.v - s.row.pcn_base.v < s.row.clusters;
  });
}

bool is_member(const Recovered& volume, const Mapping& mapping, Lcn lcn) {
  const Container* container = volume.containers.find(mapping.container());
  if (container == nullptr) return false;
  std::array<Container::Member, kMembers> members;
  const uint32_t count = container->members(members);
  return std::any_of(members.begin(), members.begin() + count, [&](const Container::Member& member) {
    return member.lcn == lcn && member.pack == mapping.container_pack();
  });
}

// Every owner lies in a segment and belongs to one cluster, or is a container and belongs to those that lie
// in it; the allocators know of it.
void judge(const Recovered& volume) {
  uint64_t members = 0;
  std::map<uint32_t, uint32_t> taken;
  const Map& map = volume.map;
  for (Lcn lcn = map.next_populated(Lcn(0)); lcn.v < map.clusters(); lcn = map.next_populated(lcn.next())) {
    const Mapping mapping = map.get(lcn);
    expect((mapping.mask_a & mapping.mask_b) == 0, "a sub-block has one owner");
    for (const Pcn pcn : {mapping.raw_a(), mapping.raw_b()}) {
      if (pcn.v != 0) expect(++taken[pcn.v] == 1, "a physical cluster has one owner");
    }
    if (!mapping.is_squeezed()) continue;
    expect(is_member(volume, mapping, lcn), "who lies in a container is a member of it");
    ++members;
  }
  expect(members == volume.containers.members(), "a member of a container lies in it");
  for (Pcn pcn = volume.containers.next(Pcn(1), Pcn(kPcnEnd)); pcn.v != 0;
       pcn = volume.containers.next(pcn.next(), Pcn(kPcnEnd))) {
    expect(++taken[pcn.v] == 1, "a container is nobody's cluster");
  }
  for (const auto& [pcn, count] : taken)
    expect(lies_in_a_segment(volume, Pcn(pcn)), "an owner lies in a segment");
  uint64_t allocated = 0;
  for (const RecoveredSegment& segment : volume.segments) allocated += segment.allocator.taken();
  expect(allocated == taken.size(), "what is allocated is owned");
}

void read_all(volume::Volume& volume, sim::Scheduler& scheduler) {
  struct Call : block::Request {
    bool over = false;
  };
  static const io::Buffer memory(kMiB);
  const uint64_t bytes = std::min<uint64_t>(volume.info().size, 4 * kMiB);
  for (uint64_t at = 0; at < bytes; at += memory.size()) {
    Call call;
    call.offset = at;
    call.length = std::min<uint64_t>(memory.size(), bytes - at);
    call.data = memory.first(call.length);
    call.done = [](block::Request* r, Code) { static_cast<Call*>(r)->over = true; };
    volume.submit(call);
    scheduler.run_until([&] { return call.over; }, kSteps);
    expect(call.over, "a read ends");
  }
}

void open_and_read(Image& image, sim::Scheduler& scheduler) {
  std::vector<volume::SegmentFile> files;
  for (auto& file : image.open(scheduler)) {
    const size_t backing = files.size();
    files.push_back({image.uuid(backing), std::move(file), backing == image.base()});
  }
  auto opened = wait(scheduler, volume::Volume::open(scheduler, std::move(files), {}));
  expect(opened.has_value(), "what was recovered can be opened");
  read_all(*opened->volume, scheduler);
  (void)wait(scheduler, opened->volume->close());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using sim::Golden;
  static Image images[] = {{Golden::kPlain, false},    {Golden::kPlain, true},    {Golden::kOver, false},
                           {Golden::kOver, true},      {Golden::kMoved, false},   {Golden::kMoved, true},
                           {Golden::kSqueezed, false}, {Golden::kSqueezed, true}};
  fuzz::Input in(data, size);
  const uint8_t how = in.u8();
  Image& image = images[(how & 1) + 2 * (how >> 3 & 3)];
  for (int changes = 0; changes < 32 && !in.empty(); ++changes) image.change(in);
  if ((how & 6) != 0) image.mend_digest();
  bool opened = false;
  if (!image.too_large()) {
    sim::Scheduler scheduler(1);
    scheduler.set_orderly(true);
    auto files = image.open(scheduler);
    const auto recovered = wait(scheduler, recover(Image::pointers(files), image.base()));
    uint64_t calls = 0;
    for (const auto& file : files) calls += file->calls;
    expect(calls <= kCallsMax, "recovery reads what there is, once");
    if (!recovered) {
      expect(!recovered.error().message.empty(), "a refusal says why");
    } else {
      judge(**recovered);
      opened = how >= 240;  // an engine takes ten times as long to make as a map
      if (opened) open_and_read(image, scheduler);
    }
  }
  image.restore(opened);
  return 0;
}
