// Making segments, and opening a volume from them.
#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "base/names.h"
#include "extent/head.h"
#include "extent/label.h"
#include "volume/engine.h"

namespace foreshadow::volume {
namespace {

// `rest_only`: without its first sector, which makes it a label (extent/label.h).
io::Task<Status> write_labels(io::File& file, extent::Label label, bool rest_only = false) {
  const io::Buffer block(extent::kMetaBlock);
  for (uint32_t copy = 0; copy < extent::kLabelCopies; ++copy) {
    const uint64_t offset = extent::Layout::label_offset(copy);
    extent::encode_label(label, offset, block.span());
    if (rest_only) std::ranges::fill(block.first(extent::kSizeUnit), std::byte{0});
    const int written = co_await io::write(file, offset, block.span());
    if (written < 0) co_return fail_errno(written, "cannot write the label");
  }
  const int synced = co_await io::sync(file);
  if (synced < 0) co_return fail_errno(synced, "cannot sync the label");
  co_return Status{};
}

Status check_create(const CreateOptions& options) {
  TRY(Name::parse(options.name, "volume name"));
  if (options.size == 0 || options.size > limits::kVolumeSizeMax) {
    return fail(Code::kInvalidArgument, fmt::format("volume size {} is out of range: at most {}",
                                                    options.size, limits::kVolumeSizeMax));
  }
  if (div_up(options.size, options.geometry.cluster()) > UINT32_MAX) {
    return fail(Code::kInvalidArgument, fmt::format("volume size {} has too many clusters of {}",
                                                    options.size, options.geometry.cluster()));
  }
  if (options.base && options.size != options.base->bytes) {
    return fail(Code::kInvalidArgument,
                fmt::format("a volume over an image of {} bytes begins with that size", options.base->bytes));
  }
  if (options.base && options.base->path.size() > extent::kBasePathBytes) {
    return fail(Code::kInvalidArgument,
                fmt::format("path {}: at most {} bytes", quoted(options.base->path), extent::kBasePathBytes));
  }
  if (!options.base && options.size % options.geometry.sub_block() != 0) {
    return fail(Code::kInvalidArgument, fmt::format("volume size {} is not a multiple of {}", options.size,
                                                    options.geometry.sub_block()));
  }
  return {};
}

// The most clusters the primary may grow to: as many times what it has now, but not more than the volume
// could ever use (a cluster of it may have two owners for a while).
uint32_t head_room(const CreateOptions& options, const extent::Layout& layout) {
  const uint64_t logical = div_up(options.size, options.geometry.cluster());
  const uint64_t useful = logical + logical / 16 + 1;
  return static_cast<uint32_t>(
      std::min<uint64_t>({uint64_t{layout.clusters} * options.head_room, useful, extent::kPcnEnd / 2}));
}

Result<extent::Layout> primary_layout(uint64_t bytes, const CreateOptions& options) {
  const uint32_t journal_blocks = options.journal_bytes == 0
                                      ? extent::default_journal_blocks(bytes)
                                      : static_cast<uint32_t>(options.journal_bytes / extent::kMetaBlock);
  const uint64_t base_pages =
      options.base ? extent::base_table_pages(options.base->bytes, options.geometry) : 0;
  ASSIGN_OR_RETURN(const extent::Layout bare, extent::make_layout(bytes, options.geometry, journal_blocks, 0,
                                                                  options.checksums, base_pages));
  return extent::make_layout(bytes, options.geometry, journal_blocks, head_room(options, bare),
                             options.checksums, base_pages);
}

// The base's row comes second, and its range of physical clusters behind all that the primary may grow to.
void add_base(const extent::BaseArea& base, const extent::Layout& primary, extent::Superblock& super) {
  const auto from = static_cast<uint32_t>(align_up(primary.clusters, extent::kGranuleClusters));
  super.segments.push_back({SegmentId(1), base.uuid, SegmentRole::kBase, SegmentState::kMerged,
                            Pcn(extent::kGranuleClusters + from), base.clusters});
  super.features |= extent::kFeatureBase;
  super.next_segment = SegmentId(2);
}

}  // namespace

// Crash points: until the label is durable the backing is nobody's, and is removed or formatted again; the
// superblock is durable before it.
io::Task<Status> Volume::format_primary(io::File& file, const CreateOptions& options, Uuid segment) {
  auto checked = check_create(options);
  if (!checked) co_return checked;
  auto layout = primary_layout(file.size(), options);
  if (!layout) co_return tl::unexpected(layout.error());
  extent::Superblock super;
  super.volume = options.id;
  super.sequence = 1;
  super.size = options.size;
  super.redirect = options.redirect;
  super.next_segment = SegmentId(1);
  super.features = options.checksums ? extent::kFeatureChecksums : 0;
  super.segments.push_back({SegmentId(0), segment, SegmentRole::kPrimary, SegmentState::kMerged,
                            Pcn(extent::kGranuleClusters),
                            extent::clusters_in(*layout, options.geometry, file.size())});
  extent::Label label{options.id,  segment, SegmentRole::kPrimary, options.geometry,
                      file.size(), *layout, options.name,          options.size};
  if (options.base) {
    auto base = extent::make_base_area(*layout, options.geometry, options.base->bytes);
    if (!base) co_return tl::unexpected(base.error());
    base->uuid = options.base->uuid;
    base->path = options.base->path;
    if (uint64_t{layout->clusters} + base->clusters > extent::kPcnEnd / 2) {
      co_return fail(Code::kLimit, fmt::format("an image of {} bytes has too many clusters", base->bytes));
    }
    add_base(*base, *layout, super);
    label.base = std::move(*base);
  }
  auto written = co_await extent::write_superblock(file, super);
  if (!written) co_return written;
  auto labelled = co_await write_labels(file, label);
  co_return labelled;
}

io::Task<Status> Volume::check_image(io::File& image, extent::Geometry geometry) {
  if (image.size() < geometry.cluster()) {
    co_return fail(Code::kInvalidArgument, fmt::format("an image of {} bytes: expected at least {}",
                                                       image.size(), geometry.cluster()));
  }
  std::string blemish;
  const auto label = co_await extent::read_label(image, &blemish);
  if (label) {
    co_return fail(Code::kAlreadyExists, fmt::format("it is segment {} of volume {} already",
                                                     label->segment.str(), label->volume.str()));
  }
  if (label.error().code == Code::kUnsupported || label.error().code == Code::kIo) {
    co_return tl::unexpected(label.error());
  }
  co_return Status{};
}

io::Task<Status> Volume::format_shadow(io::File& file, Uuid volume, Uuid segment, extent::Geometry geometry,
                                       bool checksums) {
  auto layout = extent::make_layout(file.size(), geometry, 0, 0, checksums);
  if (!layout) co_return tl::unexpected(layout.error());
  const extent::Label label{volume, segment, SegmentRole::kShadow, geometry, file.size(), *layout, "", 0};
  auto labelled = co_await write_labels(file, label);
  co_return labelled;
}

// Crash points: until the volume attaches it, it is in no table, and its superblock area is zeros. The volume
// is served already, so a label that is torn must not keep it from being opened: all but the first sectors
// are durable before those.
io::Task<Status> Volume::format_next_primary(io::File& file, const CreateOptions& options, Uuid segment) {
  auto checked = check_create(options);
  if (!checked) co_return checked;
  const auto layout = primary_layout(file.size(), options);
  if (!layout) co_return tl::unexpected(layout.error());
  const extent::Label label{options.id,  segment, SegmentRole::kPrimary, options.geometry,
                            file.size(), *layout, options.name,          options.size};
  auto prepared = co_await write_labels(file, label, true);
  if (!prepared) co_return prepared;
  auto labelled = co_await write_labels(file, label);
  co_return labelled;
}

// Crash points: the repair makes damaged copies equal to the quorum and touches no good one; then the new
// epoch is written by the superblock's own rule. Either superblock, old or new, replays the same journal.
// Nothing is served before the new epoch is durable.
io::Task<Result<Volume::Opened>> Volume::open(io::Executor& executor, std::vector<SegmentFile> segments,
                                              RunOptions options) {
  std::vector<io::File*> files;
  size_t base = extent::kNoBase;
  for (const SegmentFile& segment : segments) {
    if (segment.is_base) base = files.size();
    files.push_back(segment.file.get());
  }
  auto recovered = co_await extent::recover(std::move(files), base);
  if (!recovered) co_return tl::unexpected(recovered.error());
  extent::Recovered& state = **recovered;
  Opened out;
  for (const size_t orphan : state.orphans) out.orphans.push_back(segments[orphan].uuid);
  // What the process before wrote may be in no more than a cache. It has been read now, and will be built
  // upon, so it is made durable first: the journal that was replayed, the superblock copies that were chosen,
  // and data that a client may flush without writing it again.
  for (const SegmentFile& segment : segments) {
    const int synced = co_await io::sync(*segment.file);
    if (synced < 0) co_return fail_errno(synced, fmt::format("cannot sync segment {}", segment.uuid.str()));
  }
  io::File& primary = *segments[state.segments.front().file].file;
  auto repaired = co_await extent::repair_superblock(primary, state.stored, state.super_copy_good);
  if (!repaired) co_return tl::unexpected(repaired.error());
  // A crash has cut the change of the primary in two: head_move.cc.
  const extent::Superblock mark = extent::make_mark(state.stored, segments[state.segments.front().file].uuid);
  for (const extent::ToMark& other : state.to_mark) {
    io::File& file = *segments[other.file].file;
    Status marked;
    if (other.agreed) {  // what is good of it stays
      marked = co_await extent::repair_superblock(file, other.super, other.good);
    } else {
      marked = co_await extent::write_superblock(file, mark);
    }
    if (!marked) co_return tl::unexpected(marked.error());
  }
  state.super.epoch = state.super.epoch.next();
  state.super.epoch_start = state.next_block;
  state.super.sequence = std::max(state.super.sequence, state.highest_super_sequence) + 1;
  state.highest_super_sequence = state.super.sequence;
  auto written = co_await extent::write_superblock(primary, state.super);
  if (!written) co_return tl::unexpected(written.error());
  out.volume = std::make_unique<Engine>(executor, std::move(*recovered), std::move(segments), options);
  co_return out;
}

}  // namespace foreshadow::volume
