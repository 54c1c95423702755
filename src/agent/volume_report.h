#pragma once
// A volume in the words of the API.
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "agent/catalog.h"
#include "base/uuid.h"
#include "foreshadow/v1/agent.pb.h"
#include "foreshadow/v1/types.pb.h"
#include "io/task.h"
#include "volume/volume.h"

namespace foreshadow::agent {

// Where a volume is reached and kept: what the volume itself does not know.
struct Whereabouts {
  std::string agent_id;
  std::string uri;                      // empty while it is not served
  std::map<Uuid, std::string> pool_of;  // by segment
  v1::SqueezeMode squeeze = v1::SQUEEZE_MODE_OFF;
  v1::VolumePolicy policy;
};

v1::Volume make_report(const volume::Volume& volume, const Whereabouts& whereabouts);
v1::Squeezed to_api(const volume::Squeezed& squeezed);
// What would be in use if nothing were squeezed.
uint64_t logical_of(const volume::Usage& usage);

// What can still be told of a volume that could not be opened: from the label and superblock of its primary
// where they can be read, else only its id and `name`. Reads; never writes. `reason` becomes
// read_only_reason.
io::Task<v1::Volume> survey(Catalog& catalog, std::vector<Backing> backings, std::string name,
                            std::string reason);

// A scrub's place in a note, and what a report says of a volume's scrub; `record` may be null.
void put_point(const volume::ScrubPoint& point, uint64_t total, state::ScrubRecord& record);
v1::Scrub make_scrub_report(const volume::Volume& volume, const state::VolumeRecord* record);
// The capacity of the segments that are being emptied.
uint64_t leaving_capacity(const volume::Volume& volume);
// False, and `out` as it was, while nothing runs.
bool report_job(const volume::Volume& volume, v1::Job* out);

v1::CheckReport make_check_report(const extent::CheckReport& check);

v1::SegmentRole to_api(extent::SegmentRole role);
v1::SegmentState to_api(extent::SegmentState state);
v1::JobKind to_api(volume::JobKind kind);
v1::RedirectMode to_api(extent::Redirect redirect);

// Where the exports are served on this machine.
struct NbdSocket {
  std::string path;
  bool tls = false;
};
// nbd+unix:///NAME?socket=PATH, the path percent-encoded; nbds+unix under TLS.
std::string nbd_unix_uri(std::string_view name, const NbdSocket& socket);

}  // namespace foreshadow::agent
