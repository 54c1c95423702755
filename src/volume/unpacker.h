#pragma once
// Squeezed clusters, as they are read: slots from a container, checked, decoded, and kept for a while.
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "extent/geometry.h"
#include "extent/pack.h"
#include "io/buffer.h"
#include "io/executor.h"
#include "volume/checksums.h"
#include "volume/segment_set.h"
#include "volume/squeeze_codec.h"

namespace foreshadow::volume {

struct IoTask;

// Some bytes of a squeezed cluster that a request wants. Its owner keeps it in place until `done`.
struct Unpack {
  Lcn lcn;
  Pcn container;
  extent::Pack pack;
  uint32_t from = 0;  // within the cluster
  std::span<std::byte> into;
  void (*done)(Unpack* part, Code code) = nullptr;  // from the executor, not from inside want()
  IoTask* task = nullptr;
  Unpack* next = nullptr;
};

// Several requests for one cluster share one read and one decoding. At most limits::kUnpacksInFlight are
// under way, the others wait; limits::kDecodedClusters decoded ones are kept. The memory that a blob is
// decoded into belongs to that decoding alone until it is done, on whatever thread it runs.
//
// A container never changes while it is one, so what is kept stays true until its cluster is given to
// somebody else: forget() then. Whoever reads one must keep it from being given away, as for any other place.
//
// A blob's own checksum says that it is a blob of that cluster, not that it is the last one written there:
// where a container's write was lost, an older one may lie in its place, with a blob of the same cluster in
// the same slots. So what is known of the place (volume/checksums.h) is asked as well.
class Unpacker {
 public:
  // `on_damaged` is told what is wrong with a blob, and whose it is.
  Unpacker(io::Executor& executor, SegmentSet& segments, extent::Geometry geometry,
           const Checksums& checksums, std::function<void(std::string)> on_damaged);
  ~Unpacker();  // asserted: nothing is under way

  // True: it was at hand, and `part.into` is filled. False: part.done will be called; kIo if the blob cannot
  // be read, kCorrupt if it is damaged. `aside`: decode on the worker thread, for it is one of many.
  bool want(Unpack& part, bool aside);
  void forget(Pcn container);

 private:
  struct Fetch : io::Op {
    Unpacker* owner = nullptr;
    Lcn lcn;
    Pcn container;
    extent::Pack pack;
    bool aside = false;
    io::Buffer blob;
    io::Buffer cluster;
    Status decoded;
    Unpack* waiting = nullptr;
  };
  struct Kept {
    Pcn container;  // 0: empty
    uint32_t slot = 0;
    uint64_t used_at = 0;
    io::Buffer cluster;
  };

  Kept* find_kept(Pcn container, uint32_t slot);
  Fetch* find_fetch(const Unpack& part);
  Fetch& idle_fetch();
  std::span<const std::byte> blob_of(const Fetch& fetch) const;
  void decode(Fetch& fetch, BlobReader& reader);
  void on_decoded(Fetch& fetch);
  void start_next();
  uint64_t place_of(const Fetch& fetch) const;
  void on_read(Fetch& fetch, int result);
  void finish(Fetch& fetch, Code code);
  void keep(Fetch& fetch);

  io::Executor& executor_;
  SegmentSet& segments_;
  const extent::Geometry geometry_;
  const Checksums& checksums_;
  const std::function<void(std::string)> on_damaged_;
  BlobReader here_;   // on the executor
  BlobReader aside_;  // on the worker
  std::vector<std::unique_ptr<Fetch>> fetches_;
  std::vector<Fetch*> idle_;
  std::vector<Fetch*> under_way_;
  std::deque<Fetch*> queued_;
  std::vector<Kept> kept_;
  uint64_t clock_ = 0;
};

}  // namespace foreshadow::volume
