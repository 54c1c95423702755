#pragma once
// What control remembers, in one SQLite file of its state directory. Losing the file loses history and the
// record of decisions, never a volume: agents report what they serve, and control adopts it.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/limits.h"
#include "control/control_limits.h"
#include "foreshadow/v1/agent.pb.h"
#include "foreshadow/v1/control.pb.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::control {

enum class IntentState : uint8_t { kPending = 0, kSent = 1, kDone = 2, kFailed = 3 };

struct IntentRow {
  std::string id;
  std::string kind;  // the name of the action's field: "grant_shadow", ...
  std::string agent;
  std::string volume;   // id; empty where the intent is about a pool
  std::string segment;  // UUID; empty where it is not about one
  v1::Intent payload;
  IntentState state = IntentState::kPending;
  uint64_t created_ms = 0;
  uint64_t sent_ms = 0;  // the last time it was sent; 0 never
  uint64_t finished_ms = 0;
  uint64_t elapsed_us = 0;  // as measured by the agent
  uint64_t lead_us = 0;     // as measured here: sent to acknowledged
  std::string message;      // why it failed
};

struct HistoryRow {
  std::string volume;  // id
  uint64_t time_ms = 0;
  uint64_t used = 0;
  uint64_t allocated = 0;  // since the row before
  uint64_t capacity = 0;
};

struct AgentRow {
  std::string id;
  std::string host;
  std::string version;
  uint64_t seen_ms = 0;
};

// How much a commit must survive. Samples may be lost with the machine's power, never with the process.
enum class Durability : uint8_t { kProcessCrash, kPowerLoss };

// Not thread-safe: the core's mutex guards it. Every write outside transaction() is a power-loss-proof
// transaction of its own.
class Store {
 public:
  // Bounds on what is kept; tests lower them.
  struct Bounds {
    size_t history_per_volume = foreshadow::limits::kHistorySamplesPerVolume;
    size_t events = limits::kEvents;
    size_t decisions_per_volume = limits::kDecisionsPerVolume;
    size_t finished_intents = limits::kFinishedIntents;
  };

  // Makes or opens `control.db` in the directory. kCorrupt names the file where it is not a store or is
  // damaged; kFailedPrecondition where a newer program wrote it. Such a file is never written to.
  static Result<std::unique_ptr<Store>> open(const std::string& directory, uint64_t now_ms) {
    return open(directory, now_ms, Bounds());
  }
  static Result<std::unique_ptr<Store>> open(const std::string& directory, uint64_t now_ms,
                                             const Bounds& bounds);
  virtual ~Store() = default;

  // Runs `body` as one transaction: its error undoes everything and is returned. A transaction inside one
  // joins it.
  virtual Status transaction(Durability durability, const std::function<Status()>& body) = 0;

  virtual Status put_agent(const AgentRow& agent) = 0;
  virtual Result<std::vector<AgentRow>> agents() = 0;

  virtual Status put_pool(const v1::Pool& pool) = 0;
  virtual Status remove_pools(const std::string& agent) = 0;
  virtual Result<std::vector<v1::Pool>> pools() = 0;

  virtual Status put_volume(const v1::Volume& volume) = 0;  // its segments replace those stored
  // Takes the volume's segments, decisions and history with it; its events stay.
  virtual Status remove_volume(const std::string& id) = 0;
  virtual Result<std::vector<v1::Volume>> volumes() = 0;

  virtual Status add_intent(const IntentRow& intent) = 0;
  virtual Status update_intent(const IntentRow& intent) = 0;        // state, times and message, by id
  virtual Result<std::vector<IntentRow>> unfinished_intents() = 0;  // in the order they were recorded
  // Lead times of the volume's last `count` granted shadows, oldest first.
  virtual Result<std::vector<uint64_t>> lead_times_us(const std::string& volume, size_t count) = 0;

  // Gives the event its sequence number.
  virtual Result<uint64_t> add_event(const v1::Event& event) = 0;
  // At most `count` events after the sequence number, oldest first; `volume` empty for all.
  virtual Result<std::vector<v1::Event>> events(uint64_t after, const std::string& volume, size_t count) = 0;

  virtual Status add_decision(const std::string& volume, const v1::Decision& decision) = 0;
  virtual Result<std::vector<v1::Decision>> decisions(const std::string& volume,
                                                      size_t count) = 0;  // newest first

  // One transaction for all rows. Past the bound the older half is thinned to a row a minute, then cut.
  virtual Status add_history(std::span<const HistoryRow> rows) = 0;
  // At most `count` rows, oldest first: every row of the last four hours, a row a minute before that.
  virtual Result<std::vector<HistoryRow>> history(const std::string& volume, size_t count) = 0;
  virtual Result<uint64_t> history_size(const std::string& volume) = 0;
};

}  // namespace foreshadow::control
