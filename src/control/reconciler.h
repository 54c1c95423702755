#pragma once
// The core: takes what agents report, forecasts, lets policy decide, records intents and sends them, takes
// the answers.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "base/uuid.h"
#include "control/agent_link.h"
#include "control/clock.h"
#include "control/event_log.h"
#include "control/fleet.h"
#include "control/intent_ledger.h"
#include "control/store.h"
#include "forecast/forecaster.h"
#include "foreshadow/v1/agent.pb.h"
#include "foreshadow/v1/control.pb.h"
#include "policy/policy.h"
#include "policy/shrink.h"

namespace foreshadow::control {

using Decide = std::function<policy::Decision(const policy::VolumeView&, const forecast::Forecaster&,
                                              const policy::Config&)>;
using MakeForecaster = std::function<std::unique_ptr<forecast::Forecaster>()>;

struct ReconcilerOptions {
  Clock clock = system_clock();
  std::string version = "0.1.0";
  uint32_t metrics_interval_ms = 1000;
  policy::Config policy;
  policy::ReclaimConfig reclaim;   // of volumes that are to be shrunk by policy
  Decide decide;                   // empty: policy::decide
  MakeForecaster make_forecaster;  // empty: forecast::make_growth_forecaster
};

// Guarantees: an intent is in the store before an agent hears of it, and is sent again until it is answered
// (G5: one segment, however often); what an agent reports is judged before it becomes state, and is then the
// truth (G3: a lost store is rebuilt by Hello); a pool's promises never exceed its space (G4). No thread, no
// clock, no I/O but the store: a caller holds the core's mutex around every call, and links only queue.
class Reconciler {
 public:
  // `changed` is called, mutex held, when there is something new to see.
  Reconciler(Store& store, Rng& rng, ReconcilerOptions options, std::function<void()> changed);

  // Reads what the store remembers. Once, first.
  Status load();

  // What agents say. A failed hello() ends the session.
  Status hello(AgentLink& link, const v1::Hello& hello);
  void disconnected(const std::string& agent, const AgentLink& link);
  void metrics(const std::string& agent, const v1::Metrics& metrics);
  void ack(const std::string& agent, const v1::Ack& ack);
  void event(const std::string& agent, const v1::VolumeEvent& event);

  // What policy and people order. Each records and sends one intent, or fails and does neither; `done` (may
  // be empty) gets the answer.
  using Done = IntentLedger::Done;
  Status grant(VolumeModel& model, uint64_t size, const std::string& pool, const std::string& reason,
               Done done);
  Status merge(VolumeModel& model, const std::string& segment, const std::string& reason, Done done);
  Status squeeze(VolumeModel& model, const std::string& segment, v1::SqueezeMode codec,
                 const std::string& reason, Done done);
  // The way back (reconciler_shrink.cc). A second request for the same waits for the first.
  Status fold(VolumeModel& model, const std::string& segment, const std::string& reason, Done done);
  Status drain(VolumeModel& model, const std::string& segment, const std::string& reason, Done done);
  // What giving back all but `target` bytes of capacity would take. kFailedPrecondition while segments leave
  // already.
  Result<policy::ShrinkPlan> plan_shrink(const VolumeModel& model, uint64_t target) const;
  // One intent a step, in order; the agent carries them out one after the other. `done` gets one answer for
  // all: the first failure, or the last success.
  Status shrink(VolumeModel& model, const policy::ShrinkPlan& plan, const std::string& reason, Done done);
  // Its primary goes to that pool (reconciler_move.cc).
  Status move(VolumeModel& model, const v1::Pool& pool, uint64_t size, const std::string& reason, Done done);
  Status begin(const std::string& agent, v1::Intent intent, Done done);

  // Decides about the volume until there is nothing more to do.
  void consider(VolumeModel& model);
  policy::Decision decide(const VolumeModel& model) const;
  Result<v1::Explanation> explain(const VolumeModel& model) const;

  // The volume as people see it: the agent's report, and the segments that open intents are about.
  v1::Volume shown(const VolumeModel& model) const;
  // What a pool can still promise: its room less what open intents claim.
  uint64_t pool_free(const v1::Pool& pool) const;

  Uuid new_uuid() { return Uuid::random(rng_); }
  const Fleet& fleet() const { return fleet_; }
  Fleet& fleet() { return fleet_; }
  IntentLedger& ledger() { return ledger_; }
  const IntentLedger& ledger() const { return ledger_; }
  const ReconcilerOptions& options() const { return options_; }

 private:
  std::unique_ptr<VolumeModel> make_model(const v1::Volume& volume);
  void take_pools(const std::string& agent, const google::protobuf::RepeatedPtrField<v1::Pool>& pools,
                  bool store);
  void take_hello_volumes(const std::string& agent, const v1::Hello& hello);
  // Judges and takes a volume's report: the model, or null with the refusal recorded.
  VolumeModel* take_volume(const std::string& agent, v1::Volume volume);
  void note_segment_changes(const VolumeModel& before, const v1::Volume& after);
  void take_metrics(const std::string& agent, const v1::Metrics& metrics, const v1::VolumeMetrics& counts,
                    std::vector<HistoryRow>& rows, std::vector<VolumeModel*>& fed);
  void refuse_report(const std::string& agent, const std::string& what, const std::string& volume,
                     const std::string& message);

  // Takes a successful answer; an error is what was wrong with it.
  Status take_success(const IntentRow& intent, const v1::Ack& ack);
  void note_squeezed(const VolumeModel& model, const v1::Segment& segment, const v1::Ack& ack);
  bool take_change(const IntentRow& intent, const VolumeModel& model);
  Status take_segment_success(const IntentRow& intent, const v1::Segment& before, const VolumeModel& after,
                              const v1::Ack& ack);
  void note_failure(const IntentRow& intent, const std::string& why);
  std::string name_of_volume(const std::string& id) const;

  // Of a segment that has left: its events, before its row goes.
  void note_released(const IntentRow& intent, const v1::Segment& segment, const VolumeModel& after,
                     const v1::Ack& ack);
  Status take_moved(const IntentRow& intent, const v1::Segment& segment, const VolumeModel& after,
                    const v1::Ack& ack);
  void note_shrunk(const v1::Intent& intent);
  // Says so in the decision's sentence.
  bool prefers_fold(const VolumeModel& model, policy::Decision& decision) const;
  void consider_growth(VolumeModel& model);
  uint64_t about_to_leave(const VolumeModel& model) const;
  void add_warm_wish(const VolumeModel& model, policy::ShrinkView& view) const;
  policy::ReclaimDecision decide_reclaim(const VolumeModel& model) const;
  void consider_reclaim(VolumeModel& model);
  void record(VolumeModel& model, const std::string& action, const std::string& sentence,
              const std::map<std::string, double>& inputs);

  policy::VolumeView view_of(const VolumeModel& model) const;
  void record_decision(VolumeModel& model, const policy::Decision& decision);

  Store& store_;
  Rng& rng_;
  ReconcilerOptions options_;
  std::function<void()> changed_;
  EventLog events_;
  Fleet fleet_;
  IntentLedger ledger_;
  uint64_t started_ms_ = 0;
};

}  // namespace foreshadow::control
