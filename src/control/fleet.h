#pragma once
// Everything control knows now: agents, pools, volumes.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "control/agent_link.h"
#include "control/volume_model.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::control {

struct Agent {
  std::string id;
  std::string host;
  std::string version;
  AgentLink* link = nullptr;  // null while it is away; owned by its session
};

// A plain table with look-ups; not thread-safe, guarded by the core's mutex. Pools are named per agent: two
// agents may each have a "default".
class Fleet {
 public:
  using PoolKey = std::pair<std::string, std::string>;  // agent, name

  std::map<std::string, Agent> agents;  // by id
  std::map<PoolKey, v1::Pool> pools;
  std::map<std::string, std::unique_ptr<VolumeModel>> volumes;  // by id

  VolumeModel* volume(const std::string& id) const;
  VolumeModel* volume_named(const std::string& name) const;
  // Null unless the agent is connected.
  AgentLink* link(const std::string& agent) const;
  std::vector<std::string> connected() const;  // ids
  const v1::Pool* pool(const std::string& agent, const std::string& name) const;
  std::vector<const v1::Pool*> pools_named(const std::string& name) const;
  std::vector<const VolumeModel*> volumes_of(const std::string& agent) const;
  // "a, b" or "none", for messages.
  std::string pool_names() const;
  std::string volume_names() const;
};

}  // namespace foreshadow::control
