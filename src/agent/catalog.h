#pragma once
// What the agent reaches: its pools, the backings in them, and the notes of agent.json.
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "agent/agent_state.pb.h"
#include "agent/state_dir.h"
#include "base/error.h"
#include "base/rng.h"
#include "base/uuid.h"
#include "block/pool.h"
#include "foreshadow/v1/types.pb.h"
#include "io/loop.h"
#include "io/task.h"

namespace foreshadow::agent {

struct PoolConfig {
  std::string name;
  std::string directory;
  uint64_t capacity = 0;  // 0: whatever the file system holds
};

// One backing in a pool, by its name "<volume uuid>.<segment uuid>".
struct Backing {
  Uuid volume;
  Uuid segment;
  std::string pool;
  std::string name() const { return volume.str() + "." + segment.str(); }
  static Result<Backing> parse(std::string_view name, std::string pool);
};

// On the loop; what blocks is offloaded. Changes of the notes are made one at a time: the callers hold the
// agent's structure gate. A pool whose directory cannot be used stays known, without a Pool, and says why.
class Catalog {
 public:
  // Takes the state directory's lock and reads the notes. Blocks: for start-up.
  static Result<std::unique_ptr<Catalog>> open(io::Loop& loop, const std::string& state_dir, Rng& rng);

  const std::string& agent_id() const { return state_.agent_id(); }
  io::Loop& loop() { return loop_; }

  // Opens every pool that is noted; those that cannot be opened, or are not what they were, are logged.
  io::Task<Status> open_pools();
  // Succeeds and changes nothing if it is there already, the same; opens it again if it could not be opened
  // before.
  io::Task<Status> add_pool(PoolConfig config);
  // Succeeds if it is not there. kFailedPrecondition while it has backings of volumes.
  io::Task<Status> remove_pool(std::string name);
  bool knows_pool(const std::string& name) const { return pools_.contains(name); }
  // kNotFound for an unknown name, kUnavailable with the reason for a pool that cannot be used.
  Result<std::shared_ptr<block::Pool>> pool(const std::string& name) const;
  // Asks the file systems; pools() then tells what they said.
  io::Task<Status> refresh_usage();
  std::vector<v1::Pool> pools() const;

  // Every backing in every pool that can be read, by volume; files of other names are not ours.
  io::Task<std::map<Uuid, std::vector<Backing>>> find_backings();
  io::Task<Result<std::unique_ptr<io::File>>> open_backing(Backing backing, io::Directory::Mode mode);
  // Succeeds if it is not there.
  io::Task<Status> remove_backing(Backing backing);

  // The notes about volumes; nullptr if there is none.
  const state::VolumeRecord* record(const Uuid& volume) const;
  std::vector<state::VolumeRecord> records() const {
    return {state_.volumes().begin(), state_.volumes().end()};
  }
  io::Task<Status> put_record(state::VolumeRecord record);
  io::Task<Status> erase_record(Uuid volume);

 private:
  struct Entry {
    std::shared_ptr<block::Pool> pool;  // null: see trouble
    std::string trouble;
    block::PoolUsage usage;
  };
  Catalog(io::Loop& loop, StateDir directory, state::AgentState state, Rng& rng)
      : loop_(loop), directory_(std::move(directory)), state_(std::move(state)), rng_(rng) {}
  // Makes `next` durable, then current. If that fails, what is current is written once more.
  io::Task<Status> change(state::AgentState next);
  io::Task<Result<std::shared_ptr<block::Pool>>> open_pool(state::PoolRecord& record);
  std::string twin_of(const state::PoolRecord& of) const;
  Status check_new(const PoolConfig& config) const;
  const state::PoolRecord* pool_record(const std::string& name) const;

  io::Loop& loop_;
  StateDir directory_;
  state::AgentState state_;
  Rng& rng_;
  std::map<std::string, Entry> pools_;
};

}  // namespace foreshadow::agent
