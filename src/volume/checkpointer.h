#pragma once
// Folds the journal into the segment tables, so that its space can be used again. extent/recovery.h has the
// crash argument.
#include <span>
#include <string>

#include "base/error.h"
#include "extent/superblock.h"
#include "extent/table_page.h"
#include "io/executor.h"
#include "io/task.h"
#include "volume/await.h"
#include "volume/committer.h"
#include "volume/segment_set.h"

namespace foreshadow::volume {

// One checkpoint at a time, in the background; foreground writes go on. Only what is durable in the journal
// goes into a page, so a page never runs ahead of the data it maps.
class Checkpointer {
 public:
  // `super` is what is on disk now; `super.sequence` the highest sequence any copy carries.
  Checkpointer(io::Executor& executor, SegmentSet& segments, Committer& committer, const Uuid& volume,
               extent::Geometry geometry, extent::Superblock super);
  ~Checkpointer();

  void start_within(Nanos time);  // at the latest then, unless one has begun before
  void start();                   // in the background, unless one is running; a failure poisons
  io::Task<Status> run_now();     // and wait for it
  // Held: no checkpoint runs until unblock().
  io::Task<Status> block();
  void unblock();
  io::Task<Status> close();  // no checkpoint ever again; who waits for one is told
  // The next superblock, and every later one, names these feature bits.
  void require(uint64_t features) { required_ |= features; }
  // Held: this is what is on disk now, in the primary of now.
  void moved(extent::Superblock super) { super_ = std::move(super); }
  bool running() const { return running_; }
  const extent::Superblock& super() const { return super_; }

 private:
  io::Task<Status> run();
  using DirtyChecksums = std::vector<std::vector<uint32_t>>;  // pages, by segment
  DirtyChecksums freeze_checksums(const std::vector<extent::SegmentRow>& rows);
  io::Task<Status> write_pages(const Committer::Frozen& frozen, const DirtyChecksums& checksums,
                               CkptSeq sequence, uint64_t* digest);
  io::Task<Status> write_page(const extent::DirtyPages& pages, extent::DirtyPages::Page page,
                              CkptSeq sequence, uint64_t* digest);
  io::Task<Status> write_checksum_pages(uint32_t segment_index, std::span<const uint32_t> pages,
                                        CkptSeq sequence, uint64_t* digest);
  void capture_checksums(uint32_t segment_index, uint32_t page, CkptSeq sequence, uint64_t* digest);
  io::Task<Status> drop_released(extent::Superblock& next);
  io::Task<Result<extent::PlaceContent>> read_page(Segment& segment, uint32_t page);
  io::Detached run_detached();

  io::Executor& executor_;
  SegmentSet& segments_;
  Committer& committer_;
  const Uuid volume_;
  const extent::Geometry geometry_;
  extent::Superblock super_;
  io::Buffer page_buffer_;
  io::Buffer checksum_buffer_;  // of the pages in writes_; taken when the first is written
  PendingWrites writes_;
  struct NewPlace {
    uint32_t segment_index;
    uint32_t page;
    uint8_t place;
  };
  std::vector<NewPlace> new_places_;
  uint64_t required_ = 0;
  struct NewChecksums {
    uint32_t segment_index;
    uint32_t page;
    uint8_t place;
    bool known;
    uint64_t digest;
  };
  std::vector<NewChecksums> new_checksums_;
  io::Timer timer_;
  bool running_ = false;
  bool again_ = false;
  bool closed_ = false;
  uint32_t blocked_ = 0;
  Status last_;
  io::Event ended_;
};

}  // namespace foreshadow::volume
