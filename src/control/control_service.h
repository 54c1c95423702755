#pragma once
// The people's and programs' end of control.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>

#include "control/core.h"
#include "foreshadow/v1/control.grpc.pb.h"

namespace foreshadow::control {

// Thin: takes the core's mutex, calls Requests or reads, and waits for an agent's answer where one is needed,
// at most `ack_timeout`, or the caller's own deadline where the answer takes as long as copying does. An
// intent whose requester gave up stays open and is finished when the agent answers.
class ControlService final : public v1::ControlService::Service {
 public:
  ControlService(Core& core, std::chrono::milliseconds ack_timeout)
      : core_(core), ack_timeout_(ack_timeout) {}

  using Context = grpc::ServerContext;
  grpc::Status GetStatus(Context*, const v1::GetStatusRequest*, v1::StatusReport* reply) override;
  grpc::Status AddPool(Context*, const v1::AddPoolRequest* request, v1::Pool* reply) override;
  grpc::Status ListPools(Context*, const v1::ListPoolsRequest*, v1::ListPoolsResponse* reply) override;
  grpc::Status CreateVolume(Context*, const v1::CreateVolumeRequest* request, v1::Volume* reply) override;
  grpc::Status ListVolumes(Context*, const v1::ListVolumesRequest*, v1::ListVolumesResponse* reply) override;
  grpc::Status GetVolume(Context*, const v1::VolumeRequest* request, v1::VolumeDetail* reply) override;
  grpc::Status AdoptDevice(Context*, const v1::AdoptDeviceRequest* request, v1::Volume* reply) override;
  grpc::Status GrowVolume(Context*, const v1::GrowVolumeRequest* request, v1::Volume* reply) override;
  grpc::Status SetVolume(Context*, const v1::SetVolumeRequest* request, v1::Volume* reply) override;
  grpc::Status DeleteVolume(Context*, const v1::DeleteVolumeRequest* request,
                            v1::DeleteVolumeResponse* reply) override;
  grpc::Status CheckVolume(Context*, const v1::CheckVolumeRequest* request, v1::CheckReport* reply) override;
  grpc::Status ScrubVolume(Context*, const v1::ScrubVolumeRequest* request, v1::Volume* reply) override;
  grpc::Status ListShadows(Context*, const v1::ListShadowsRequest* request,
                           v1::ListShadowsResponse* reply) override;
  grpc::Status GrantShadow(Context*, const v1::GrantShadowRequest* request, v1::Volume* reply) override;
  grpc::Status MergeShadow(Context*, const v1::MergeShadowRequest* request, v1::Volume* reply) override;
  grpc::Status SqueezeShadow(Context*, const v1::SqueezeShadowRequest* request, v1::Volume* reply) override;
  grpc::Status FoldShadow(Context*, const v1::SegmentRequest* request, v1::Volume* reply) override;
  grpc::Status DrainSegment(Context*, const v1::SegmentRequest* request, v1::Volume* reply) override;
  grpc::Status ShrinkVolume(Context*, const v1::ShrinkVolumeRequest* request,
                            v1::ShrinkVolumeResponse* reply) override;
  grpc::Status MoveVolume(Context*, const v1::MoveVolumeRequest* request, v1::Volume* reply) override;
  grpc::Status Explain(Context*, const v1::VolumeRequest* request, v1::Explanation* reply) override;
  grpc::Status WatchEvents(Context*, const v1::WatchEventsRequest* request,
                           grpc::ServerWriter<v1::Event>* writer) override;

 private:
  // Begins with the mutex held, then waits without it. The answer is one of success; a refusal becomes an
  // error.
  using Begin = std::function<Status(Requests::Done)>;
  Result<v1::Ack> ask(Context& context, const Begin& begin) { return ask(context, begin, ack_timeout_); }
  Result<v1::Ack> ask(Context& context, const Begin& begin, std::chrono::milliseconds longest);
  grpc::Status answer_volume(const Result<v1::Ack>& ack, v1::Volume* reply);
  grpc::Status follow(Context& context, const v1::WatchEventsRequest& request,
                      grpc::ServerWriter<v1::Event>& writer);

  Core& core_;
  std::chrono::milliseconds ack_timeout_;
  std::atomic<size_t> waiting_{0};
  std::atomic<size_t> followers_{0};
};

}  // namespace foreshadow::control
