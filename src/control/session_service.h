#pragma once
// The agents' end of control: one bidirectional stream each.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstddef>

#include "control/core.h"
#include "foreshadow/v1/agent.grpc.pb.h"

namespace foreshadow::control {

// Thin: reads messages, takes the core's mutex, hands them over. Each session has gRPC's thread, which reads,
// and one that writes.
class SessionService final : public v1::AgentService::Service {
 public:
  explicit SessionService(Core& core) : core_(core) {}
  grpc::Status Session(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<v1::ControlMessage, v1::AgentMessage>* stream) override;

 private:
  Core& core_;
  std::atomic<size_t> sessions_{0};
};

}  // namespace foreshadow::control
