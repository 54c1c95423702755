#pragma once
// The way to one connected agent, as the core sees it.
#include <string>

#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::control {

// Called with the core's mutex held, so neither call may block: an implementation queues. A message may be
// lost with the connection; what must not be lost is recorded before it is sent and is sent again on the next
// Hello.
class AgentLink {
 public:
  virtual ~AgentLink() = default;
  virtual void send(const v1::ControlMessage& message) = 0;
  // Ends the connection after what is queued. `reason` is for the log on the other side.
  virtual void close(const std::string& reason) = 0;
};

}  // namespace foreshadow::control
