#pragma once
// Rescue: volumes and the agent's notes, from directories of segments alone.
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace foreshadow::app {

struct RescuedVolume {
  std::string id;
  std::string name;  // empty: its primary cannot be told
  uint64_t size = 0;
  uint64_t stored = 0;  // bytes
  size_t segments = 0;
  bool whole = false;
  std::vector<std::string> repaired;     // or, without `apply`, what would be
  std::vector<std::string> assumptions;  // what could not be known
  std::vector<std::string> problems;     // why it cannot be served
};

struct RescueReport {
  std::vector<RescuedVolume> volumes;
  std::vector<std::string> strangers;  // files in the directories that are no backing by their name
  std::string notes;                   // what became of agent.json
};

// `state` gets an agent.json that knows the directories as pools, and the volumes; one that is there is added
// to. Writes nothing without `apply`. Blocks. kBusy while an agent runs on `state`, or a backing is in use.
Result<RescueReport> rescue(const std::vector<std::string>& directories, const std::string& state,
                            bool apply);

}  // namespace foreshadow::app
