#include "sim/power_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "sim/aftermath.h"
#include "sim/disk.h"
#include "sim/recording.h"

namespace foreshadow::sim {
namespace {

using Event = io::IoEvent;

constexpr uint32_t kDrawn = 24;  // images of a cut whose subsets are too many
// Up to so many undecided sectors every subset is an image: at every cut, and at one cut in kSeldom.
constexpr size_t kOftenMax = 7;
constexpr size_t kSeldomMax = 12;
constexpr uint64_t kSeldom = 32;

// One disk as its writes and syncs have left it so far.
class Platter {
 public:
  explicit Platter(uint64_t bytes) : durable_(bytes), size_(bytes), durable_size_(bytes) {}
  const PageStore& durable() const { return durable_; }
  uint64_t size() const { return size_; }
  // What it has at least after a power cut: a file that has grown has not, until a sync says so.
  uint64_t durable_size() const { return durable_size_; }
  void preload(std::span<const std::byte> bytes) { durable_.write(0, bytes); }

  void write_began(const Event& event) { writes_.push_back({&event, 0, {}}); }
  void write_ended(const Event& event) {
    const auto found = find(event.call);
    if (event.result < 0) return;  // it stays undecided for ever
    if (!event.durable) {
      found->ended = ++ends_;
      return;
    }
    const Event& began = *found->began;
    durable_.write(began.offset, began.data);
    // What had ended before it can no longer win.
    for (Write& other : writes_) {
      if (other.ended != 0) other.supersede(began.offset, began.data.size());
    }
    writes_.erase(found);
  }
  void resized(uint64_t bytes) {
    const uint64_t end = std::min(size_, bytes);
    for (Write& write : writes_) write.supersede(end, UINT64_MAX - end);
    durable_.cut(end, bytes);
    size_ = bytes;
    durable_size_ = std::min(durable_size_, bytes);
  }
  void sync_began(uint64_t call) { syncs_[call] = {ends_, size_}; }
  void sync_ended(uint64_t call, bool ok) {
    const auto [covered, size] = syncs_.at(call);
    syncs_.erase(call);
    if (!ok) return;
    durable_size_ = std::min(size, size_);
    std::stable_sort(writes_.begin(), writes_.end(), [](const Write& a, const Write& b) {
      return (a.ended == 0 ? UINT64_MAX : a.ended) < (b.ended == 0 ? UINT64_MAX : b.ended);
    });
    size_t done = 0;
    for (; done < writes_.size() && writes_[done].ended != 0 && writes_[done].ended <= covered; ++done) {
      writes_[done].apply(durable_);
    }
    writes_.erase(writes_.begin(), writes_.begin() + static_cast<ptrdiff_t>(done));
  }

  // A sector that a power cut may have kept or not, and its bytes; without any, the size of a file that has
  // grown.
  struct Undecided {
    uint64_t offset;
    std::span<const std::byte> bytes;
    size_t write;  // which one it is part of
  };
  void collect(std::vector<Undecided>& out) const {
    std::array<std::byte, kSector> before;
    for (size_t i = 0; i < writes_.size(); ++i) {
      const Write& write = writes_[i];
      const std::span<const std::byte> data(write.began->data);
      for (size_t at = 0; at < data.size(); at += kSector) {
        if (write.dead.contains(at)) continue;
        durable_.read(write.began->offset + at, before);
        const auto bytes = data.subspan(at, kSector);
        if (std::equal(before.begin(), before.end(), bytes.begin())) continue;
        out.push_back({write.began->offset + at, bytes, i});
      }
    }
    if (size_ > durable_size_) out.push_back({size_, {}, writes_.size()});
  }

 private:
  struct Write {
    const Event* began;
    uint64_t ended;         // 0: in flight
    std::set<size_t> dead;  // sectors that a later durable write has overtaken
    void supersede(uint64_t offset, uint64_t length) {
      for (size_t at = 0; at < began->data.size(); at += kSector) {
        if (began->offset + at >= offset && began->offset + at < offset + length) dead.insert(at);
      }
    }
    void apply(PageStore& to) const {
      for (size_t at = 0; at < began->data.size(); at += kSector) {
        if (!dead.contains(at)) to.write(began->offset + at, std::span(began->data).subspan(at, kSector));
      }
    }
  };
  std::vector<Write>::iterator find(uint64_t call) {
    const auto found =
        std::find_if(writes_.begin(), writes_.end(), [&](const Write& w) { return w.began->call == call; });
    ASSERT(found != writes_.end());
    return found;
  }

  PageStore durable_;
  uint64_t size_;
  uint64_t durable_size_;
  std::vector<Write> writes_;
  std::map<uint64_t, std::pair<uint64_t, uint64_t>>
      syncs_;  // in flight: how many writes had ended when it began, and the size
  uint64_t ends_ = 0;
};

// Goes through one recording and cuts.
class Cutter {
 public:
  Cutter(const Recording& recording, uint64_t seed, const PowerCutOptions& options, PowerCutResult& result)
      : recording_(recording),
        options_(options),
        result_(result),
        rng_(seed),
        oracle_(recording.swarm.create.size, recording.swarm.create.geometry.sub_block(), 1),
        touched_(recording.swarm.base_bytes / kSector),
        size_asked_(recording.swarm.create.size),
        size_promised_(recording.swarm.create.size) {}

  void run() {
    for (const Event& event : recording_.log) {
      const bool changes = take(event);
      if (serving_ && changes && ++moments_ % options_.stride == 0) cut();
      if (!result_.violation.empty() || result_.images >= options_.images) return;
    }
  }

 private:
  struct Known {
    bool attach_asked = false, attached = false, merge_asked = false, merged = false;
    bool release_asked = false, released = false, next_primary = false;
  };

  // Whether it changes what a power cut leaves, or what must be there.
  bool take(const Event& event) {
    switch (event.kind) {
      case Event::Kind::kMark:
        return take(recording_.client[event.call]);
      case Event::Kind::kWriteBegan:
        platters_[event.file].write_began(event);
        return true;
      case Event::Kind::kWriteEnded:
        platters_[event.file].write_ended(event);
        return event.durable;
      case Event::Kind::kSyncBegan:
        platters_[event.file].sync_began(event.call);
        return false;
      case Event::Kind::kResized:
        platters_[event.file].resized(event.offset);
        return true;
      case Event::Kind::kSyncEnded:
        platters_[event.file].sync_ended(event.call, event.result >= 0);
        return true;
    }
    return false;
  }

  bool take(const ClientEvent& event) {
    using Kind = ClientEvent::Kind;
    switch (event.kind) {
      case Kind::kServing:
        serving_ = true;
        return true;
      case Kind::kWrite:
        ++result_.operations;
        touch(event);
        (void)oracle_.begin_write(event.offset, event.length, 1);
        return false;
      case Kind::kZero:
        ++result_.operations;
        touch(event);
        (void)oracle_.begin_zero(event.offset, event.length);
        return false;
      case Kind::kTrim:
        ++result_.operations;
        touch(event);
        (void)oracle_.begin_trim(event.offset, event.length);
        return false;
      case Kind::kEnd:
        oracle_.end(event.op, event.ok, event.durable);
        return event.durable;
      case Kind::kFlush:
        (void)oracle_.begin_flush();
        return false;
      case Kind::kFlushed:
        oracle_.end_flush(event.op);
        return true;
      case Kind::kMade:
        platters_.emplace_back(recording_.backings[event.backing].size);
        if (recording_.backings[event.backing].is_base) {
          const Image image = make_image(recording_.swarm, oracle_);
          image_op_ = image.op;
          platters_.back().preload(image.bytes);
        }
        known_.emplace_back();
        return false;
      case Kind::kAttachAsked:
        known_[event.backing].attach_asked = true;
        return false;
      case Kind::kAttached:
        return known_[event.backing].attached = true;
      case Kind::kMergeAsked:
        known_[event.backing].merge_asked = true;
        return false;
      case Kind::kReleaseAsked:
        known_[event.backing].release_asked = known_[event.backing].merge_asked = true;
        return false;
      case Kind::kReleased:
        return known_[event.backing].released = true;
      case Kind::kMerged:
        return known_[event.backing].merged = true;
      case Kind::kMoveAsked:
        known_[event.backing].next_primary = known_[event.backing].attach_asked = true;
        known_[event.backing].merge_asked = true;
        return false;
      case Kind::kMoved: {
        Known& old = known_[std::exchange(primary_, event.backing)];
        old.attach_asked = old.attached = old.merge_asked = old.release_asked = true;
        known_[primary_].next_primary = false;
        return known_[primary_].attached = true;
      }
      case Kind::kGrowAsked:
        size_asked_ = std::max(size_asked_, event.length);
        return false;
      case Kind::kGrown:
        size_promised_ = std::max(size_promised_, event.length);
        if (size_promised_ > oracle_.bytes()) oracle_.grow(size_promised_);
        return true;
    }
    return false;
  }
  void touch(const ClientEvent& event) {
    const uint64_t end = std::min(event.offset + event.length, recording_.swarm.base_bytes);
    for (uint64_t at = event.offset; at < end; at += kSector) touched_[at / kSector] = true;
  }

  void cut() {
    ++result_.cuts;
    undecided_.clear();
    counts_.clear();
    for (size_t i = 0; i < platters_.size(); ++i) {
      const size_t before = undecided_.size();
      if (!known_[i].released) platters_[i].collect(undecided_);
      counts_.push_back(undecided_.size() - before);
    }
    const size_t n = undecided_.size();
    kept_.assign(n, false);
    const bool all = n <= kOftenMax || (n <= kSeldomMax && result_.cuts % kSeldom == 0);
    result_.enumerated += all ? 1 : 0;
    if (all) {
      for (uint64_t choice = 0; choice < uint64_t{1} << n && go_on(); ++choice) {
        for (size_t i = 0; i < n; ++i) kept_[i] = (choice >> i & 1) != 0;
        judge();
      }
      return;
    }
    for (uint32_t i = 0; i < kDrawn && go_on(); ++i) {
      draw(i);
      judge();
    }
  }
  bool go_on() const { return result_.violation.empty() && result_.images < options_.images; }

  // The ways a cache dies: none, all, up to some write, whole writes, one torn, or any sectors.
  void draw(uint32_t which) {
    const size_t n = undecided_.size();
    const uint64_t upto = rng_.below(n + 1);
    const uint64_t odd_one = undecided_[rng_.below(n)].write;
    const uint64_t odds = 1 + rng_.below(15);
    for (size_t i = 0; i < n; ++i) {
      const uint64_t write = undecided_[i].write;
      switch (which == 0 ? 0 : which == 1 ? 1 : 2 + which % 4) {
        case 0:
          kept_[i] = false;
          break;
        case 1:
          kept_[i] = true;
          break;
        case 2:
          kept_[i] = i < upto;
          break;
        case 3:
          kept_[i] = (odds >> write % 4 & 1) != 0;
          break;
        case 4:
          kept_[i] = write == odd_one ? rng_.below(2) == 0 : write < odd_one;
          break;
        default:
          kept_[i] = rng_.below(16) < odds;
      }
    }
  }

  // Builds the disks of this choice, and has them recovered.
  void judge() {
    ++result_.images;
    World world(1, false, false);
    world.swarm = recording_.swarm;
    world.size_asked = size_asked_;
    world.size_promised = size_promised_;
    world.image_op = image_op_;
    world.touched = touched_;
    world.oracle = oracle_;
    world.oracle.crash();
    world.scheduler.set_orderly(true);
    size_t next = 0;
    for (size_t i = 0; i < platters_.size(); ++i) {
      if (known_[i].released) continue;
      PageStore content(platters_[i].durable());
      uint64_t size = platters_[i].durable_size();
      for (const size_t end = next + counts_[i]; next < end; ++next) {
        const Platter::Undecided& one = undecided_[next];
        if (kept_[next]) one.bytes.empty() ? void(size = one.offset) : content.write(one.offset, one.bytes);
      }
      const bool is_base = recording_.backings[i].is_base;
      Backing& backing = i == primary_ ? world.primary
                         : is_base     ? world.base
                                       : *world.shadows.emplace_back(std::make_unique<Backing>());
      backing.uuid = recording_.backings[i].uuid;
      backing.attach_asked = known_[i].attach_asked;
      backing.attached = known_[i].attached;
      backing.merge_asked = known_[i].merge_asked;
      backing.merged = known_[i].merged;
      backing.release_asked = known_[i].release_asked;
      backing.next_primary = known_[i].next_primary;
      backing.disk = std::make_unique<Disk>(world.scheduler, world.rng, std::move(content), size);
    }
    recover_and_judge(world);
    world.check_image();
    if (world.ok()) return;
    std::string choice;
    for (const bool one : kept_) choice += one ? '1' : '0';
    result_.violation = fmt::format("cut {}, kept {}: {}", result_.cuts, choice, world.violation);
  }

  const Recording& recording_;
  const PowerCutOptions& options_;
  PowerCutResult& result_;
  SeededRng rng_;
  Oracle oracle_;
  Oracle::OpId image_op_ = 0;
  std::vector<bool> touched_;  // sectors of the image that the client has asked to change
  uint64_t size_asked_;
  uint64_t size_promised_;
  std::vector<Platter> platters_;
  std::vector<Known> known_;
  uint32_t primary_ = 0;
  bool serving_ = false;
  uint64_t moments_ = 0;
  std::vector<Platter::Undecided> undecided_;
  std::vector<size_t> counts_;  // of undecided_, by backing
  std::vector<bool> kept_;
};

}  // namespace

PowerCutResult cut_power(const PowerCutOptions& options) {
  PowerCutResult result;
  for (uint64_t seed = options.start; result.images < options.images && result.violation.empty(); ++seed) {
    const Recording recording = record(options.directory, seed, options.operations);
    if (!recording.trouble.empty()) {
      result.violation = fmt::format("recording {}: {}", seed, recording.trouble);
      break;
    }
    ++result.recordings;
    result.squeezed += recording.squeezed;
    result.released += recording.released;
    result.grown += recording.grown;
    result.moved += recording.moved;
    result.over += recording.swarm.base_bytes > 0 ? 1 : 0;
    const uint64_t before = result.cuts;
    Cutter cutter(recording, seed, options, result);
    cutter.run();
    if (!result.violation.empty()) result.violation = fmt::format("recording {}, {}", seed, result.violation);
    if (result.cuts == before) break;  // it would go on for ever
  }
  return result;
}

}  // namespace foreshadow::sim
