#pragma once
// The agent's state directory: a lock, and one small file.
#include <string>
#include <utility>

#include "agent/agent_state.pb.h"
#include "base/error.h"
#include "io/state_directory.h"

namespace foreshadow::agent {

// Locked for as long as it lives. Every call may come from any one thread at a time; all of them block.
class StateDir {
 public:
  // Makes the directory (mode 0700) if it is absent. kBusy, naming it, while another process holds it.
  static Result<StateDir> open(const std::string& directory);

  // An empty message if there is no file yet; kCorrupt, naming the file, if it cannot be understood.
  Result<state::AgentState> load() const { return load_state(directory_.path()); }
  // Durable on return; a crash leaves the old file or the new one, whole.
  Status save(const state::AgentState& state) const;
  const std::string& path() const { return directory_.path(); }

  // Without the lock, for those who only look.
  static Result<state::AgentState> load_state(const std::string& directory);

 private:
  explicit StateDir(io::StateDirectory directory) : directory_(std::move(directory)) {}
  io::StateDirectory directory_;
};

}  // namespace foreshadow::agent
