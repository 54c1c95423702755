#pragma once
// The composite volume: one logical block device over segments. See ARCHITECTURE.md for the walk of a write,
// and docs/format.md for what is on disk.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "base/types.h"
#include "base/uuid.h"
#include "block/block_device.h"
#include "block/io_stats.h"
#include "extent/label.h"
#include "extent/recovery.h"
#include "extent/superblock.h"
#include "io/executor.h"
#include "io/file.h"
#include "io/task.h"
#include "volume/options.h"
#include "volume/scrubber.h"
#include "volume/squeeze.h"

namespace foreshadow::volume {

using extent::SegmentRole;
using extent::SegmentState;

// A segment's backing, opened with the writer's lock.
struct SegmentFile {
  Uuid uuid;
  std::unique_ptr<io::File> file;
  bool is_base = false;  // an image that the volume lies over: it bears no label
};

struct SegmentInfo {
  SegmentId id;
  Uuid uuid;
  SegmentRole role = SegmentRole::kPrimary;
  SegmentState state = SegmentState::kMerged;
  uint64_t capacity = 0;     // bytes of data
  uint64_t used = 0;         // bytes of allocated clusters
  uint64_t backing = 0;      // bytes of its backing, metadata included
  uint64_t occupied = 0;     // of those, what `capacity` takes; the rest is a growth that a crash cut short
  uint64_t backing_max = 0;  // the largest that resize_segment() can make it
  bool has_journal = false;  // made to be the primary: it is, was, or is to be
};

struct Usage {
  uint64_t size = 0;  // logical
  // Data bytes of every segment, the warm one included; of a base what is used: nobody else has the rest.
  uint64_t capacity = 0;
  uint64_t used = 0;          // allocated clusters: what runs out
  uint64_t outside_base = 0;  // of those, what does not lie in the base; all of it if there is none
  uint64_t data = 0;          // mapped sub-blocks
  uint64_t physical = 0;      // bytes of the backings, metadata included; an image is none
  uint64_t map_memory = 0;    // bytes of memory the map takes
  Squeezed squeezed;
};

// A sub-block whose checksum does not fit its data.
struct CorruptData {
  SegmentId segment;
  uint64_t offset = 0;  // in the segment's backing
  Lcn cluster;          // of the volume
};

// Told from the executor, at once, and not from inside submit(). Everything is a hint: nothing waits for the
// listener.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void on_redirected(SegmentId to) = 0;  // a warm shadow became active
  virtual void on_shadow_full(
      SegmentId segment) = 0;  // the active shadow has no free cluster, or was replaced
  virtual void on_hold_began() = 0;
  virtual void on_hold_ended() = 0;
  virtual void on_pace_began() {}  // in the backpressure band: first touches are delayed
  virtual void on_pace_ended() {}
  virtual void on_read_only(const std::string& reason) = 0;
  // Something that is stored cannot be read as it was written; `what` names it.
  virtual void on_damaged(const std::string& what) { (void)what; }
  // What was read is not what was written; the client got an error instead of it.
  virtual void on_corrupt_data(const CorruptData& where) { (void)where; }
};

// The background work that changes where clusters lie; one at a time.
enum class JobKind : uint8_t { kNone, kFold, kDrain, kResize, kSqueeze, kMove };
struct JobInfo {
  JobKind kind = JobKind::kNone;
  Uuid segment;
  uint64_t moved = 0;  // bytes, so far
  uint64_t total = 0;  // bytes there were to move when it began
};

class Volume : public block::BlockDevice {
 public:
  // Writes label, superblock and an empty journal to a fresh (all-zero) primary and makes them durable. Does
  // not open. With `options.base` it becomes the head of a volume over that image, which is not touched.
  static io::Task<Status> format_primary(io::File& file, const CreateOptions& options, Uuid segment);
  // Whether an image may become a base: kInvalidArgument if it is smaller than a cluster, kAlreadyExists if
  // it is a segment of some volume itself. Reads only.
  static io::Task<Status> check_image(io::File& image, extent::Geometry geometry);
  // Writes the label of a shadow of `volume` to a fresh (all-zero) backing and makes it durable. Safe to
  // repeat.
  static io::Task<Status> format_shadow(io::File& file, Uuid volume, Uuid segment, extent::Geometry geometry,
                                        bool checksums);
  // As format_shadow(), of a segment that can become the primary of the volume that `options` tell of.
  static io::Task<Status> format_next_primary(io::File& file, const CreateOptions& options, Uuid segment);

  struct Opened {
    std::unique_ptr<Volume> volume;
    std::vector<Uuid> orphans;  // backings that name this volume and were never attached: safe to remove
  };
  // Recovers and takes a new epoch. `segments` are all backings that name the volume, in any order. kCorrupt
  // names block and reason; kNotFound a segment that the volume has and `segments` has not. Nothing but the
  // epoch is written on failure.
  static io::Task<Result<Opened>> open(io::Executor& executor, std::vector<SegmentFile> segments,
                                       RunOptions options);

  // BlockDevice.
  block::DeviceInfo info() const override = 0;
  void submit(block::Request& request) override = 0;

  virtual const Uuid& id() const = 0;
  virtual const std::string& name() const = 0;
  virtual extent::Geometry geometry() const = 0;
  virtual Redirect redirect() const = 0;
  virtual bool checksums() const = 0;                 // of data
  virtual void set_listener(Listener* listener) = 0;  // not owned; nullptr to leave

  // The shadow's life. Every call is idempotent: a repeat of what is done succeeds and changes nothing.
  // Attach a formatted shadow: durable in the segment table, state warm. kLimit at limits::kSegments.
  virtual io::Task<Status> attach_shadow(SegmentFile segment) = 0;
  // Redirect new writes into a warm shadow now. A local map change; needs no I/O to take effect.
  virtual Status activate_shadow(Uuid segment) = 0;
  // prepare: seal and flush; adopt: one journal record. Acknowledged when durable. Cost does not depend on
  // the shadow's size.
  virtual io::Task<Status> merge_shadow(Uuid segment) = 0;

  // The way back, each in the background of whatever is served; a repeat goes on where a crash has ended it.
  // fold: everything in the shadow is copied into the primary, whose backing grows to `primary_bytes`
  // meanwhile, unless it is as large. drain: into whatever is merged and has room.
  // On success the segment is no part of the volume any more, its file is closed, and its backing may be
  // removed: every block it held is durable elsewhere. kFailedPrecondition: the primary must grow first;
  // kNoSpace: the others have no room, and the segment stays. kNotFound: it is gone already.
  virtual io::Task<Status> fold_shadow(Uuid segment, uint64_t primary_bytes) = 0;
  virtual io::Task<Status> drain_segment(Uuid segment) = 0;
  // Makes `next`, from format_next_primary() (or a null file, once attached), the primary; the one so far is
  // then draining, for drain_segment(). kNoSpace: what it holds would find no room; kFailedPrecondition: the
  // volume lies over an image. A repeat succeeds.
  virtual io::Task<Status> replace_primary(SegmentFile next) = 0;
  // Makes the backing of a segment larger, up to what its label allows, or smaller, after moving what lies
  // past the new end.
  virtual io::Task<Status> resize_segment(Uuid segment, uint64_t bytes) = 0;
  virtual JobInfo job() const = 0;
  // Compresses what is raw in a sealed or merged segment, packs it, and gives the space back to its
  // allocator. A job as those above, which lets others go first. Whatever ends it early (close, a full
  // volume: kNoSpace) leaves what was done, and a repeat goes on from there. Durable when it succeeds.
  virtual io::Task<Result<SqueezeReport>> squeeze_segment(Uuid segment, SqueezeOptions options) = 0;
  virtual SqueezeReport squeeze_progress() const = 0;
  // Ends a pass, and every later one, with kShutdown: the volume is to be closed.
  virtual void stop_squeezing() = 0;
  // Enlarges what clients see. Durable before info() shows it, and never undone: a smaller size is
  // kInvalidArgument, the present one succeeds. A multiple of the sub-block.
  virtual io::Task<Status> grow(uint64_t size) = 0;
  virtual void set_wall(const WallPolicy& policy) = 0;  // at once, for what is held now as well
  virtual WallPolicy wall() const = 0;
  // Before an end: a fold, drain or resize under way stops with kShutdown, and none begins any more. Serves
  // on.
  virtual void stop_jobs() = 0;

  virtual io::Task<Status> flush() = 0;       // as a kFlush request
  virtual io::Task<Status> checkpoint() = 0;  // fold the journal into the tables
  // With `repair`, first makes good what extent/repair.h can prove, as far as nothing is in service from it.
  // Proves or refutes every invariant against what is on disk as of the last commit; the volume serves on
  // meanwhile.
  virtual io::Task<Result<extent::CheckReport>> check(bool repair = false) = 0;
  // Reads everything that is stored, verifies what has a checksum and gives one to what has none; see
  // scrubber.h. Returns at the end of the volume or after stop_scrub(); `resume` of what it returns, and of
  // scrub_progress(), is where to go on, in another life too. kBusy while one runs.
  virtual io::Task<Result<ScrubProgress>> scrub(ScrubOptions options) = 0;
  virtual void stop_scrub() = 0;
  virtual const ScrubProgress& scrub_progress() const = 0;
  // Fails what is held, waits for what is in flight, flushes, checkpoints. submit() then completes with
  // kShutdown. The Volume may be destroyed afterwards. An error is what could not be made durable.
  virtual io::Task<Status> close() = 0;

  // What it lies over, if anything.
  virtual const std::optional<extent::BaseArea>& base() const = 0;
  virtual Usage usage() const = 0;
  virtual std::vector<SegmentInfo> segments() const = 0;
  virtual bool has_warm_shadow() const = 0;
  virtual const block::IoStats& stats() const = 0;
  virtual const std::string& read_only_reason() const = 0;  // empty while healthy
};

}  // namespace foreshadow::volume
