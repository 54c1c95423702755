#pragma once
// The agent's state directory: a lock, and one small file.
#include <string>

#include "agent/agent_state.pb.h"
#include "base/error.h"

namespace foreshadow::agent {

// Holds an advisory lock on `agent.lock` in the directory for as long as it lives; the kernel lets go of it
// when the process dies. Every call but the constructor's may come from any one thread at a time; all of them
// block.
class StateDir {
 public:
  // Makes the directory (mode 0700) if it is absent. kBusy, naming the directory, while another process holds
  // it.
  static Result<StateDir> open(const std::string& directory);
  StateDir(StateDir&& other) noexcept;
  StateDir& operator=(StateDir&&) = delete;
  ~StateDir();

  // An empty message if there is no file yet; kCorrupt, naming the file, if it cannot be understood.
  Result<state::AgentState> load() const { return load_state(path_); }
  // Durable on return; a crash leaves the old file or the new one, whole.
  Status save(const state::AgentState& state) const;
  const std::string& path() const { return path_; }

  // Without the lock, for those who only look.
  static Result<state::AgentState> load_state(const std::string& directory);

 private:
  StateDir(std::string path, int directory_fd, int lock_fd)
      : path_(std::move(path)), directory_fd_(directory_fd), lock_fd_(lock_fd) {}
  std::string path_;
  int directory_fd_ = -1;
  int lock_fd_ = -1;
};

}  // namespace foreshadow::agent
