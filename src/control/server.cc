#include "control/server.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <sys/stat.h>

#include <mutex>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "control/control_service.h"
#include "control/core.h"
#include "control/http_gateway.h"
#include "control/listen_address.h"
#include "control/session_service.h"

namespace foreshadow::control {
namespace {

// Sockets made while this lives get mode 0600. The mask is the process's, so other files made in that instant
// are private too: stricter than asked, for a moment at start. (gRPC makes the socket itself; a chmod
// afterwards would leave a gap.)
class PrivateSockets {
 public:
  PrivateSockets() : before_(::umask(0177)) {}
  ~PrivateSockets() { ::umask(before_); }
  PrivateSockets(const PrivateSockets&) = delete;
  PrivateSockets& operator=(const PrivateSockets&) = delete;

 private:
  mode_t before_;
};

class GrpcServer final : public Server {
 public:
  GrpcServer(std::unique_ptr<Store> store, ReconcilerOptions reconciler,
             std::chrono::milliseconds ack_timeout)
      : core_(std::move(store), std::move(reconciler)), sessions_(core_), control_(core_, ack_timeout) {}
  ~GrpcServer() override { stop(); }

  Status load() {
    const std::lock_guard lock(core_.mutex);
    return core_.reconciler.load();
  }
  Status listen(const std::vector<ListenAddress>& addresses);
  Status listen_http(const ListenAddress& address) {
    ASSIGN_OR_RETURN(http_, HttpGateway::start(address, server_->InProcessChannel(grpc::ChannelArguments())));
    http_address_ = http_->address();
    return {};
  }

  void stop() override {
    const std::lock_guard once(stop_mutex_);
    if (!server_) return;
    {
      const std::lock_guard lock(core_.mutex);
      core_.stopping = true;
      for (const auto& [id, agent] : core_.reconciler.fleet().agents) {
        if (agent.link != nullptr) agent.link->close("control is going away");
      }
      core_.changed.notify_all();
    }
    server_->Shutdown(std::chrono::system_clock::now() + limits::kShutdownTime);
    http_.reset();  // its calls have ended with the server's
    server_->Wait();
    server_.reset();
  }

  const std::vector<std::string>& addresses() const override { return addresses_; }
  const std::string& http_address() const override { return http_address_; }

 private:
  Core core_;
  SessionService sessions_;
  ControlService control_;
  std::mutex stop_mutex_;
  std::unique_ptr<grpc::Server> server_;  // null once stopped
  std::unique_ptr<HttpGateway> http_;     // null without, and once stopped
  std::vector<std::string> addresses_;
  std::string http_address_;
};

Status GrpcServer::listen(const std::vector<ListenAddress>& addresses) {
  grpc::ServerBuilder builder;
  std::vector<int> ports(addresses.size(), 0);
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (!addresses[i].unix_path.empty()) TRY(clear_unix_path(addresses[i].unix_path));
    builder.AddListeningPort(addresses[i].grpc(), grpc::InsecureServerCredentials(), &ports[i]);
  }
  builder.RegisterService(&sessions_);
  builder.RegisterService(&control_);
  builder.SetMaxReceiveMessageSize(static_cast<int>(foreshadow::limits::kRpcMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(foreshadow::limits::kRpcMessageBytes));
  // With port reuse, two control planes would share a port without noticing.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // An agent whose host vanished is found out, though nothing is sent to it.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  grpc::ResourceQuota quota("control");
  quota.SetMaxThreads(limits::kRpcThreads);
  builder.SetResourceQuota(quota);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
  {
    const PrivateSockets private_sockets;
    server_ = builder.BuildAndStart();
  }
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (server_ == nullptr || ports[i] == 0) {
      return fail(Code::kBusy, fmt::format("cannot listen on {}", addresses[i].grpc()));
    }
    ListenAddress bound = addresses[i];
    if (bound.unix_path.empty()) bound.port = static_cast<uint16_t>(ports[i]);
    addresses_.push_back(bound.grpc());
    log::info("control listens on {}", addresses_.back());
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(const ServerOptions& options) {
  if (options.listen.empty()) return fail(Code::kInvalidArgument, "no address to listen on was given");
  std::vector<ListenAddress> addresses;
  for (const std::string& text : options.listen) {
    ASSIGN_OR_RETURN(ListenAddress address, parse_listen_address(text));
    addresses.push_back(std::move(address));
  }
  std::optional<ListenAddress> http;
  if (!options.http.empty()) {
    ASSIGN_OR_RETURN(http, parse_listen_address(options.http));
  }
  ASSIGN_OR_RETURN(auto store, Store::open(options.state_dir, options.clock()));
  ReconcilerOptions reconciler;
  reconciler.clock = options.clock;
  reconciler.version = options.version;
  reconciler.metrics_interval_ms = options.metrics_interval_ms;
  reconciler.policy = options.policy;
  reconciler.make_forecaster = [config = options.forecaster] {
    return forecast::make_growth_forecaster(config);
  };
  auto server = std::make_unique<GrpcServer>(std::move(store), std::move(reconciler), options.ack_timeout);
  TRY(server->load());
  TRY(server->listen(addresses));
  if (http) TRY(server->listen_http(*http));
  return server;
}

}  // namespace foreshadow::control
