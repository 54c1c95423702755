#include "sim/golden_image.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/rng.h"
#include "io/buffer.h"
#include "io/task.h"
#include "sim/disk.h"
#include "sim/scheduler.h"
#include "sim/swarm.h"
#include "volume/volume.h"

namespace foreshadow::sim {
namespace {

constexpr uint64_t kCluster = 8192;
constexpr uint64_t kSubBlock = 512;
constexpr uint32_t kJournalBlocks = 8;
constexpr uint64_t kSize = 24 * kCluster;

// One life of a small volume, a call after the other. Whatever fails here is a defect of ours.
class Builder {
 public:
  Builder() { scheduler_.set_orderly(true); }

  GoldenImage build(Golden what, bool closed) {
    switch (what) {
      case Golden::kPlain:
        live_plainly();
        closed ? close() : die();
        break;
      case Golden::kSqueezed:
        live_squeezed();
        closed ? close() : die_releasing();
        break;
      case Golden::kOver:
        live_over();
        closed ? close() : die();
        break;
      case Golden::kMoved:
        live_and_move();
        closed ? close() : die();
        std::swap(made_.front(), made_.back());
        break;
    }
    GoldenImage out;
    out.geometry = swarm_.create.geometry;
    out.contents = contents_;
    for (const Made& made : made_) {
      GoldenBacking& backing = out.backings.emplace_back();
      backing.uuid = made.uuid;
      backing.bytes.resize(made.disk->size());
      (void)made.disk->peek(0, backing.bytes);
      backing.is_base = made.is_base;
      if (made.is_base) continue;
      const auto label = extent::decode_label(std::span(backing.bytes).first(extent::kMetaBlock), 0);
      ASSERT(label.has_value());
      backing.metadata_bytes = label->layout.data_offset;
    }
    return out;
  }

 private:
  struct Made {
    Uuid uuid;
    std::unique_ptr<Disk> disk;
    bool is_base = false;
  };

  template <typename T>
  T wait(io::Task<T> task) {
    std::optional<T> out;
    io::spawn(std::move(task), [&](T&& value) { out.emplace(std::move(value)); });
    scheduler_.run_until([&] { return out.has_value(); });
    ASSERT(out.has_value());
    return std::move(*out);
  }
  void must(const Status& status) { ASSERT(status.has_value()); }

  Made& make_backing(uint32_t clusters, bool primary) {
    Made made{Uuid::random(rng_), nullptr};
    made.disk = std::make_unique<Disk>(scheduler_, rng_, backing_bytes(swarm_, clusters, primary), 512);
    return made_.emplace_back(std::move(made));
  }

  void make_primary(uint32_t clusters, uint32_t journal_blocks) {
    swarm_.create.id = Uuid::random(rng_);
    swarm_.create.name = "golden";
    if (swarm_.create.size == 0) swarm_.create.size = kSize;
    contents_.resize(swarm_.create.size);
    swarm_.create.geometry.sub_block_bits = 9;
    swarm_.create.head_room = 2;
    swarm_.create.checksums = true;
    swarm_.journal_blocks = journal_blocks;
    swarm_.create.journal_bytes = uint64_t{journal_blocks} * extent::kMetaBlock;
    const Made& made = make_backing(clusters, true);
    const auto file = made.disk->open();
    must(wait(volume::Volume::format_primary(*file, swarm_.create, made.uuid)));
    if (image_.disk != nullptr) made_.push_back(std::move(image_));
    open();
  }

  void open() {
    std::vector<volume::SegmentFile> files;
    for (const Made& made : made_) files.push_back({made.uuid, made.disk->open(), made.is_base});
    volume::RunOptions options;
    options.checkpoint_percent = checkpoint_percent_;
    auto opened = wait(volume::Volume::open(scheduler_, std::move(files), options));
    ASSERT(opened.has_value());
    volume_ = std::move(opened->volume);
  }

  Uuid grant(uint32_t clusters) {
    const Made& made = make_backing(clusters, false);
    const auto file = made.disk->open();
    must(wait(volume::Volume::format_shadow(*file, volume_->id(), made.uuid, volume_->geometry(),
                                            volume_->checksums())));
    must(wait(volume_->attach_shadow({made.uuid, made.disk->open()})));
    return made.uuid;
  }

  void request(block::OpKind kind, uint64_t offset, uint64_t length) {
    struct Call : block::Request {
      std::optional<Code> code;
    } call;
    call.kind = kind;
    call.offset = offset;
    call.length = length;
    const io::Buffer memory(std::max<uint64_t>(length, 1));
    if (kind == block::OpKind::kWrite) {
      call.data = memory.first(length);
      std::fill(call.data.begin(), call.data.end(), std::byte{0});
      for (std::byte& b : call.data.first(std::min(length, random_bytes_)))
        b = static_cast<std::byte>(rng_.next());
      std::copy(call.data.begin(), call.data.end(), contents_.begin() + static_cast<ptrdiff_t>(offset));
    } else if (kind == block::OpKind::kTrim) {
      std::fill_n(contents_.begin() + static_cast<ptrdiff_t>(offset), length, std::byte{0});
    }
    call.done = [](block::Request* r, Code code) { static_cast<Call*>(r)->code = code; };
    volume_->submit(call);
    scheduler_.run_until([&] { return call.code.has_value(); });
    ASSERT(call.code == Code::kOk);
  }
  void write(uint64_t cluster, uint64_t sub_block, uint64_t sub_blocks) {
    request(block::OpKind::kWrite, cluster * kCluster + sub_block * kSubBlock, sub_blocks * kSubBlock);
  }
  void trim(uint64_t cluster, uint64_t sub_block, uint64_t sub_blocks) {
    request(block::OpKind::kTrim, cluster * kCluster + sub_block * kSubBlock, sub_blocks * kSubBlock);
  }
  void flush() { request(block::OpKind::kFlush, 0, 0); }
  // All of it, of which that much does not compress.
  void write_squeezable(uint64_t cluster, uint64_t random_bytes) {
    random_bytes_ = random_bytes;
    write(cluster, 0, 16);
    random_bytes_ = UINT64_MAX;
  }
  void squeeze(const Uuid& segment, uint64_t squeezed) {
    const auto report = wait(volume_->squeeze_segment(segment, {}));
    ASSERT(report.has_value() && report->squeezed == squeezed);
  }

  // ---- a plain volume

  void live_plainly() {
    make_primary(10, kJournalBlocks);
    first_generation();
    second_generation();
  }

  // Three checkpoints: every place of a table page has been written, and the ring has gone round.
  void first_generation() {
    for (uint64_t cluster = 0; cluster < 4; ++cluster) write(cluster, 0, 16);
    must(wait(volume_->checkpoint()));
    write(5, 3, 2);
    write(6, 0, 1);
    trim(1, 0, 16);
    flush();
    const Uuid first = grant(6);
    must(volume_->activate_shadow(first));
    write(7, 0, 16);
    write(5, 8, 4);  // a second owner: the rest of this cluster is in the primary
    for (int i = 0; i < 4; ++i) {
      write(8, static_cast<uint64_t>(i), 1);
      flush();
    }
    must(wait(volume_->checkpoint()));
    must(wait(volume_->merge_shadow(first)));
    write(0, 4, 4);
    write(9, 0, 16);
    must(wait(volume_->checkpoint()));
  }

  // One that was drained is no part of the volume any more, and leaves a gap in the numbers of clusters.
  void grant_and_drain() {
    const Uuid gone = grant(3);
    must(volume_->activate_shadow(gone));
    write(13, 0, 4);
    must(wait(volume_->drain_segment(gone)));
    made_.pop_back();
  }

  // What is in the journal only.
  void second_generation() {
    grant_and_drain();
    must(wait(volume_->resize_segment(made_.front().uuid, made_.front().disk->size() + 2 * kCluster)));
    write(10, 2, 3);
    trim(2, 0, 16);
    flush();
    const Uuid second = grant(4);
    must(volume_->activate_shadow(second));
    write(11, 0, 16);
    write(10, 9, 2);
    trim(7, 4, 4);
    flush();
    write(3, 1, 1);
    write(12, 0, 8);
    flush();
  }

  // ---- a squeezed volume

  Uuid fill_merged_shadow(uint32_t clusters, uint64_t from, uint64_t count) {
    const Uuid shadow = grant(clusters);
    must(volume_->activate_shadow(shadow));
    for (uint64_t cluster = from; cluster < from + count; ++cluster) write(cluster, 0, 16);
    must(wait(volume_->merge_shadow(shadow)));
    return shadow;
  }

  // Begins, and is stopped when its first record is durable: the segment stays half way out.
  void begin_release(const Uuid& segment, bool fold) {
    std::optional<Status> ended;
    io::spawn(fold ? volume_->fold_shadow(segment, 0) : volume_->drain_segment(segment),
              [&](Status&& status) { ended = std::move(status); });
    scheduler_.run_until([&] { return is_leaving(segment); });
    volume_->stop_jobs();
    scheduler_.run_until([&] { return ended.has_value(); });
    ASSERT(ended && !*ended && ended->error().code == Code::kShutdown);
  }
  bool is_leaving(const Uuid& uuid) const { return state_of(uuid) > volume::SegmentState::kMerged; }
  volume::SegmentState state_of(const Uuid& uuid) const {
    for (const volume::SegmentInfo& segment : volume_->segments()) {
      if (segment.uuid == uuid) return segment.state;
    }
    return volume::SegmentState::kWarm;
  }
  void reopen() {
    must(wait(volume_->close()));
    volume_.reset();
    open();
  }

  // Squeezed twice around a checkpoint: the first containers are in the tables, what has become of them since
  // and the others in the journal.
  void live_squeezed() {
    checkpoint_percent_ = 100;
    make_primary(14, 12);
    const Uuid primary = made_.front().uuid;
    for (uint64_t cluster = 0; cluster < 6; ++cluster) write_squeezable(cluster, 600 + cluster * 700);
    squeeze(primary, 6);
    write(1, 3, 2);  // above its blob
    must(wait(volume_->checkpoint()));
    folding_ = fill_merged_shadow(2, 12, 2);
    draining_ = fill_merged_shadow(2, 14, 2);
    begin_release(folding_, true);
    reopen();
    begin_release(draining_, false);
    reopen();
    released_ = grant(1);
    must(wait(volume_->checkpoint()));
    for (uint64_t cluster = 6; cluster < 11; ++cluster) write_squeezable(cluster, cluster * 150);
    squeeze(primary, 5);
    write(2, 0, 3);  // an overlay
    trim(4, 2, 5);   // zeros above it
    trim(5, 0, 16);  // a member goes
    write(7, 9, 1);  // above one that only the journal knows
    flush();
    ASSERT(state_of(folding_) == volume::SegmentState::kFolding);
    ASSERT(state_of(draining_) == volume::SegmentState::kDraining);
    ASSERT(volume_->usage().squeezed.logical > 0);
  }

  // With the record that a segment is released, and without the checkpoint that forgets it.
  void die_releasing() {
    Disk& primary = *made_.front().disk;
    std::optional<Status> ended;
    io::spawn(volume_->drain_segment(released_), [&](Status&& status) { ended = std::move(status); });
    scheduler_.run_until([&] { return state_of(released_) == volume::SegmentState::kReleased; });
    const uint64_t writes = primary.counts().writes;
    scheduler_.run_until([&] { return primary.counts().writes > writes; });
    ASSERT(!ended && state_of(released_) == volume::SegmentState::kReleased);
    power_off();
    scheduler_.run_until([&] { return ended.has_value(); });
    ASSERT(ended && !*ended);
    (void)wait(volume_->close());
    volume_.reset();
  }

  // ---- a volume over an image

  void make_image() {
    Made made{Uuid::random(rng_), nullptr, true};
    const uint64_t bytes = 6 * kCluster + 3 * kSubBlock;
    made.disk = std::make_unique<Disk>(scheduler_, rng_, bytes, 512);
    contents_.resize(bytes);
    for (std::byte& b : contents_) b = static_cast<std::byte>(rng_.next());
    made.disk->preload(contents_);
    swarm_.base_bytes = swarm_.create.size = bytes;
    swarm_.create.base = volume::BaseImage{made.uuid, bytes, "image"};
    image_ = std::move(made);
  }

  void grow(uint64_t clusters) {
    must(wait(volume_->grow(clusters * kCluster)));
    contents_.resize(clusters * kCluster);
  }

  void live_over() {
    checkpoint_percent_ = 100;
    make_image();
    make_primary(8, 10);
    write(0, 2, 3);  // in place
    trim(1, 0, 16);
    trim(2, 4, 2);
    must(wait(volume_->checkpoint()));
    grow(9);  // the tail leaves the image
    write(7, 0, 16);
    flush();
    must(wait(volume_->checkpoint()));
    const Uuid shadow = grant(3);
    must(volume_->activate_shadow(shadow));
    write(8, 0, 9);
    write(1, 3, 4);
    must(wait(volume_->merge_shadow(shadow)));
    grow(12);
    write(10, 1, 2);
    trim(3, 0, 16);
    write(2, 4, 1);  // back in its place
    flush();
    begin_release(shadow, true);
    ASSERT(volume_->info().size == contents_.size());
  }

  // ---- a volume whose primary was replaced

  void live_and_move() {
    make_primary(8, 10);
    const Uuid first = made_.front().uuid;
    for (uint64_t cluster = 0; cluster < 5; ++cluster) write(cluster, 0, 16);
    trim(1, 2, 3);
    must(wait(volume_->checkpoint()));
    fill_merged_shadow(2, 6, 1);
    const Made& next = make_backing(9, true);
    const auto file = next.disk->open();
    must(wait(volume::Volume::format_next_primary(*file, swarm_.create, next.uuid)));
    must(wait(volume_->replace_primary({next.uuid, next.disk->open()})));
    begin_release(first, false);
    write(0, 3, 2);  // where it has come to by now
    write(8, 0, 16);
    trim(2, 0, 16);
    flush();
    ASSERT(volume_->segments().front().uuid == next.uuid);
    ASSERT(state_of(first) == volume::SegmentState::kDraining);
  }

  // ---- its end

  void close() {
    must(wait(volume_->close()));
    volume_.reset();
  }
  // Everything was flushed: what the disks hold durably is the volume. A checkpoint that is under way ends
  // first.
  void die() {
    scheduler_.run_until([&] {
      return std::all_of(made_.begin(), made_.end(),
                         [](const Made& made) { return made.disk->undecided() == 0; });
    });
    power_off();
    (void)wait(volume_->close());
    volume_.reset();
  }
  void power_off() {
    for (const Made& made : made_) made.disk->power_off();
  }

  SeededRng rng_{20};
  Scheduler scheduler_{1};
  Swarm swarm_;
  std::vector<Made> made_;
  std::vector<std::byte> contents_;
  std::unique_ptr<volume::Volume> volume_;
  uint64_t random_bytes_ = UINT64_MAX;  // at the start of each write; the rest is zeros
  uint32_t checkpoint_percent_ = 50;
  Made image_;
  Uuid folding_, draining_, released_;
};

}  // namespace

GoldenImage make_golden_image(Golden what, bool closed) {
  Builder builder;
  return builder.build(what, closed);
}

}  // namespace foreshadow::sim
