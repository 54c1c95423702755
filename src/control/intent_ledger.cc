#include "control/intent_ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/names.h"
#include "base/uuid.h"
#include "control/control_limits.h"

namespace foreshadow::control {

std::string_view kind_of(const v1::Intent& intent) {
  switch (intent.action_case()) {
    case v1::Intent::kAddPool:
      return "add_pool";
    case v1::Intent::kCreateVolume:
      return "create_volume";
    case v1::Intent::kDeleteVolume:
      return "delete_volume";
    case v1::Intent::kCheckVolume:
      return "check_volume";
    case v1::Intent::kGrantShadow:
      return "grant_shadow";
    case v1::Intent::kActivateShadow:
      return "activate_shadow";
    case v1::Intent::kMergeShadow:
      return "merge_shadow";
    case v1::Intent::kRemovePool:
      return "remove_pool";
    case v1::Intent::kSqueezeShadow:
      return "squeeze_shadow";
    case v1::Intent::kScrubVolume:
      return "scrub_volume";
    case v1::Intent::kAdoptDevice:
      return "adopt_device";
    case v1::Intent::kGrowVolume:
      return "grow_volume";
    case v1::Intent::kFoldShadow:
      return "fold_shadow";
    case v1::Intent::kDrainSegment:
      return "drain_segment";
    case v1::Intent::kResizeSegment:
      return "resize_segment";
    case v1::Intent::kMovePrimary:
      return "move_primary";
    case v1::Intent::kSetVolume:
      return "set_volume";
    case v1::Intent::ACTION_NOT_SET:
      break;
  }
  return "none";
}

std::string volume_of(const v1::Intent& intent) {
  switch (intent.action_case()) {
    case v1::Intent::kCreateVolume:
      return intent.create_volume().volume_id();
    case v1::Intent::kDeleteVolume:
      return intent.delete_volume().volume_id();
    case v1::Intent::kCheckVolume:
      return intent.check_volume().volume_id();
    case v1::Intent::kGrantShadow:
      return intent.grant_shadow().volume_id();
    case v1::Intent::kActivateShadow:
      return intent.activate_shadow().volume_id();
    case v1::Intent::kMergeShadow:
      return intent.merge_shadow().volume_id();
    case v1::Intent::kSqueezeShadow:
      return intent.squeeze_shadow().volume_id();
    case v1::Intent::kScrubVolume:
      return intent.scrub_volume().volume_id();
    case v1::Intent::kAdoptDevice:
      return intent.adopt_device().volume_id();
    case v1::Intent::kGrowVolume:
      return intent.grow_volume().volume_id();
    case v1::Intent::kFoldShadow:
      return intent.fold_shadow().volume_id();
    case v1::Intent::kDrainSegment:
      return intent.drain_segment().volume_id();
    case v1::Intent::kResizeSegment:
      return intent.resize_segment().volume_id();
    case v1::Intent::kMovePrimary:
      return intent.move_primary().volume_id();
    case v1::Intent::kSetVolume:
      return intent.set_volume().volume_id();
    default:
      return {};
  }
}

std::string segment_of(const v1::Intent& intent) {
  switch (intent.action_case()) {
    case v1::Intent::kGrantShadow:
      return intent.grant_shadow().segment_uuid();
    case v1::Intent::kActivateShadow:
      return intent.activate_shadow().segment_uuid();
    case v1::Intent::kMergeShadow:
      return intent.merge_shadow().segment_uuid();
    case v1::Intent::kSqueezeShadow:
      return intent.squeeze_shadow().segment_uuid();
    case v1::Intent::kFoldShadow:
      return intent.fold_shadow().segment_uuid();
    case v1::Intent::kDrainSegment:
      return intent.drain_segment().segment_uuid();
    case v1::Intent::kResizeSegment:
      return intent.resize_segment().segment_uuid();
    case v1::Intent::kMovePrimary:
      return intent.move_primary().segment_uuid();
    default:
      return {};
  }
}

Claim claim_of(const v1::Intent& intent) {
  if (intent.has_create_volume())
    return {intent.create_volume().pool(), intent.create_volume().primary_size()};
  if (intent.has_adopt_device()) return {intent.adopt_device().pool(), intent.adopt_device().primary_size()};
  if (intent.has_grant_shadow()) return {intent.grant_shadow().pool(), intent.grant_shadow().size()};
  if (intent.has_move_primary()) return {intent.move_primary().pool(), intent.move_primary().size()};
  return {};
}

const v1::Intent::Shrink* shrink_of(const v1::Intent& intent) {
  const v1::Intent::Shrink* shrink = nullptr;
  if (intent.has_drain_segment()) shrink = &intent.drain_segment().shrink();
  if (intent.has_resize_segment()) shrink = &intent.resize_segment().shrink();
  return shrink != nullptr && !shrink->id().empty() ? shrink : nullptr;
}

Status IntentLedger::load() {
  ASSIGN_OR_RETURN(std::vector<IntentRow> rows, store_.unfinished_intents());
  for (IntentRow& row : rows) {
    by_id_[row.id] = next_;
    open_[next_++].row = std::move(row);
  }
  return {};
}

Result<std::string> IntentLedger::begin(const std::string& agent, v1::Intent intent, AgentLink* link,
                                        Done done) {
  if (open_.size() >= limits::kUnfinishedIntents) {
    return fail(Code::kLimit,
                fmt::format("{} intents wait for their agents: no more are taken", open_.size()));
  }
  intent.set_id(Uuid::random(rng_).str());
  IntentRow row;
  row.id = intent.id();
  row.kind = kind_of(intent);
  row.agent = agent;
  row.volume = volume_of(intent);
  row.segment = segment_of(intent);
  row.payload = std::move(intent);
  row.created_ms = clock_();
  TRY(store_.add_intent(row));
  const std::string id = row.id;
  by_id_[id] = next_;
  Open& open = open_[next_++];
  open.row = std::move(row);
  if (done) open.waiters.push_back(std::move(done));
  if (link != nullptr) send(open, *link);
  return id;
}

void IntentLedger::send(Open& open, AgentLink& link) {
  v1::ControlMessage message;
  *message.mutable_intent() = open.row.payload;
  link.send(message);
  open.row.state = IntentState::kSent;
  open.row.sent_ms = clock_();
  // Not knowing that it was sent costs a repeat, which the agent answers from memory.
  const Status noted = store_.update_intent(open.row);
  if (!noted) log::error("intent {} sent, but not noted as sent: {}", open.row.id, noted.error().message);
}

void IntentLedger::resend(const std::string& agent, AgentLink& link) {
  for (auto& [number, open] : open_) {
    if (open.row.agent == agent) send(open, link);
  }
}

void IntentLedger::join(const std::string& id, Done done) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end() || !done) return;
  std::vector<Done>& waiters = open_[found->second].waiters;
  // No more than these wait at once, so the oldest beyond them have left.
  if (waiters.size() >= limits::kWaitingRequests) waiters.erase(waiters.begin());
  waiters.push_back(std::move(done));
}

const IntentLedger::Open* IntentLedger::find(const std::string& agent, const std::string& id) const {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  const Open& open = open_.at(found->second);
  return open.row.agent == agent ? &open : nullptr;
}

Result<IntentLedger::Open> IntentLedger::finish(const std::string& agent, const v1::Ack& ack, bool ok,
                                                const std::string& why) {
  if (find(agent, ack.intent_id()) == nullptr) {
    return fail(Code::kNotFound,
                fmt::format("no intent {} is open at agent {}", quoted(ack.intent_id()), agent));
  }
  const auto index = by_id_.find(ack.intent_id());
  Open open = std::move(open_.at(index->second));
  open_.erase(index->second);
  by_id_.erase(index);
  const uint64_t now = clock_();
  open.row.state = ok ? IntentState::kDone : IntentState::kFailed;
  open.row.finished_ms = now;
  open.row.elapsed_us = ack.elapsed_us();
  // A repeat is answered at once, from memory: then what the agent measured the first time is the longer, and
  // the truer one.
  constexpr uint64_t kLeadMaxUs = 24ull * 3600 * 1'000'000;
  const uint64_t seen_us = now > open.row.sent_ms ? (now - open.row.sent_ms) * 1000 : 0;
  open.row.lead_us = std::min(std::max(seen_us, ack.elapsed_us()), kLeadMaxUs);
  open.row.message = why;
  const Status noted = store_.update_intent(open.row);
  // Unrecorded, it stays unfinished in the store: after a restart it is sent again and answered the same.
  if (!noted) log::error("end of intent {} not recorded: {}", open.row.id, noted.error().message);
  return open;
}

const IntentLedger::Open* IntentLedger::about(std::string_view kind, const std::string& volume,
                                              const std::string& segment) const {
  for (const auto& [number, open] : open_) {
    if (open.row.kind == kind && open.row.volume == volume &&
        (segment.empty() || open.row.segment == segment)) {
      return &open;
    }
  }
  return nullptr;
}

uint64_t IntentLedger::claimed(const std::string& agent, const std::string& pool) const {
  uint64_t bytes = 0;
  for (const auto& [number, open] : open_) {
    const Claim claim = claim_of(open.row.payload);
    if (open.row.agent == agent && claim.pool == pool) bytes += claim.bytes;
  }
  return bytes;
}

}  // namespace foreshadow::control
