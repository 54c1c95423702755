#pragma once
// The control plane as one object: store, core, services, listeners.
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "control/clock.h"
#include "control/control_limits.h"
#include "forecast/forecaster.h"
#include "policy/policy.h"

namespace foreshadow::control {

struct ServerOptions {
  std::string state_dir;            // made, mode 0700, if absent
  std::vector<std::string> listen;  // "unix:/path" (mode 0600), "127.0.0.1:port"; at least one
  std::string http;                 // as one of `listen`, but no socket; empty: no HTTP
  std::string version = "0.1.0";
  uint32_t metrics_interval_ms = 1000;
  policy::Config policy;
  forecast::ForecasterConfig
      forecaster;  // its prior is what a volume without history is taken to be written at
  std::chrono::milliseconds ack_timeout = limits::kAckTimeout;  // of requests that need an agent
  Clock clock = system_clock();
};

// Serves from start() until stop() or destruction, on threads of its own. Thread-safe.
class Server {
 public:
  // kBusy names the state directory, or the socket, that another process uses; kInvalidArgument an address
  // that is not local.
  static Result<std::unique_ptr<Server>> start(const ServerOptions& options);
  virtual ~Server() = default;
  // Ends agents' sessions after what is queued for them, wakes whoever waits, and gives calls in progress
  // limits::kShutdownTime. May be repeated.
  virtual void stop() = 0;
  // As listened on, a port that the kernel picked filled in.
  virtual const std::vector<std::string>& addresses() const = 0;
  virtual const std::string& http_address() const = 0;  // "http://127.0.0.1:8080"; empty without
};

}  // namespace foreshadow::control
