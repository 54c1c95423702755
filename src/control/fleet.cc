#include "control/fleet.h"

#include <set>

namespace foreshadow::control {
namespace {

// A message names at most this many alternatives; a fleet may have a thousand.
constexpr size_t kNamesShown = 16;

std::string join(const std::set<std::string>& names) {
  std::string out;
  size_t shown = 0;
  for (const std::string& name : names) {
    if (shown++ == kNamesShown) return out + ", ...";
    out += (out.empty() ? "" : ", ") + name;
  }
  return out.empty() ? "none" : out;
}

}  // namespace

VolumeModel* Fleet::volume(const std::string& id) const {
  const auto found = volumes.find(id);
  return found == volumes.end() ? nullptr : found->second.get();
}

VolumeModel* Fleet::volume_named(const std::string& name) const {
  for (const auto& [id, model] : volumes) {
    if (model->name() == name) return model.get();
  }
  return nullptr;
}

AgentLink* Fleet::link(const std::string& agent) const {
  const auto found = agents.find(agent);
  return found == agents.end() ? nullptr : found->second.link;
}

std::vector<std::string> Fleet::connected() const {
  std::vector<std::string> out;
  for (const auto& [id, agent] : agents) {
    if (agent.link != nullptr) out.push_back(id);
  }
  return out;
}

const v1::Pool* Fleet::pool(const std::string& agent, const std::string& name) const {
  const auto found = pools.find({agent, name});
  return found == pools.end() ? nullptr : &found->second;
}

std::vector<const v1::Pool*> Fleet::pools_named(const std::string& name) const {
  std::vector<const v1::Pool*> out;
  for (const auto& [key, pool] : pools) {
    if (key.second == name) out.push_back(&pool);
  }
  return out;
}

std::vector<const VolumeModel*> Fleet::volumes_of(const std::string& agent) const {
  std::vector<const VolumeModel*> out;
  for (const auto& [id, model] : volumes) {
    if (model->agent() == agent) out.push_back(model.get());
  }
  return out;
}

std::string Fleet::pool_names() const {
  std::set<std::string> names;
  for (const auto& [key, pool] : pools) names.insert(key.second);
  return join(names);
}

std::string Fleet::volume_names() const {
  std::set<std::string> names;
  for (const auto& [id, model] : volumes) names.insert(model->name());
  return join(names);
}

}  // namespace foreshadow::control
