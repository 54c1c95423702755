// Intents out, answers in.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/names.h"
#include "base/size.h"
#include "control/control_limits.h"
#include "control/reconciler.h"
#include "control/report_check.h"

namespace foreshadow::control {

uint64_t Reconciler::pool_free(const v1::Pool& pool) const {
  const uint64_t taken = pool.used() + ledger_.claimed(pool.agent_id(), pool.name());
  return pool.capacity() > taken ? pool.capacity() - taken : 0;
}

Status Reconciler::begin(const std::string& agent, v1::Intent intent, Done done) {
  AgentLink* link = fleet_.link(agent);
  if (link == nullptr) {
    return fail(Code::kUnavailable, fmt::format("agent {} is not connected", quoted(agent)));
  }
  TRY(ledger_.begin(agent, std::move(intent), link, std::move(done)));
  return {};
}

Status Reconciler::grant(VolumeModel& model, uint64_t size, const std::string& pool_name,
                         const std::string& reason, Done done) {
  const v1::Pool* pool = fleet_.pool(model.agent(), pool_name);
  if (pool == nullptr) {
    return fail(Code::kNotFound, fmt::format("pool {}: agent {} has no such pool; there are: {}",
                                             quoted(pool_name), model.agent(), fleet_.pool_names()));
  }
  size_t granting = 0;
  for (const auto& [number, open] : ledger_.open()) {
    granting += open.row.kind == "grant_shadow" && open.row.volume == model.id() ? 1 : 0;
  }
  const size_t segments = static_cast<size_t>(model.volume().segments_size()) + granting;
  if (segments >= foreshadow::limits::kSegments || granting >= limits::kGrantsInFlight) {
    return fail(
        Code::kLimit,
        fmt::format("volume {} has {} segments of at most {}, {} of at most {} on their way", model.name(),
                    segments, foreshadow::limits::kSegments, granting, limits::kGrantsInFlight));
  }
  // Never promise what the pool does not have, counting what is promised already.
  const uint64_t free = pool_free(*pool);
  if (size > free) {
    return fail(Code::kNoSpace, fmt::format("pool {} can hand out {} ({} bytes), {} ({} bytes) are wanted",
                                            pool_name, format_size(free), free, format_size(size), size));
  }
  v1::Intent intent;
  v1::Intent::GrantShadow& action = *intent.mutable_grant_shadow();
  action.set_volume_id(model.id());
  action.set_segment_uuid(new_uuid().str());
  action.set_pool(pool_name);
  action.set_size(size);
  const std::string uuid = action.segment_uuid();
  model.last_grant_ms = options_.clock();
  // Not in one transaction with the event: the intent has to be durable when begin() sends it.
  TRY(begin(model.agent(), std::move(intent), std::move(done)));
  events_.append(
      "shadow.granted", model.name(),
      fmt::format("{} from pool {} as segment {}: {}", format_size(size), pool_name, uuid, reason));
  return {};
}

Status Reconciler::merge(VolumeModel& model, const std::string& uuid, const std::string& reason, Done done) {
  const v1::Segment* segment = model.segment(uuid);
  if (segment == nullptr) {
    return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", model.name(), quoted(uuid)));
  }
  // A second request for the same merge waits for the first.
  if (const auto* open = ledger_.about("merge_shadow", model.id(), uuid)) {
    ledger_.join(open->row.id, std::move(done));
    return {};
  }
  v1::Intent intent;
  intent.mutable_merge_shadow()->set_volume_id(model.id());
  intent.mutable_merge_shadow()->set_segment_uuid(uuid);
  TRY(begin(model.agent(), std::move(intent), std::move(done)));
  events_.append("merge.requested", model.name(), fmt::format("segment {}: {}", segment->id(), reason),
                 segment->id());
  return {};
}

Status Reconciler::squeeze(VolumeModel& model, const std::string& uuid, v1::SqueezeMode codec,
                           const std::string& reason, Done done) {
  const v1::Segment* segment = model.segment(uuid);
  if (segment == nullptr) {
    return fail(Code::kNotFound, fmt::format("volume {} has no segment {}", model.name(), quoted(uuid)));
  }
  if (const auto* open = ledger_.about("squeeze_shadow", model.id(), uuid)) {
    ledger_.join(open->row.id, std::move(done));
    return {};
  }
  v1::Intent intent;
  intent.mutable_squeeze_shadow()->set_volume_id(model.id());
  intent.mutable_squeeze_shadow()->set_segment_uuid(uuid);
  intent.mutable_squeeze_shadow()->set_codec(codec);
  TRY(begin(model.agent(), std::move(intent), std::move(done)));
  events_.append("squeeze.requested", model.name(), fmt::format("segment {}: {}", segment->id(), reason),
                 segment->id());
  return {};
}

void Reconciler::note_squeezed(const VolumeModel& model, const v1::Segment& segment, const v1::Ack& ack) {
  const v1::SqueezeReport& report = ack.squeeze();
  events_.append(
      "shadow.squeezed", model.name(),
      fmt::format("segment {}: {} clusters into {} containers, {} left as they are, after {:.3f} s",
                  segment.id(), report.squeezed() + report.repacked(), report.containers(),
                  report.incompressible() + report.alone() + report.busy(),
                  static_cast<double>(ack.elapsed_us()) / 1e6),
      segment.id());
}

std::string Reconciler::name_of_volume(const std::string& id) const {
  const VolumeModel* model = fleet_.volume(id);
  return model == nullptr ? std::string() : model->name();
}

void Reconciler::ack(const std::string& agent, const v1::Ack& ack) {
  const IntentLedger::Open* open = ledger_.find(agent, ack.intent_id());
  if (open == nullptr) {
    // A late repeat of an answer that has been taken: the agent owes one answer a message, not one an intent.
    log::debug("agent {} answers intent {}, which is not open", agent, quoted(ack.intent_id()));
    return;
  }
  const IntentRow intent = open->row;
  v1::Ack answer = ack;
  IntentLedger::Open finished;
  const Status stored = store_.transaction(Durability::kPowerLoss, [&]() -> Status {
    take_pools(agent, ack.pools(), true);
    // A volume that is gone is deleted, whoever did it.
    constexpr int kGrpcNotFound = 5;
    const bool gone = intent.kind == "delete_volume" && answer.code() == kGrpcNotFound;
    if (gone) answer.set_code(0);
    if (answer.code() == 0) {
      const Status taken = take_success(intent, answer);
      if (!taken) {
        answer.set_code(row_of(taken.error().code).grpc_status);
        answer.set_message(taken.error().message);
      }
    }
    const bool ok = answer.code() == 0;
    const std::string why = ok ? std::string() : answer.message();
    if (!ok) note_failure(intent, why.empty() ? fmt::format("gRPC status {}", answer.code()) : why);
    auto row = ledger_.finish(agent, answer, ok, why);
    if (!row) return tl::unexpected<Error>(row.error());
    finished = std::move(*row);
    // The claim is gone with the intent. Where the answer does not tell the pool's new figure, it is taken
    // over, so that the same bytes are not promised again before the next metrics.
    const Claim claim = claim_of(intent.payload);
    const auto pool = fleet_.pools.find({agent, claim.pool});
    const bool told = std::any_of(ack.pools().begin(), ack.pools().end(),
                                  [&](const v1::Pool& listed) { return listed.name() == claim.pool; });
    if (ok && !told && pool != fleet_.pools.end()) pool->second.set_used(pool->second.used() + claim.bytes);
    return {};
  });
  if (!stored) log::error("answer to intent {} not recorded: {}", intent.id, stored.error().message);
  VolumeModel* model = fleet_.volume(intent.volume);
  note_shrunk(intent.payload);
  if (intent.kind == "grant_shadow" && answer.code() == 0 && model != nullptr) {
    model->lead.record_us(finished.row.lead_us);
  }
  for (const Done& done : finished.waiters) done(answer);
  if (intent.kind == "merge_shadow" && answer.code() == 0 && model != nullptr &&
      model->volume().squeeze() > v1::SQUEEZE_MODE_OFF) {
    const Status asked = squeeze(*model, intent.segment, model->volume().squeeze(),
                                 "it is merged, and the volume says so", {});
    if (!asked) events_.append("squeeze.refused", model->name(), asked.error().message);
  }
  changed_();
  if (model != nullptr) consider(*model);
}

Status Reconciler::take_success(const IntentRow& intent, const v1::Ack& ack) {
  if (intent.kind == "add_pool") {
    const std::string& name = intent.payload.add_pool().name();
    if (fleet_.pool(intent.agent, name) == nullptr) {
      return fail(Code::kInternal,
                  fmt::format("agent {} says pool {} is there, and does not list it", intent.agent, name));
    }
    events_.append("pool.added", "", fmt::format("{} at agent {}", name, intent.agent));
    return {};
  }
  if (intent.kind == "remove_pool") {
    fleet_.pools.erase({intent.agent, intent.payload.remove_pool().name()});
    events_.append("pool.removed", "",
                   fmt::format("{} at agent {}", intent.payload.remove_pool().name(), intent.agent));
    return {};
  }
  if (intent.kind == "delete_volume") {
    const std::string name = name_of_volume(intent.volume);
    fleet_.volumes.erase(intent.volume);
    const Status removed = store_.remove_volume(intent.volume);
    if (!removed) log::error("volume {} not removed from the store: {}", name, removed.error().message);
    events_.append("volume.deleted", name, fmt::format("by agent {}", intent.agent));
    return {};
  }
  if (intent.kind == "check_volume") {
    if (!ack.has_check())
      return fail(Code::kInternal, fmt::format("agent {} answers without a report", intent.agent));
    if (!ack.check().ok()) {
      const auto& findings = ack.check().findings();
      events_.append("check.failed", name_of_volume(intent.volume),
                     fmt::format("{} findings; the first: {}", findings.size(),
                                 findings.empty() ? "not told" : printable(findings[0])));
    }
    if (ack.has_volume()) take_volume(intent.agent, ack.volume());
    return {};
  }
  if (ack.volume().id() != intent.volume) {
    return fail(Code::kInternal, fmt::format("agent {} answers about volume {}, asked about {}", intent.agent,
                                             quoted(ack.volume().id()), intent.volume));
  }
  v1::Segment before;  // of a segment that is about to be gone
  if (const VolumeModel* known = fleet_.volume(intent.volume)) {
    if (const v1::Segment* segment = known->segment(intent.segment)) before = *segment;
  }
  const VolumeModel* model = take_volume(intent.agent, ack.volume());
  if (model == nullptr) {
    return fail(
        Code::kInternal,
        fmt::format("agent {} answers with a volume that makes no sense; see the events", intent.agent));
  }
  if (intent.kind == "create_volume") {
    events_.append("volume.created", model->name(),
                   fmt::format("{}, primary {} in pool {} at agent {}", format_size(model->volume().size()),
                               format_size(intent.payload.create_volume().primary_size()),
                               model->volume().pool(), intent.agent));
    return {};
  }
  if (intent.kind == "scrub_volume") {
    events_.append(intent.payload.scrub_volume().stop() ? "scrub.stopping" : "scrub.running", model->name(),
                   fmt::format("{} of about {} sub-blocks read", ack.volume().scrub().read(),
                               ack.volume().scrub().total()));
    return {};
  }
  if (take_change(intent, *model)) return {};
  return take_segment_success(intent, before, *model, ack);
}

// What was done to one segment.
Status Reconciler::take_segment_success(const IntentRow& intent, const v1::Segment& before,
                                        const VolumeModel& after, const v1::Ack& ack) {
  const VolumeModel* model = &after;
  const v1::Segment* segment = model->segment(intent.segment);
  if (intent.kind == "fold_shadow" || intent.kind == "drain_segment") {
    if (segment != nullptr) {
      return fail(Code::kInternal, fmt::format("agent {} says segment {} is released, and lists it",
                                               intent.agent, segment->id()));
    }
    note_released(intent, before, *model, ack);
    return {};
  }
  if (segment == nullptr) {
    return fail(Code::kInternal,
                fmt::format("agent {} says segment {} is done, and volume {} does not list it", intent.agent,
                            intent.segment, model->name()));
  }
  if (intent.kind == "move_primary") return take_moved(intent, *segment, *model, ack);
  if (intent.kind == "grant_shadow") {
    VolumeModel& granted = *fleet_.volume(intent.volume);
    granted.grants_refused = 0;
    granted.grant_backoff.reset();
    events_.append("shadow.warm", model->name(),
                   fmt::format("segment {} of {} after {:.3f} s", segment->id(),
                               format_size(segment->capacity()), static_cast<double>(ack.elapsed_us()) / 1e6),
                   segment->id());
  } else if (intent.kind == "squeeze_shadow") {
    note_squeezed(*model, *segment, ack);
  } else if (intent.kind == "merge_shadow") {
    if (segment->state() != v1::SEGMENT_STATE_MERGED) {
      return fail(Code::kInternal,
                  fmt::format("agent {} says segment {} is merged, and reports state {}", intent.agent,
                              segment->id(), v1::SegmentState_Name(segment->state())));
    }
    fleet_.volume(intent.volume)->merge_backoff.reset();
    events_.append("shadow.merged", model->name(),
                   fmt::format("segment {} of {} after {:.3f} s", segment->id(),
                               format_size(segment->capacity()), static_cast<double>(ack.elapsed_us()) / 1e6),
                   segment->id());
  } else if (intent.kind == "resize_segment") {
    events_.append(
        "segment.resized", model->name(),
        fmt::format("segment {} from {} to {} after {:.3f} s", segment->id(), format_size(before.capacity()),
                    format_size(segment->capacity()), static_cast<double>(ack.elapsed_us()) / 1e6),
        segment->id());
  }
  return {};
}

// The events of intents that are about a volume as a whole; false for others.
bool Reconciler::take_change(const IntentRow& intent, const VolumeModel& model) {
  const v1::Volume& volume = model.volume();
  if (intent.kind == "adopt_device") {
    events_.append(
        "device.adopted", model.name(),
        fmt::format("{} of {}, size {}, its head in pool {} at agent {}",
                    printable(intent.payload.adopt_device().device()), format_size(volume.base_bytes()),
                    format_size(volume.size()), volume.pool(), intent.agent));
    return true;
  }
  if (intent.kind == "grow_volume") {
    events_.append("volume.grown", model.name(), fmt::format("to {}", format_size(volume.size())));
    return true;
  }
  if (intent.kind == "set_volume") {
    events_.append("volume.set", model.name(),
                   fmt::format("hold timeout {} ms, backpressure below {}, merge {}, reclaim {}",
                               volume.hold_timeout_ms(), format_size(volume.band()),
                               volume.policy().merge() == v1::MERGE_MODE_FOLD ? "fold" : "adopt",
                               volume.policy().reclaim() ? "on" : "off"));
    return true;
  }
  return false;
}

void Reconciler::note_failure(const IntentRow& intent, const std::string& why) {
  VolumeModel* model = fleet_.volume(intent.volume);
  if (intent.kind == "grant_shadow" && model != nullptr) {
    ++model->grants_refused;
    model->grant_backoff.fail(options_.clock());
    // The refused bytes are still claimed here; they count as free again from now on.
    const v1::Pool* pool = fleet_.pool(intent.agent, intent.payload.grant_shadow().pool());
    model->refused_pool_free = pool == nullptr ? 0 : pool_free(*pool) + intent.payload.grant_shadow().size();
    events_.append(
        "grant.refused", model->name(),
        fmt::format("{} from pool {}: {}; next try in {} s at the earliest",
                    format_size(intent.payload.grant_shadow().size()), intent.payload.grant_shadow().pool(),
                    printable(why), model->grant_backoff.delay_ms() / 1000));
    return;
  }
  constexpr std::pair<std::string_view, std::string_view> kOfSegments[] = {
      {"merge_shadow", "merge.refused"},
      {"fold_shadow", "fold.refused"},
      {"drain_segment", "drain.refused"},
      {"resize_segment", "resize.refused"},
      {"move_primary", "move.refused"}};
  for (const auto& [kind, event] : kOfSegments) {
    if (intent.kind != kind || model == nullptr) continue;
    const v1::Segment* segment = model->segment(intent.segment);
    if (kind == "merge_shadow") model->merge_backoff.fail(options_.clock());
    if (kind == "fold_shadow") model->not_folded = intent.segment;
    events_.append(event, model->name(), printable(why), segment == nullptr ? 0 : segment->id());
    return;
  }
  std::string name = name_of_volume(intent.volume);
  if (intent.kind == "create_volume") name = intent.payload.create_volume().name();
  if (intent.kind == "adopt_device") name = intent.payload.adopt_device().name();
  events_.append("intent.failed", name, fmt::format("{}: {}", intent.kind, printable(why)));
}

}  // namespace foreshadow::control
