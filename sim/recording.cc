#include "sim/recording.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "base/rng.h"
#include "block/file_pool.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "io/task.h"
#include "io/wait_for.h"
#include "volume/volume.h"

namespace foreshadow::sim {
namespace {

using Kind = ClientEvent::Kind;

constexpr uint64_t kCluster = 8192;
constexpr uint64_t kSector512 = 512;
constexpr uint32_t kDepth = 6;
constexpr size_t kBackingsMax = 6;
constexpr uint64_t kWrittenFirst = 9;  // clusters; what comes then is a squeeze

class Recorder {
 public:
  Recorder(const std::string& directory, uint64_t seed, uint32_t operations)
      : rng_(seed), operations_(operations), directory_(fmt::format("{}/power-cut-{}", directory, seed)) {
    Swarm& swarm = out_.swarm;
    swarm.create.id = Uuid::random(rng_);
    swarm.create.name = "recorded";
    swarm.create.size = 24 * kCluster;
    if (seed % 3 == 2) {  // it ends within a cluster
      swarm.base_bytes = swarm.create.size = 14 * kCluster + kSector512 * (1 + rng_.below(15));
    }
    swarm.create.checksums = seed % 4 != 0;
    swarm.create.redirect = rng_.below(2) == 0 ? volume::Redirect::kAllocating : volume::Redirect::kAll;
    swarm.create.geometry.sub_block_bits = 9;
    swarm.journal_blocks = static_cast<uint32_t>(8 + rng_.below(9));
    swarm.create.journal_bytes = uint64_t{swarm.journal_blocks} * extent::kMetaBlock;
    swarm.primary_clusters = static_cast<uint32_t>(14 + rng_.below(8));
    swarm.create.head_room = 3;
    swarm.queue_depth = kDepth;
    swarm.io_max = 4 * kCluster;
    swarm.run.hold_timeout = std::chrono::milliseconds(20);
    swarm.run.commit_idle = std::chrono::milliseconds(2);
    swarm.run.checksum_age = std::chrono::milliseconds(1 + rng_.below(20));
    oracle_.emplace(swarm.create.size, swarm.create.geometry.sub_block(), 1);
  }
  ~Recorder() {
    volume_.reset();
    pool_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  Recorder(const Recorder&) = delete;

  Recording run() {
    if (begin()) {
      for (int life = 0; life < 3 && out_.trouble.empty() && open(); ++life) live();
    }
    out_.log = log_.take();
    return std::move(out_);
  }

 private:
  struct Slot : block::Request {
    Recorder* owner = nullptr;
    io::Buffer memory;
    uint32_t op = 0;
    uint32_t ticket = 0;
  };

  bool give_up(std::string why) {
    if (out_.trouble.empty()) out_.trouble = std::move(why);
    loop_->stop();
    return false;
  }
  void note(ClientEvent event) {
    log_.mark(out_.client.size());
    out_.client.push_back(event);
  }
  template <typename T>
  T wait(io::Task<T> task) {
    return io::wait_for(*loop_, std::move(task));
  }

  bool begin() {
    auto loop = io::Loop::create();
    if (!loop) return out_.trouble = loop.error().message, false;
    loop_ = std::move(*loop);
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    auto files = io::open_directory(*loop_, directory_);
    if (!files) return give_up(files.error().message);
    auto pool = block::FilePool::open(*Name::parse("recorded"), std::move(*files), 0);
    if (!pool) return give_up(pool.error().message);
    pool_ = std::move(*pool);
    auto primary = make(out_.swarm.primary_clusters, true);
    if (!primary || (out_.swarm.base_bytes > 0 && !make_base())) return false;
    const Status formatted =
        wait(volume::Volume::format_primary(*primary, out_.swarm.create, out_.backings.front().uuid));
    return formatted ? true : give_up(formatted.error().message);
  }

  // What is in it already is no part of the recording.
  bool make_base() {
    const auto number = static_cast<uint32_t>(out_.backings.size());
    const Recording::Made made{Uuid::random(rng_), out_.swarm.base_bytes, true};
    auto file = pool_->create(made.uuid.str(), made.size);
    if (!file) return give_up(file.error().message);
    const std::vector<std::byte> content = make_image(out_.swarm, *oracle_).bytes;
    const io::Buffer memory(content.size());
    std::copy(content.begin(), content.end(), memory.data());
    const Status written = wait(write_all(**file, memory.first(content.size())));
    if (!written) return give_up(written.error().message);
    out_.backings.push_back(made);
    out_.swarm.create.base = volume::BaseImage{made.uuid, made.size, "image"};
    note({Kind::kMade, 0, 0, 0, number, false, false});
    return true;
  }
  static io::Task<Status> write_all(io::File& file, std::span<const std::byte> bytes) {
    const int written = co_await io::write(file, 0, bytes);
    const int synced = co_await io::sync(file);
    if (written < 0 || synced < 0) co_return fail(Code::kIo, "the image cannot be written");
    co_return Status{};
  }

  std::unique_ptr<io::File> make(uint32_t clusters, bool primary) {
    const auto number = static_cast<uint32_t>(out_.backings.size());
    const Recording::Made made{Uuid::random(rng_), backing_bytes(out_.swarm, clusters, primary)};
    auto file = pool_->create(made.uuid.str(), made.size);
    if (!file) return give_up(file.error().message), nullptr;
    out_.backings.push_back(made);
    note({Kind::kMade, 0, 0, 0, number, false, false});
    return std::make_unique<io::RecordingFile>(std::move(*file), log_, number);
  }

  bool open() {
    std::vector<volume::SegmentFile> segments;
    for (uint32_t i = 0; i < out_.backings.size(); ++i) {
      if (released_.contains(i)) continue;
      auto file = pool_->open(out_.backings[i].uuid.str(), io::Directory::Mode::kReadWriteLocked);
      if (!file) return give_up(file.error().message);
      segments.push_back({out_.backings[i].uuid,
                          std::make_unique<io::RecordingFile>(std::move(*file), log_, i),
                          out_.backings[i].is_base});
    }
    auto opened = wait(volume::Volume::open(*loop_, std::move(segments), out_.swarm.run));
    if (!opened) return give_up(opened.error().message);
    volume_ = std::move(opened->volume);
    note({});
    return true;
  }

  void live() {
    left_ = operations_ / 3;
    for (uint32_t i = 0; i < kDepth; ++i) {
      auto& slot = slots_.emplace_back(std::make_unique<Slot>());
      slot->owner = this;
      slot->memory = io::Buffer(out_.swarm.io_max);
      next(*slot);
    }
    while (in_flight_ > 0 || controls_ > 0) loop_->run();
    const Status closed = wait(volume_->close());
    if (!closed) give_up(closed.error().message);
    volume_.reset();
    slots_.clear();
  }

  // What the slot does now; nothing when all is done.
  void next(Slot& slot) {
    if (left_ == 0 || !out_.trouble.empty()) {
      if (in_flight_ == 0 && controls_ == 0) loop_->stop();
      return;
    }
    --left_;
    if (controls_ == 0 && written_first_ == kWrittenFirst && rng_.below(4) == 0) control();
    static_cast<block::Request&>(slot) = block::Request();
    const uint64_t draw = written_first_ < kWrittenFirst ? 0 : rng_.below(100);
    slot.kind = draw < 55   ? block::OpKind::kWrite
                : draw < 65 ? block::OpKind::kZero
                : draw < 78 ? block::OpKind::kTrim
                            : block::OpKind::kFlush;
    if (slot.kind == block::OpKind::kFlush) {
      slot.ticket = oracle_->begin_flush();
      note({Kind::kFlush, 0, 0, 0, 0, false, false});
    } else {
      draw_range(slot);
    }
    slot.done = [](block::Request* request, Code code) {
      auto* done = static_cast<Slot*>(request);
      done->owner->on_done(*done, code);
    };
    ++in_flight_;
    volume_->submit(slot);
  }

  void draw_range(Slot& slot) {
    const uint64_t size = oracle_->bytes();
    slot.offset = rng_.below(size / kSector512) * kSector512;
    if (rng_.below(3) == 0) slot.offset = align_down(slot.offset, kCluster);
    const uint64_t longest =
        std::min(size - slot.offset, rng_.below(4) == 0 ? out_.swarm.io_max : kCluster / 4);
    slot.length = (1 + rng_.below(longest / kSector512)) * kSector512;
    const bool first = written_first_ < kWrittenFirst;
    if (first || rng_.below(4) == 0) {  // a whole cluster, for the squeezer
      slot.offset = (first ? written_first_++ : rng_.below(size / kCluster)) * kCluster;
      slot.length = kCluster;
    }
    slot.fua = rng_.below(6) == 0;
    Kind kind = Kind::kTrim;
    if (slot.kind == block::OpKind::kWrite) {
      kind = Kind::kWrite;
      slot.data = slot.memory.first(slot.length);
      slot.op = oracle_->begin_write(slot.offset, slot.length, 1);
      oracle_->fill(slot.op, slot.data);
    } else if (slot.kind == block::OpKind::kZero) {
      kind = Kind::kZero;
      slot.op = oracle_->begin_zero(slot.offset, slot.length);
    } else {
      slot.op = oracle_->begin_trim(slot.offset, slot.length);
    }
    note({kind, slot.offset, slot.length, 0, 0, false, false});
  }

  void on_done(Slot& slot, Code code) {
    --in_flight_;
    if (slot.kind == block::OpKind::kFlush) {
      if (code != Code::kOk) give_up("a flush failed");
      oracle_->end_flush(slot.ticket);
      note({Kind::kFlushed, 0, 0, slot.ticket, 0, false, false});
    } else {
      if (code != Code::kOk && code != Code::kNoSpace)
        give_up(fmt::format("a request failed: {}", name_of(code)));
      oracle_->end(slot.op, code == Code::kOk, slot.fua);
      note({Kind::kEnd, 0, 0, slot.op, 0, code == Code::kOk, slot.fua});
    }
    next(slot);
  }

  // ---- the lives of shadows, one step at a time

  void control() {
    const uint64_t draw = controls_begun_++ == 0 ? 6 : rng_.below(10);
    if (draw == 9) return move();
    if (draw == 5) return resize();
    if (draw == 6 || draw == 7) return squeeze();
    if (draw == 8) return grow();
    if (draw == 0 && out_.backings.size() < kBackingsMax) return grant();
    if (draw == 1) return spawn(volume_->checkpoint(), {});
    if (attached_.empty()) return;
    if (draw == 4) return release();
    const uint32_t number = attached_[rng_.below(attached_.size())];
    const Uuid uuid = out_.backings[number].uuid;
    if (draw == 2) {
      (void)volume_->activate_shadow(uuid);  // too late is an answer
      return;
    }
    note({Kind::kMergeAsked, 0, 0, 0, number, false, false});
    spawn(volume_->merge_shadow(uuid), [this, number] {
      note({Kind::kMerged, 0, 0, 0, number, false, false});
    });
  }

  void resize() {
    const auto segments = volume_->segments();
    const volume::SegmentInfo& segment = segments[rng_.below(segments.size())];
    const uint64_t most = std::min(segment.backing_max, 2 * segment.backing);
    const uint64_t bytes = segment.backing / 2 + rng_.below(most - segment.backing / 2 + 1);
    spawn(volume_->resize_segment(segment.uuid, align_down(bytes, kCluster)), {});
  }

  // The client's data compresses too well, so half of the time blobs are made larger by lot.
  void squeeze() {
    volume::SqueezeOptions options;
    options.lots = rng_.below(2) == 0 ? 0 : rng_.next() | 1;
    const size_t which = rng_.below(attached_.size() + 1);
    const uint32_t number = which == attached_.size() ? primary_ : attached_[which];
    spawn(squeeze_segment(out_.backings[number].uuid, options), {});
  }
  io::Task<Status> squeeze_segment(Uuid segment, volume::SqueezeOptions options) {
    const auto report = co_await volume_->squeeze_segment(segment, options);
    if (report) out_.squeezed += report->squeezed;
    co_return report ? Status{} : tl::unexpected(report.error());
  }

  void grow() {
    const uint64_t most = 30 * kCluster;
    const uint64_t now = volume_->info().size;
    const uint64_t size = std::min(most, align_up(now + 1 + rng_.below(4 * kCluster), kSector512));
    if (size <= now) return;
    note({Kind::kGrowAsked, 0, size, 0, 0, false, false});
    spawn(volume_->grow(size), [this, size] {
      if (size > oracle_->bytes()) oracle_->grow(size);
      ++out_.grown;
      note({Kind::kGrown, 0, size, 0, 0, false, false});
    });
  }

  void release() {
    const size_t index = rng_.below(attached_.size());
    const uint32_t number = attached_[index];
    attached_.erase(attached_.begin() + static_cast<ptrdiff_t>(index));
    const Uuid uuid = out_.backings[number].uuid;
    note({Kind::kReleaseAsked, 0, 0, 0, number, false, false});
    const volume::SegmentInfo primary = volume_->segments().front();
    const uint64_t bytes = rng_.below(2) == 0 ? 0 : std::min(primary.backing_max, 2 * primary.backing);
    auto job = rng_.below(2) == 0 ? volume_->fold_shadow(uuid, bytes) : volume_->drain_segment(uuid);
    const auto released = [this, number, uuid] {
      released_.insert(number);
      ++out_.released;
      note({Kind::kReleased, 0, 0, 0, number, false, false});
      if (const Status removed = pool_->remove(uuid.str()); !removed) give_up(removed.error().message);
    };
    spawn(std::move(job), released, [this, number] { attached_.push_back(number); });
  }

  // Twice at most: what found no room is part of the volume, or an orphan, from then on.
  void move() {
    constexpr uint32_t kMovesMax = 2;
    if (out_.swarm.base_bytes > 0 || moves_begun_ == kMovesMax) return;
    ++moves_begun_;
    const auto number = static_cast<uint32_t>(out_.backings.size());
    auto file = make(out_.swarm.primary_clusters + static_cast<uint32_t>(rng_.below(4)), true);
    if (!file) return;
    note({Kind::kMoveAsked, 0, 0, 0, number, false, false});
    spawn(replace_primary(std::move(file), out_.backings[number].uuid), [this, number] {
      attached_.push_back(std::exchange(primary_, number));
      ++out_.moved;
      note({Kind::kMoved, 0, 0, 0, number, false, false});
    });
  }
  io::Task<Status> replace_primary(std::unique_ptr<io::File> file, Uuid uuid) {
    auto formatted = co_await volume::Volume::format_next_primary(*file, out_.swarm.create, uuid);
    if (!formatted) co_return formatted;
    volume::SegmentFile segment{uuid, std::move(file)};
    auto replaced = co_await volume_->replace_primary(std::move(segment));
    co_return replaced;
  }

  void grant() {
    const auto number = static_cast<uint32_t>(out_.backings.size());
    auto file = make(static_cast<uint32_t>(3 + rng_.below(4)), false);
    if (!file) return;
    granted_ = std::move(file);
    spawn(volume::Volume::format_shadow(*granted_, volume_->id(), out_.backings[number].uuid,
                                        out_.swarm.create.geometry, volume_->checksums()),
          [this, number] {
            note({Kind::kAttachAsked, 0, 0, 0, number, false, false});
            spawn(volume_->attach_shadow({out_.backings[number].uuid, std::move(granted_)}), [this, number] {
              attached_.push_back(number);
              note({Kind::kAttached, 0, 0, 0, number, false, false});
            });
          });
  }

  void spawn(io::Task<Status> task, std::function<void()> then, std::function<void()> otherwise = {}) {
    ++controls_;
    io::spawn(std::move(task),
              [this, then = std::move(then), otherwise = std::move(otherwise)](const Status& status) {
                // That there is no room to move to, or to grow into, is an answer.
                const bool no_room = !status && (status.error().code == Code::kNoSpace ||
                                                 status.error().code == Code::kFailedPrecondition ||
                                                 status.error().code == Code::kInvalidArgument ||
                                                 status.error().code == Code::kNotFound);
                if (!status && !no_room) give_up(status.error().message);
                if (status && then) then();
                if (!status && otherwise) otherwise();
                if (--controls_ == 0 && in_flight_ == 0) loop_->stop();
              });
  }

  SeededRng rng_;
  const uint32_t operations_;
  const std::string directory_;
  Recording out_;
  io::IoLog log_;
  std::optional<Oracle> oracle_;
  std::unique_ptr<io::Loop> loop_;
  std::unique_ptr<block::Pool> pool_;
  std::unique_ptr<volume::Volume> volume_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::unique_ptr<io::File> granted_;
  std::vector<uint32_t> attached_;
  uint32_t primary_ = 0;
  uint32_t moves_begun_ = 0;
  std::set<uint32_t> released_;
  uint64_t written_first_ = 0;
  uint32_t controls_begun_ = 0;
  uint32_t left_ = 0;
  uint32_t in_flight_ = 0;
  uint32_t controls_ = 0;
};

}  // namespace

Image make_image(const Swarm& swarm, Oracle& oracle) {
  Image out;
  out.bytes.resize(swarm.base_bytes);
  out.op = oracle.begin_write(0, swarm.base_bytes, 0);
  oracle.fill(out.op, out.bytes);
  oracle.end(out.op, true, true);
  return out;
}

Recording record(const std::string& directory, uint64_t seed, uint32_t operations) {
  Recorder recorder(directory, seed, operations);
  return recorder.run();
}

}  // namespace foreshadow::sim
