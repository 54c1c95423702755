#pragma once
// Intents: recorded before they are sent, sent again until they are answered, answered once.
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "control/agent_link.h"
#include "control/clock.h"
#include "control/store.h"

namespace foreshadow::control {

// "grant_shadow", ... : the name of the action's field.
std::string_view kind_of(const v1::Intent& intent);
// The volume's id and the segment's UUID; empty where the intent is about none.
std::string volume_of(const v1::Intent& intent);
std::string segment_of(const v1::Intent& intent);

// The shrink that the intent is a step of, or null.
const v1::Intent::Shrink* shrink_of(const v1::Intent& intent);

// The bytes that an intent will take from a pool.
struct Claim {
  std::string pool;
  uint64_t bytes = 0;
};
Claim claim_of(const v1::Intent& intent);

// Not thread-safe: the core's mutex guards it. Keeps unfinished intents in memory, finished ones only in the
// store.
class IntentLedger {
 public:
  using Done = std::function<void(const v1::Ack&)>;

  struct Open {
    IntentRow row;
    std::vector<Done> waiters;
  };

  IntentLedger(Store& store, Rng& rng, Clock clock) : store_(store), rng_(rng), clock_(std::move(clock)) {}

  // Reads what a previous run left unfinished.
  Status load();
  // Gives the intent an id and records it, durably; then sends it, if there is a link. An error means that
  // nothing was sent and nothing will be. `done` may be empty.
  Result<std::string> begin(const std::string& agent, v1::Intent intent, AgentLink* link, Done done);
  // Sends again everything the agent has not answered, in the order it was recorded.
  void resend(const std::string& agent, AgentLink& link);
  // Waits for an intent under way, as begin()'s `done` does.
  void join(const std::string& id, Done done);
  // Ends it, as done or as failed for the reason given. The caller tells the waiters, once its own state is
  // up to date. kNotFound if no such intent is open at this agent.
  Result<Open> finish(const std::string& agent, const v1::Ack& ack, bool ok, const std::string& why);
  const Open* find(const std::string& agent, const std::string& id) const;

  // In the order they were recorded.
  const std::map<uint64_t, Open>& open() const { return open_; }
  // The open intent of this kind about this volume (and segment, unless empty), or null.
  const Open* about(std::string_view kind, const std::string& volume, const std::string& segment) const;
  // Bytes claimed by open intents of the agent in one of its pools.
  uint64_t claimed(const std::string& agent, const std::string& pool) const;

 private:
  void send(Open& open, AgentLink& link);

  Store& store_;
  Rng& rng_;
  Clock clock_;
  uint64_t next_ = 1;
  std::map<uint64_t, Open> open_;
  std::map<std::string, uint64_t> by_id_;
};

}  // namespace foreshadow::control
