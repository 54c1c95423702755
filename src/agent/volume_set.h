#pragma once
// Every volume the agent serves, and those it found and cannot serve.
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/await.h"
#include "agent/catalog.h"
#include "agent/clock.h"
#include "agent/volume_host.h"
#include "base/names.h"
#include "foreshadow/v1/agent.pb.h"
#include "nbd/server.h"

namespace foreshadow::agent {

struct VolumeSpec {
  Uuid id;
  std::string name;
  uint64_t size = 0;
  uint64_t primary_size = 0;
  std::string pool;
  extent::Redirect redirect = extent::Redirect::kAllocating;
  uint32_t hold_timeout_ms = 0;  // 0: the default
  v1::SqueezeMode squeeze = v1::SQUEEZE_MODE_OFF;
  bool checksums = false;
  std::optional<v1::Backpressure> backpressure;
  std::string device;  // of an `over` volume: the image it lies over
  v1::VolumePolicy policy;
};

// A volume that was found and could not be opened. Its data is left as it is; the others are served on.
struct BrokenVolume {
  v1::Volume report;  // read_only_reason says why
  std::vector<Backing> backings;
};

// On the loop. open_found, create, remove and set_policy are for one caller at a time (the agent's structure
// gate). Exports each volume under its name.
class VolumeSet {
 public:
  VolumeSet(Catalog& catalog, nbd::Server& server, EventSink& sink, Clock clock, Rng& rng,
            NbdSocket nbd_socket);

  // Opens what the pools hold and is not open yet; finishes what a crash cut in two; removes backings that
  // were never attached. A volume that cannot be opened is logged, told as an event and kept as broken; that
  // is no error.
  io::Task<Status> open_found();
  // Succeeds with what is there if the volume exists already under the same name.
  io::Task<Result<std::shared_ptr<VolumeHost>>> create(VolumeSpec spec);
  // Takes the export away from its clients, closes the volume and removes its backings, never an image that
  // it lies over. Succeeds if there is none. kFailedPrecondition, unless forced, while data that is not in
  // the image would be lost.
  io::Task<Status> remove(Uuid id, bool force);
  // At once, and noted for the next start. 0 and nullptr leave what they are about as it is.
  io::Task<Status> set_wall(Uuid id, uint32_t hold_timeout_ms, const v1::Backpressure* backpressure);
  // Makes good what can be proven of a volume that could not be opened, and serves it if that was enough.
  io::Task<Result<extent::CheckReport>> repair_broken(Uuid id);
  // Durable in the notes, then reported. kNotFound if the volume is not served.
  io::Task<Status> set_policy(Uuid id, v1::VolumePolicy policy);
  // Before close_all(): the long work on every volume stops soon.
  void stop_jobs();
  // Closes every volume: flushed and checkpointed. The first error, the rest are logged. The NBD server must
  // be stopping.
  io::Task<Status> close_all();

  std::shared_ptr<VolumeHost> find(const Uuid& id) const;
  const BrokenVolume* find_broken(const Uuid& id) const;
  const std::map<Uuid, std::shared_ptr<VolumeHost>>& hosts() const { return hosts_; }
  // All, the broken ones included if their name and size are known.
  std::vector<v1::Volume> reports() const;

 private:
  io::Task<Status> open_group(Uuid id, std::vector<Backing> backings);
  io::Task<Result<volume::Volume::Opened>> open_volume(Uuid id, std::vector<Backing> backings);
  using Locked = Result<std::vector<std::unique_ptr<io::File>>>;
  io::Task<Locked> lock_all(std::vector<Backing> backings);
  io::Task<Status> remove_unserved(std::vector<Backing> backings);
  io::Task<Status> remove_backings(std::vector<Backing> backings);
  io::Task<Status> remove_orphans(const volume::Volume& volume, std::vector<Uuid> orphans,
                                  std::vector<Backing> backings);
  io::Task<Status> mark_broken(Uuid id, std::vector<Backing> backings, Error error);
  io::Task<Status> remove_rest(Uuid id, Uuid last);
  Status check_removal(const Uuid& id, bool force) const;
  // The steps of create() that leave something to take back.
  io::Task<Result<std::shared_ptr<VolumeHost>>> make(VolumeSpec spec, Backing primary,
                                                     volume::SegmentFile image);
  // What `spec` lies over, judged, and the sizes that follow from it. Empty without a device.
  io::Task<Result<volume::SegmentFile>> open_image(VolumeSpec& spec);
  std::vector<std::pair<std::string, std::string>> images() const;  // path, and whose it is
  Status check_device(const VolumeSpec& spec) const;
  // Adds the image that a volume of these backings lies over.
  io::Task<Status> add_base(std::vector<volume::SegmentFile>& files);
  // Takes the volume on success only.
  Result<std::shared_ptr<VolumeHost>> serve(std::unique_ptr<volume::Volume>& volume,
                                            const std::vector<Backing>& backings);
  io::Task<Status> note_phase(Uuid id, std::string name, state::VolumePhase phase);
  bool all_pools_usable() const;
  Status check_spec(const VolumeSpec& spec) const;
  volume::RunOptions run_options(const Uuid& id) const;

  Catalog& catalog_;
  io::Loop& loop_;
  nbd::Server& server_;
  EventSink& sink_;
  Clock clock_;
  Rng& rng_;
  NbdSocket nbd_socket_;
  std::map<Uuid, std::shared_ptr<VolumeHost>> hosts_;
  std::map<Uuid, BrokenVolume> broken_;
};

}  // namespace foreshadow::agent
