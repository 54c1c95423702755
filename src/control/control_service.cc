#include "control/control_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/limits.h"
#include "base/names.h"
#include "control/control_limits.h"
#include "control/grpc_status.h"
#include "control/seat.h"

namespace foreshadow::control {
namespace {

// A client that hangs up is noticed by looking; everything else wakes a waiter by itself.
constexpr std::chrono::milliseconds kLookForHangUp{200};

using SteadyTime = std::chrono::steady_clock::time_point;

SteadyTime deadline_of(const grpc::ServerContext& context, std::chrono::milliseconds longest) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  const auto wait = std::min(std::chrono::duration_cast<std::chrono::milliseconds>(left), longest);
  return std::chrono::steady_clock::now() + wait;
}

}  // namespace

Result<v1::Ack> ControlService::ask(Context& context, const Begin& begin, std::chrono::milliseconds longest) {
  struct Answer {
    bool here = false;
    v1::Ack ack;
  };
  const Seat seat(waiting_, limits::kWaitingRequests);
  if (!seat.granted()) {
    return fail(Code::kLimit,
                fmt::format("{} requests wait for agents: no more are taken", limits::kWaitingRequests));
  }
  // Shared, because the answer may come when nobody waits any more.
  const auto answer = std::make_shared<Answer>();
  const SteadyTime began = std::chrono::steady_clock::now();
  const SteadyTime deadline = deadline_of(context, longest);
  std::unique_lock lock(core_.mutex);
  if (core_.stopping) return fail(Code::kShutdown, "control is going away");
  TRY(begin([answer](const v1::Ack& ack) {
    answer->here = true;
    answer->ack = ack;
  }));
  while (!answer->here) {
    const SteadyTime now = std::chrono::steady_clock::now();
    if (core_.stopping) {
      return fail(Code::kShutdown,
                  "control is going away; what was asked for is recorded, and goes on when it is back");
    }
    if (now >= deadline || context.IsCancelled()) {
      return fail(Code::kTimeout,
                  fmt::format("the agent did not answer within {} ms; what was asked for is recorded,"
                              " and goes on when it does",
                              std::chrono::duration_cast<std::chrono::milliseconds>(now - began).count()));
    }
    core_.changed.wait_until(lock, std::min(deadline, now + kLookForHangUp));
  }
  if (answer->ack.code() == 0) return std::move(answer->ack);
  return fail(code_from_grpc(answer->ack.code()), answer->ack.message());
}

grpc::Status ControlService::answer_volume(const Result<v1::Ack>& ack, v1::Volume* reply) {
  if (!ack) return to_grpc(ack.error());
  const std::lock_guard lock(core_.mutex);
  // It may have been deleted since; then what the agent answered is the last that is known.
  const VolumeModel* model = core_.reconciler.fleet().volume(ack->volume().id());
  *reply = model == nullptr ? ack->volume() : core_.reconciler.shown(*model);
  return grpc::Status::OK;
}

grpc::Status ControlService::GetStatus(Context*, const v1::GetStatusRequest*, v1::StatusReport* reply) {
  const std::lock_guard lock(core_.mutex);
  reply->set_version(core_.reconciler.options().version);
  reply->set_started_ms(core_.started_ms);
  for (const std::string& agent : core_.reconciler.fleet().connected()) reply->add_agents(agent);
  reply->set_volumes(static_cast<uint32_t>(core_.reconciler.fleet().volumes.size()));
  reply->set_pending_intents(static_cast<uint32_t>(core_.reconciler.ledger().open().size()));
  return grpc::Status::OK;
}

grpc::Status ControlService::AddPool(Context* context, const v1::AddPoolRequest* request, v1::Pool* reply) {
  const auto ack =
      ask(*context, [&](Requests::Done done) { return core_.requests.add_pool(*request, std::move(done)); });
  if (!ack) return to_grpc(ack.error());
  const std::lock_guard lock(core_.mutex);
  for (const v1::Pool* pool : core_.reconciler.fleet().pools_named(request->name())) {
    if (request->agent_id().empty() || pool->agent_id() == request->agent_id()) *reply = *pool;
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::ListPools(Context*, const v1::ListPoolsRequest*, v1::ListPoolsResponse* reply) {
  const std::lock_guard lock(core_.mutex);
  for (const auto& [key, pool] : core_.reconciler.fleet().pools) *reply->add_pools() = pool;
  return grpc::Status::OK;
}

grpc::Status ControlService::CreateVolume(Context* context, const v1::CreateVolumeRequest* request,
                                          v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.create_volume(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::ListVolumes(Context*, const v1::ListVolumesRequest*,
                                         v1::ListVolumesResponse* reply) {
  const std::lock_guard lock(core_.mutex);
  for (const auto& [id, model] : core_.reconciler.fleet().volumes) {
    *reply->add_volumes() = core_.reconciler.shown(*model);
  }
  std::sort(reply->mutable_volumes()->begin(), reply->mutable_volumes()->end(),
            [](const v1::Volume& a, const v1::Volume& b) { return a.name() < b.name(); });
  return grpc::Status::OK;
}

grpc::Status ControlService::GetVolume(Context*, const v1::VolumeRequest* request, v1::VolumeDetail* reply) {
  const std::lock_guard lock(core_.mutex);
  const auto model = core_.requests.volume(request->name());
  if (!model) return to_grpc(model.error());
  *reply->mutable_volume() = core_.reconciler.shown(**model);
  *reply->mutable_latest() = (*model)->latest();
  *reply->mutable_forecast() = (*model)->forecast();
  return grpc::Status::OK;
}

grpc::Status ControlService::AdoptDevice(Context* context, const v1::AdoptDeviceRequest* request,
                                         v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.adopt_device(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::GrowVolume(Context* context, const v1::GrowVolumeRequest* request,
                                        v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.grow_volume(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::SetVolume(Context* context, const v1::SetVolumeRequest* request,
                                       v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.set_volume(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::DeleteVolume(Context* context, const v1::DeleteVolumeRequest* request,
                                          v1::DeleteVolumeResponse* reply) {
  const auto ack = ask(*context, [&](Requests::Done done) {
    const auto model = core_.requests.volume(request->name());
    if (model) reply->set_kept((*model)->volume().base_path());
    return core_.requests.delete_volume(request->name(), request->force(), std::move(done));
  });
  return ack ? grpc::Status::OK : to_grpc(ack.error());
}

grpc::Status ControlService::CheckVolume(Context* context, const v1::CheckVolumeRequest* request,
                                         v1::CheckReport* reply) {
  const auto ack = ask(
      *context, [&](Requests::Done done) { return core_.requests.check_volume(*request, std::move(done)); });
  if (!ack) return to_grpc(ack.error());
  *reply = ack->check();
  return grpc::Status::OK;
}

grpc::Status ControlService::ScrubVolume(Context* context, const v1::ScrubVolumeRequest* request,
                                         v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.scrub_volume(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::ListShadows(Context*, const v1::ListShadowsRequest* request,
                                         v1::ListShadowsResponse* reply) {
  const std::lock_guard lock(core_.mutex);
  if (!request->volume().empty()) {
    const auto model = core_.requests.volume(request->volume());
    if (!model) return to_grpc(model.error());
  }
  for (const auto& [id, model] : core_.reconciler.fleet().volumes) {
    if (!request->volume().empty() && model->name() != request->volume()) continue;
    const v1::Volume shown = core_.reconciler.shown(*model);
    for (const v1::Segment& segment : shown.segments()) {
      if (segment.role() != v1::SEGMENT_ROLE_SHADOW) continue;
      v1::ListShadowsResponse::Row& row = *reply->add_shadows();
      row.set_volume(model->name());
      *row.mutable_segment() = segment;
    }
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::GrantShadow(Context* context, const v1::GrantShadowRequest* request,
                                         v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.grant_shadow(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::MergeShadow(Context* context, const v1::MergeShadowRequest* request,
                                         v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.merge_shadow(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::SqueezeShadow(Context* context, const v1::SqueezeShadowRequest* request,
                                           v1::Volume* reply) {
  return answer_volume(
      ask(*context,
          [&](Requests::Done done) { return core_.requests.squeeze_shadow(*request, std::move(done)); }),
      reply);
}

grpc::Status ControlService::FoldShadow(Context* context, const v1::SegmentRequest* request,
                                        v1::Volume* reply) {
  return answer_volume(
      ask(
          *context,
          [&](Requests::Done done) { return core_.requests.fold_shadow(*request, std::move(done)); },
          limits::kLongAckTimeout),
      reply);
}

grpc::Status ControlService::DrainSegment(Context* context, const v1::SegmentRequest* request,
                                          v1::Volume* reply) {
  return answer_volume(
      ask(
          *context,
          [&](Requests::Done done) { return core_.requests.drain_segment(*request, std::move(done)); },
          limits::kLongAckTimeout),
      reply);
}

grpc::Status ControlService::ShrinkVolume(Context* context, const v1::ShrinkVolumeRequest* request,
                                          v1::ShrinkVolumeResponse* reply) {
  return answer_volume(ask(
                           *context,
                           [&](Requests::Done done) {
                             return core_.requests.shrink_volume(*request, reply->mutable_plan(),
                                                                 std::move(done));
                           },
                           limits::kLongAckTimeout),
                       reply->mutable_volume());
}

grpc::Status ControlService::MoveVolume(Context* context, const v1::MoveVolumeRequest* request,
                                        v1::Volume* reply) {
  return answer_volume(
      ask(
          *context,
          [&](Requests::Done done) { return core_.requests.move_volume(*request, std::move(done)); },
          limits::kLongAckTimeout),
      reply);
}

grpc::Status ControlService::Explain(Context*, const v1::VolumeRequest* request, v1::Explanation* reply) {
  const std::lock_guard lock(core_.mutex);
  const auto model = core_.requests.volume(request->name());
  if (!model) return to_grpc(model.error());
  auto explanation = core_.reconciler.explain(**model);
  if (!explanation) return to_grpc(explanation.error());
  *reply = std::move(*explanation);
  return grpc::Status::OK;
}

grpc::Status ControlService::WatchEvents(Context* context, const v1::WatchEventsRequest* request,
                                         grpc::ServerWriter<v1::Event>* writer) {
  // The volume may be gone, and its events still here: any name will do, but it has to be one.
  if (!request->volume().empty()) {
    const auto name = Name::parse(request->volume(), "volume name");
    if (!name) return to_grpc(name.error());
  }
  const Seat seat(followers_, limits::kEventFollowers);
  if (!seat.granted()) {
    return to_grpc(
        {Code::kLimit, fmt::format("{} clients follow events: no more are taken", limits::kEventFollowers)});
  }
  return follow(*context, *request, *writer);
}

grpc::Status ControlService::follow(Context& context, const v1::WatchEventsRequest& request,
                                    grpc::ServerWriter<v1::Event>& writer) {
  uint64_t after = request.after_sequence();
  std::unique_lock lock(core_.mutex);
  while (!core_.stopping && !context.IsCancelled()) {
    const auto page = core_.store->events(after, request.volume(), foreshadow::limits::kEventsPerPage);
    if (!page) return to_grpc(page.error());
    if (page->empty()) {
      if (!request.follow()) return grpc::Status::OK;
      core_.changed.wait_for(lock, kLookForHangUp);
      continue;
    }
    // A client that reads slowly holds up its own stream, not the core.
    lock.unlock();
    for (const v1::Event& event : *page) {
      if (!writer.Write(event)) return grpc::Status::CANCELLED;
      after = event.sequence();
    }
    lock.lock();
  }
  return core_.stopping ? to_grpc({Code::kShutdown, "control is going away"}) : grpc::Status::CANCELLED;
}

}  // namespace foreshadow::control
