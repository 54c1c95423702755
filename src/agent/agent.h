#pragma once
// The Predictive Scaling Agent on the storage client: serves volumes over NBD, measures, obeys control.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/catalog.h"
#include "agent/clock.h"
#include "base/error.h"
#include "io/loop.h"
#include "io/task.h"
#include "nbd/tls.h"

namespace foreshadow::agent {

struct TcpAddress {
  std::string host;   // loopback only, unless under TLS
  uint16_t port = 0;  // 0: one is picked
};

struct Options {
  std::string state_dir;   // agent.json and agent.lock live here; made if absent
  std::string nbd_socket;  // path of the unix socket that serves the exports
  std::optional<TcpAddress> nbd_tcp;
  nbd::Security nbd_security;      // of nbd_tcp's clients, if it has TLS
  bool nbd_tls_on_socket = false;  // and of nbd_socket's
  std::string control;             // gRPC target, "unix:/path" or "127.0.0.1:port"; empty: alone
  std::vector<PoolConfig> pools;   // added where no pool of that name is known yet
  std::string version;
  Clock clock = system_clock();
};

// Runs on the loop, whole; only the session with control has threads of its own. I/O never waits for control:
// without it volumes are served and warm shadows activated all the same.
class Agent {
 public:
  // Finds and opens the volumes of all pools, then listens, then connects. A volume or a pool that cannot be
  // used is logged and told to control; it does not keep the agent from starting. kBusy, naming the
  // directory, if another agent runs on it.
  static io::Task<Result<std::unique_ptr<Agent>>> start(io::Loop& loop, Options options);
  virtual ~Agent() = default;  // after stop() has returned

  // Leaves control, finishes intents under way, disconnects the NBD clients, and closes every volume: flushed
  // and checkpointed. An error is what could not be made durable. Call once.
  virtual io::Task<Status> stop() = 0;

  virtual const std::string& id() const = 0;
  virtual std::vector<std::string> nbd_addresses() const = 0;  // "unix:/path", "127.0.0.1:10809"
  virtual size_t volume_count() const = 0;                     // served
};

}  // namespace foreshadow::agent
