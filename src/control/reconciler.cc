// Agents coming, going and reporting.
#include "control/reconciler.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/names.h"
#include "base/size.h"
#include "control/control_limits.h"
#include "control/report_check.h"

namespace foreshadow::control {

Reconciler::Reconciler(Store& store, Rng& rng, ReconcilerOptions options, std::function<void()> changed)
    : store_(store),
      rng_(rng),
      options_(std::move(options)),
      changed_(std::move(changed)),
      events_(store, options_.clock, changed_),
      ledger_(store, rng, options_.clock),
      started_ms_(options_.clock()) {
  if (!options_.decide) options_.decide = policy::decide;
  if (!options_.make_forecaster) {
    options_.make_forecaster = [] { return forecast::make_growth_forecaster(forecast::ForecasterConfig{}); };
  }
}

Status Reconciler::load() {
  ASSIGN_OR_RETURN(const auto agents, store_.agents());
  for (const AgentRow& row : agents) fleet_.agents[row.id] = {row.id, row.host, row.version, nullptr};
  ASSIGN_OR_RETURN(auto pools, store_.pools());
  for (v1::Pool& pool : pools) fleet_.pools[{pool.agent_id(), pool.name()}] = std::move(pool);
  ASSIGN_OR_RETURN(const auto volumes, store_.volumes());
  for (v1::Volume volume : volumes) {
    volume.clear_job();  // its agent tells what runs now
    fleet_.volumes[volume.id()] = make_model(volume);
  }
  TRY(ledger_.load());
  events_.append("control.started", "",
                 fmt::format("version {}: {} volumes, {} unfinished intents", options_.version,
                             fleet_.volumes.size(), ledger_.open().size()));
  return {};
}

std::unique_ptr<VolumeModel> Reconciler::make_model(const v1::Volume& volume) {
  auto model = std::make_unique<VolumeModel>(volume, options_.make_forecaster());
  // A model without its past still works, only more carefully: a store that fails here does not stop it.
  if (const auto rows = store_.history(volume.id(), limits::kForecastReplay)) {
    for (const HistoryRow& row : *rows) model->restore(row);
  }
  if (const auto leads = store_.lead_times_us(volume.id(), limits::kLeadTimes)) {
    for (const uint64_t lead : *leads) model->lead.record_us(lead);
  }
  return model;
}

Status Reconciler::hello(AgentLink& link, const v1::Hello& hello) {
  TRY(check_hello(hello));
  const std::string& id = hello.agent_id();
  Agent& agent = fleet_.agents[id];
  // The newer connection is the living one: the older may be half open, and would be noticed only minutes
  // later.
  if (agent.link != nullptr && agent.link != &link)
    agent.link->close("replaced by a newer connection of the agent");
  agent = {id, hello.host(), hello.version(), &link};

  v1::ControlMessage welcome;
  welcome.mutable_welcome()->set_control_version(options_.version);
  welcome.mutable_welcome()->set_metrics_interval_ms(options_.metrics_interval_ms);
  link.send(welcome);

  const Status stored = store_.transaction(Durability::kPowerLoss, [&]() -> Status {
    TRY(store_.put_agent({id, hello.host(), hello.version(), options_.clock()}));
    TRY(store_.remove_pools(id));
    events_.append("agent.connected", "",
                   fmt::format("agent {} on {}: version {}, {} volumes, {} pools", id,
                               hello.host().empty() ? "an unnamed host" : hello.host(),
                               hello.version().empty() ? "unknown" : hello.version(), hello.volumes_size(),
                               hello.pools_size()));
    std::erase_if(fleet_.pools, [&](const auto& entry) { return entry.first.first == id; });
    take_pools(id, hello.pools(), true);
    take_hello_volumes(id, hello);
    return {};
  });
  // What an agent serves is true whether or not it could be written down.
  if (!stored) log::error("hello of agent {} not recorded: {}", id, stored.error().message);
  ledger_.resend(id, link);
  for (const VolumeModel* model : fleet_.volumes_of(id)) consider(*fleet_.volume(model->id()));
  changed_();
  return {};
}

void Reconciler::take_hello_volumes(const std::string& agent, const v1::Hello& hello) {
  std::set<std::string> served;
  for (const v1::Volume& volume : hello.volumes()) {
    VolumeModel* model = take_volume(agent, volume);
    if (model == nullptr) continue;
    model->begin_session();
    served.insert(model->id());
  }
  for (const VolumeModel* known : fleet_.volumes_of(agent)) {
    if (served.contains(known->id())) continue;
    VolumeModel& model = *fleet_.volume(known->id());
    model.set_served(false);
    // One that is being deleted is rightly gone; the answer to the repeated intent settles it.
    if (ledger_.about("delete_volume", model.id(), "") != nullptr) continue;
    events_.append(
        "volume.missing", model.name(),
        fmt::format("agent {} does not serve it any more; its segments may be on a disk that is away",
                    agent));
  }
}

void Reconciler::disconnected(const std::string& agent, const AgentLink& link) {
  const auto found = fleet_.agents.find(agent);
  if (found == fleet_.agents.end() || found->second.link != &link) return;
  found->second.link = nullptr;
  events_.append("agent.disconnected", "",
                 fmt::format("agent {}; its volumes serve on, and use the warm shadows they have", agent));
  changed_();
}

void Reconciler::take_pools(const std::string& agent,
                            const google::protobuf::RepeatedPtrField<v1::Pool>& pools, bool store) {
  for (v1::Pool pool : pools) {
    pool.set_agent_id(agent);
    const Fleet::PoolKey key(agent, pool.name());
    Status good = check_pool_report(pool);
    size_t known = 0;
    for (const auto& [other, unused] : fleet_.pools) known += other.first == agent ? 1 : 0;
    if (good && !fleet_.pools.contains(key) && known >= foreshadow::limits::kPools) {
      good = fail(Code::kLimit, fmt::format("pool {}: the agent has {} already", quoted(pool.name()), known));
    }
    if (!good) {
      refuse_report(agent, "pool", "", good.error().message);
      continue;
    }
    fleet_.pools[key] = pool;
    if (store) {
      const Status put = store_.put_pool(pool);
      if (!put) log::error("pool {} not recorded: {}", pool.name(), put.error().message);
    }
    // Room that a refused grant did not have is a reason to ask again at once. The figure of a file system
    // that others use too moves all the time, so only a rung's worth counts.
    for (const VolumeModel* reader : fleet_.volumes_of(agent)) {
      VolumeModel& model = *fleet_.volume(reader->id());
      if (model.volume().pool() == pool.name() && model.grant_backoff.delay_ms() > 0 &&
          pool_free(pool) >= model.refused_pool_free + options_.policy.shadow_min) {
        model.grant_backoff.reset();
      }
    }
  }
}

VolumeModel* Reconciler::take_volume(const std::string& agent, v1::Volume volume) {
  // One that cannot be opened cannot tell all that it is: what is known of it stays.
  const VolumeModel* known = fleet_.volume(volume.id());
  if (known != nullptr && !volume.read_only_reason().empty() &&
      (volume.size() == 0 || volume.segments_size() < known->volume().segments_size())) {
    v1::Volume whole = known->volume();
    whole.set_read_only_reason(volume.read_only_reason());
    whole.clear_uri();
    volume = std::move(whole);
  }
  volume.set_agent_id(agent);
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.id() == 0 && volume.pool().empty()) volume.set_pool(segment.pool());
  }
  Status good = check_volume_report(volume);
  VolumeModel* model = good ? fleet_.volume(volume.id()) : nullptr;
  const VolumeModel* namesake = good ? fleet_.volume_named(volume.name()) : nullptr;
  if (namesake != nullptr && namesake != model) {
    good = fail(Code::kAlreadyExists, fmt::format("the name {} is volume {} at agent {} already",
                                                  volume.name(), namesake->id(), namesake->agent()));
  } else if (model != nullptr && model->agent() != agent && fleet_.link(model->agent()) != nullptr) {
    good = fail(Code::kAlreadyExists,
                fmt::format("agent {} serves volume {} and is connected", model->agent(), model->id()));
  }
  if (!good) {
    refuse_report(agent, "volume " + volume.id().substr(0, limits::kIdLength), "",
                  fmt::format("volume {}: {}", quoted(volume.name()), good.error().message));
    return nullptr;
  }
  if (model == nullptr) {
    auto made = make_model(volume);
    model = made.get();
    fleet_.volumes[volume.id()] = std::move(made);
    // The agent has it and the store did not: a lost store is rebuilt like this, one volume at a time.
    if (ledger_.about("create_volume", volume.id(), "") == nullptr &&
        ledger_.about("adopt_device", volume.id(), "") == nullptr) {
      events_.append("volume.adopted", volume.name(),
                     fmt::format("{} with {} segments, reported by agent {}", format_size(volume.size()),
                                 volume.segments_size(), agent));
    }
  } else {
    note_segment_changes(*model, volume);
    model->report(volume);
  }
  model->set_served(true);
  const Status stored = store_.put_volume(volume);
  if (!stored) log::error("volume {} not recorded: {}", volume.name(), stored.error().message);
  return model;
}

void Reconciler::note_segment_changes(const VolumeModel& before, const v1::Volume& after) {
  std::set<std::string> reported;
  for (const v1::Segment& segment : after.segments()) {
    reported.insert(segment.uuid());
    // One under way by an intent of ours is no news: its answer is.
    if (before.segment(segment.uuid()) != nullptr ||
        ledger_.about("grant_shadow", after.id(), segment.uuid()) ||
        ledger_.about("move_primary", after.id(), segment.uuid()))
      continue;
    events_.append("segment.adopted", after.name(),
                   fmt::format("segment {} ({}) of {}, reported by its agent", segment.id(), segment.uuid(),
                               format_size(segment.capacity())),
                   segment.id());
  }
  for (const v1::Segment& segment : before.volume().segments()) {
    if (reported.contains(segment.uuid())) continue;
    // One that leaves by an intent of ours is no news either.
    if (ledger_.about("fold_shadow", after.id(), segment.uuid()) ||
        ledger_.about("drain_segment", after.id(), segment.uuid()) ||
        ((segment.id() == 0 || is_leaving(segment)) && ledger_.about("move_primary", after.id(), "")))
      continue;
    events_.append("segment.gone", after.name(),
                   fmt::format("segment {} ({}) is not reported any more", segment.id(), segment.uuid()),
                   segment.id());
  }
}

void Reconciler::metrics(const std::string& agent, const v1::Metrics& metrics) {
  std::vector<HistoryRow> rows;
  std::vector<VolumeModel*> fed;
  take_pools(agent, metrics.pools(), false);
  for (const v1::VolumeMetrics& counts : metrics.volumes()) take_metrics(agent, metrics, counts, rows, fed);
  if (!rows.empty()) {
    const Status stored = store_.add_history(rows);
    if (!stored)
      log::error("{} samples of agent {} not recorded: {}", rows.size(), agent, stored.error().message);
  }
  for (VolumeModel* model : fed) consider(*model);
}

void Reconciler::take_metrics(const std::string& agent, const v1::Metrics& metrics,
                              const v1::VolumeMetrics& counts, std::vector<HistoryRow>& rows,
                              std::vector<VolumeModel*>& fed) {
  VolumeModel* model = fleet_.volume(counts.volume_id());
  if (model == nullptr || model->agent() != agent) {
    return refuse_report(
        agent, "unknown", "",
        fmt::format("volume id {}: agent {} serves no such volume", quoted(counts.volume_id()), agent));
  }
  if (std::find(fed.begin(), fed.end(), model) != fed.end()) {
    return refuse_report(agent, "twice " + model->id(), model->name(), "reported twice in one message");
  }
  if (const Status good = check_metrics(counts, model->volume().size()); !good) {
    return refuse_report(agent, "counts " + model->id(), model->name(), good.error().message);
  }
  auto row = model->observe(metrics.time_ms(), metrics.interval_ms(), counts);
  if (!row) return refuse_report(agent, "time " + model->id(), model->name(), row.error().message);
  model->set_served(true);
  rows.push_back(std::move(*row));
  fed.push_back(model);
}

void Reconciler::refuse_report(const std::string& agent, const std::string& what, const std::string& volume,
                               const std::string& message) {
  events_.append_rarely(agent + " " + what, "metrics.refused", volume,
                        fmt::format("{} (reported by agent {}; ignored)", message, agent));
}

void Reconciler::event(const std::string& agent, const v1::VolumeEvent& event) {
  const VolumeModel* known = fleet_.volume(event.volume().id());
  if (known == nullptr || known->agent() != agent) {
    return refuse_report(agent, "event", "",
                         fmt::format("event about volume id {}: agent {} serves no such volume",
                                     quoted(event.volume().id()), agent));
  }
  VolumeModel* model = take_volume(agent, event.volume());
  if (model == nullptr) return;
  constexpr std::pair<v1::VolumeEvent::Kind, std::string_view> kKinds[] = {
      {v1::VolumeEvent::KIND_REDIRECTED, "redirect"},
      {v1::VolumeEvent::KIND_SHADOW_FULL, "shadow.full"},
      {v1::VolumeEvent::KIND_HOLD_BEGAN, "hold.began"},
      {v1::VolumeEvent::KIND_HOLD_ENDED, "hold.ended"},
      {v1::VolumeEvent::KIND_PACE_BEGAN, "pace.began"},
      {v1::VolumeEvent::KIND_PACE_ENDED, "pace.ended"},
      {v1::VolumeEvent::KIND_READ_ONLY, "read_only"},
      {v1::VolumeEvent::KIND_SHADOW_NEEDED, "shadow.needed"},
      {v1::VolumeEvent::KIND_CORRUPT_DATA, "data.corrupt"},
      {v1::VolumeEvent::KIND_SCRUB_ENDED, "scrub.ended"},
      {v1::VolumeEvent::KIND_SEGMENT_RELEASED, "segment.released"},
      {v1::VolumeEvent::KIND_JOB_REFUSED, "drain.refused"},
  };
  const auto* kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const auto& row) { return row.first == event.kind(); });
  if (kind == std::end(kKinds)) {
    return refuse_report(agent, "kind", model->name(),
                         fmt::format("event kind {} is not known", static_cast<int>(event.kind())));
  }
  events_.append(kind->second, model->name(), printable(event.message()), event.segment_id());
  consider(*model);
}

}  // namespace foreshadow::control
