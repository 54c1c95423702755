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
  Builder() : contents_(kSize) { scheduler_.set_orderly(true); }

  GoldenImage build(bool closed) {
    make_primary();
    first_generation();
    second_generation();
    closed ? close() : die();
    GoldenImage out;
    out.geometry = swarm_.create.geometry;
    out.contents = contents_;
    for (const Made& made : made_) {
      GoldenBacking& backing = out.backings.emplace_back();
      backing.uuid = made.uuid;
      backing.bytes.resize(made.disk->size());
      (void)made.disk->peek(0, backing.bytes);
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

  void make_primary() {
    swarm_.create.id = Uuid::random(rng_);
    swarm_.create.name = "golden";
    swarm_.create.size = kSize;
    swarm_.create.geometry.sub_block_bits = 9;
    swarm_.create.head_room = 2;
    swarm_.create.checksums = true;
    swarm_.journal_blocks = kJournalBlocks;
    swarm_.create.journal_bytes = uint64_t{kJournalBlocks} * extent::kMetaBlock;
    const Made& made = make_backing(10, true);
    const auto file = made.disk->open();
    must(wait(volume::Volume::format_primary(*file, swarm_.create, made.uuid)));
    open();
  }

  void open() {
    std::vector<volume::SegmentFile> files;
    for (const Made& made : made_) files.push_back({made.uuid, made.disk->open()});
    auto opened = wait(volume::Volume::open(scheduler_, std::move(files), {}));
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
      for (std::byte& b : call.data) b = static_cast<std::byte>(rng_.next());
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
    for (const Made& made : made_) made.disk->power_off();
    (void)wait(volume_->close());
    volume_.reset();
  }

  SeededRng rng_{20};
  Scheduler scheduler_{1};
  Swarm swarm_;
  std::vector<Made> made_;
  std::vector<std::byte> contents_;
  std::unique_ptr<volume::Volume> volume_;
};

}  // namespace

GoldenImage make_golden_image(bool closed) {
  Builder builder;
  return builder.build(closed);
}

}  // namespace foreshadow::sim
