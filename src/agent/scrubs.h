#pragma once
// The scrubs of the agent's volumes: begun on an intent, gone on with after a restart, and noted in
// agent.json.
#include <map>
#include <memory>

#include "agent/await.h"
#include "agent/catalog.h"
#include "agent/clock.h"
#include "agent/volume_host.h"
#include "base/error.h"
#include "io/loop.h"

namespace foreshadow::agent {

// On the loop. Notes are taken under the structure gate: at the beginning, every few seconds, and at the end.
// A volume that is closed ends its scrub; what is noted of it stays "running", and so it goes on next time.
class Scrubs {
 public:
  Scrubs(Catalog& catalog, Gate& structure, EventSink& sink, Clock clock);
  ~Scrubs();

  // Goes on where a stopped one was, unless `restart`. Succeeds if one runs.
  io::Task<Status> start(std::shared_ptr<VolumeHost> host, uint64_t rate, bool restart);
  io::Task<Status> stop(std::shared_ptr<VolumeHost> host);
  // Those that were running when the agent stopped.
  io::Task<Status> resume(std::map<Uuid, std::shared_ptr<VolumeHost>> hosts);
  // Once every volume is closed: returns when nothing runs any more.
  io::Task<Status> finish();

 private:
  io::Task<Status> run(std::shared_ptr<VolumeHost> host, state::ScrubRecord from);
  io::Task<Status> note(Uuid volume, state::ScrubRecord record);
  io::Task<Status> note_progress();
  void spawn(std::shared_ptr<VolumeHost> host, state::ScrubRecord from);
  void arm();

  Catalog& catalog_;
  Gate& structure_;
  EventSink& sink_;
  Clock clock_;
  struct Running {
    std::shared_ptr<VolumeHost> host;
    bool stopped = false;  // by somebody's wish
  };
  std::map<Uuid, Running> running_;
  io::Timer timer_;
  bool noting_ = false;
  bool finishing_ = false;
  uint32_t tasks_ = 0;
  Signal idle_;
};

}  // namespace foreshadow::agent
