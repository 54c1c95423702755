#pragma once
// Squeeze: the background pass that turns raw clusters of one segment into blobs, packed up to three to a
// container, and gives the raw clusters back.
//
// A cluster is taken if all of it is mapped, raw, and nothing writes to it. It is read, compressed on the
// worker thread, waits with others until some of them fill a container well, is written with them into a
// cluster that was free, and then its map entry is switched by one record. A container that has lost all
// members but one is emptied the same way: its last blob is packed anew, as it is.
//
// The foreground never waits. While a raw cluster is on its way it is in the MoveTable without a target: a
// write or a trim goes on in place and marks it dirty, and what is dirty is dropped, and stays as it was.
// A squeezed member needs no mark: a blob never changes, so it is enough that the map still names its old
// place.
//
// Why a crash anywhere is safe.
//   - A container goes into a cluster that is free in the durable map, so until its records are durable the
//     old map stands, and what it maps has not been touched.
//   - A record that names the container is appended when the container is written; the commit syncs the data
//     before it writes the record. So a durable record never names a container that is not durable.
//   - The switch of one cluster is one record: before it the cluster is raw, after it squeezed, as a whole.
//     The members of one container need not be switched together: each has slots of its own.
//   - The raw cluster, or the container that was left, is free only when that record is durable and every
//     request has ended that was in the cluster when it was switched (departures.h).
//   - No state of the pass is on disk. What is squeezed is in the map, and the next pass goes on from there.
//   - Squeezed clusters are known to the superblock's feature bits before the first of them is recorded.
#include <coroutine>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "extent/container.h"
#include "extent/map.h"
#include "io/buffer.h"
#include "io/executor.h"
#include "io/task.h"
#include "volume/move_table.h"
#include "volume/relocator.h"
#include "volume/segment_set.h"
#include "volume/squeeze.h"
#include "volume/squeeze_codec.h"

namespace foreshadow::volume {

class Engine;

// A part of the engine. One pass at a time; its memory is bounded by limits::kSqueezeInFlight and
// kSqueezeWaiting clusters.
class Squeezer {
 public:
  explicit Squeezer(Engine& engine);

  // Where a pass is, from run to run.
  struct Pass {
    Uuid segment;
    SqueezeOptions options;
    SqueezeReport report;
    Lcn cursor;
    bool finished = false;
  };
  // Until the pass is finished, another job wants its turn, or it can go no further.
  io::Task<Status> run(Pass& pass);
  void stop() { stopped_ = true; }
  const SqueezeReport& report() const { return report_; }  // of the pass that runs, or ran last
  // Moves what is squeezed out of the way of a relocation (squeezer_evacuate.cc).
  io::Task<Status> evacuate(const Evacuation& what);

 private:
  // A cluster on its way.
  struct Cargo {
    Lcn lcn;
    Pcn source;         // the raw cluster, or the container that is left
    extent::Pack from;  // raw, or where in that container
    extent::Pack to;    // slots and codec of its blob; the slot is chosen with its container
    io::Buffer blob;
    bool given_up = false;  // written to meanwhile, or it cannot be read
  };
  struct Parcel {
    Pcn container;
    std::vector<Cargo> members;
    io::Buffer image;
    size_t image_bytes = 0;
    bool written = false;
  };
  struct Transfer : io::Op {
    Squeezer* owner = nullptr;
    int outcome = 0;
  };
  // Waits for all of transfers_.
  struct AwaitTransfers {
    Squeezer& self;
    bool await_ready() const noexcept { return self.transfers_left_ == 0; }
    void await_suspend(std::coroutine_handle<> h) { self.transfers_waiter_ = h; }
    void await_resume() const noexcept {}
  };

  io::Task<Status> pass(Uuid segment);
  bool must_yield() const;
  io::Task<Status> announce();
  // Why the pass must end before its end; nothing if it need not.
  Status may_go_on(const Uuid& segment) const;

  // Reading and compressing.
  void gather(const Uuid& segment);  // from cursor_ on, at most one turn's worth of looking
  bool take(const Segment& segment, Lcn lcn);
  uint64_t place_of(const Cargo& cargo) const;        // in the file of its segment
  std::span<std::byte> memory_of(size_t index) const;  // of fresh_, what it is read into
  io::Task<Status> load();
  io::Task<Status> compress();
  void compress_one(size_t index);  // on the worker thread

  // Packing.
  io::Task<Status> pack(Uuid segment, bool all);
  io::Task<Status> load_parcels(Uuid segment, bool all, std::vector<Parcel>& parcels);
  bool pick(Parcel& parcel);
  size_t best_partner(uint32_t room) const;
  std::pair<size_t, size_t> best_partners(uint32_t room) const;
  Cargo take_waiting(size_t index);
  io::Task<Result<Pcn>> take_cluster(Uuid segment);
  Pcn cluster_elsewhere();
  io::Task<Status> write(std::vector<Parcel>& parcels);
  // Until data checksums allow a write there, which then is to be submitted in the same turn.
  io::Task<Status> may_write(Segment& segment, uint64_t at, uint64_t length);
  void note_checksums(const Parcel& parcel);
  io::Task<Status> deliver(Parcel& parcel);
  void switch_member(const Cargo& cargo, Pcn container, uint32_t slot);
  bool is_true(const Cargo& cargo) const;  // nothing has happened to the cluster since
  void drop(const Cargo& cargo);
  void drop_stale();

  // Evacuating.
  io::Task<Status> fill_overlay(Lcn lcn);
  io::Task<Status> move_container(Pcn from, Pcn to);
  io::Task<Status> journal_room();

  io::Task<Status> pace(MonoTime began);
  Transfer& next_transfer();

  Engine& engine_;
  SqueezeOptions options_;
  SqueezeReport report_;
  BlobWriter writer_;
  std::vector<Cargo> fresh_;     // of this round, not compressed yet
  std::vector<Cargo> waiting_;   // blobs that have no container yet
  std::vector<Cargo> odd_;       // of those, the ones that found no partner this time
  std::vector<io::Buffer> raw_;  // one for each of fresh_
  io::Buffer scratch_;           // the worker's
  std::vector<std::unique_ptr<Transfer>> transfers_;
  size_t transfers_used_ = 0;
  uint32_t transfers_left_ = 0;
  std::coroutine_handle<> transfers_waiter_;
  Lcn cursor_;
  bool stopped_ = false;
  uint32_t since_commit_ = 0;  // containers
};

}  // namespace foreshadow::volume
