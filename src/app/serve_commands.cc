// up, control, agent: the long-running ones.
#include <fmt/format.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <future>
#include <optional>
#include <thread>
#include <tuple>

#include "agent/agent.h"
#include "agent/state_dir.h"
#include "app/arguments.h"
#include "app/client.h"
#include "app/commands.h"
#include "app/nbd_tls.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/size.h"
#include "control/server.h"
#include "io/loop.h"

namespace foreshadow::app {
namespace {

struct ServeArguments {
  std::optional<agent::TcpAddress> nbd_tcp;
  NbdTlsFiles nbd_tls;
  std::vector<std::string> listen;     // control's, beside its socket
  std::string http;                    // control's JSON API
  std::string control;                 // the agent's target
  std::optional<uint64_t> shadow_max;  // policy's largest rung
};

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return fail_errno(errno, path + ": making the directory");
}

// SIGINT and SIGTERM are waited for, not handled: blocked in every thread that is made from here on.
class StopSignal {
 public:
  StopSignal() {
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGINT);
    ::sigaddset(&set_, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
  }
  void wait() {
    int got = 0;
    ::sigwait(&set_, &got);
    log::info("stopping; once more to exit at once");
    // The second one ends the process whatever the stop is doing.
    std::thread([set = set_] {
      int again = 0;
      ::sigwait(&set, &again);
      ::_exit(128 + again);
    }).detach();
  }

 private:
  sigset_t set_;
};

// An agent with a loop and a thread for it.
class AgentThread {
 public:
  static Result<std::unique_ptr<AgentThread>> start(const agent::Options& options) {
    ASSIGN_OR_RETURN(std::unique_ptr<io::Loop> loop, io::Loop::create());
    std::unique_ptr<AgentThread> self(new AgentThread(std::move(loop)));
    std::promise<Result<std::unique_ptr<agent::Agent>>> started;
    self->loop_->run_on_loop([&] {
      io::spawn(
          agent::Agent::start(*self->loop_, options),
          [&started](Result<std::unique_ptr<agent::Agent>> agent) { started.set_value(std::move(agent)); });
    });
    ASSIGN_OR_RETURN(self->agent_, started.get_future().get());
    return self;
  }
  ~AgentThread() {
    loop_->stop();
    thread_.join();
  }
  agent::Agent& agent() { return *agent_; }
  Status stop() {
    std::promise<Status> stopped;
    loop_->run_on_loop([&] {
      io::spawn(agent_->stop(), [&](Status status) {
        agent_.reset();
        stopped.set_value(std::move(status));
      });
    });
    return stopped.get_future().get();
  }

 private:
  explicit AgentThread(std::unique_ptr<io::Loop> loop)
      : loop_(std::move(loop)), thread_([this] { loop_->run(); }) {}
  std::unique_ptr<io::Loop> loop_;
  std::unique_ptr<agent::Agent> agent_;
  std::thread thread_;
};

Result<std::unique_ptr<control::Server>> start_control(const std::string& state,
                                                       const ServeArguments& arguments) {
  TRY(make_directory(state));
  TRY(check_socket_path(control_socket(state)));
  control::ServerOptions options;
  options.state_dir = state;
  options.listen = arguments.listen;
  options.listen.insert(options.listen.begin(), "unix:" + control_socket(state));
  options.http = arguments.http;
  options.version = FORESHADOW_VERSION;
  if (arguments.shadow_max) {
    options.policy.shadow_max = std::max(*arguments.shadow_max, limits::kSegmentSizeMin);
    options.policy.shadow_min = std::min(options.policy.shadow_min, options.policy.shadow_max);
  }
  return control::Server::start(options);
}

// The first start on a state directory gives it a pool of its own, so that there is something to make volumes
// in.
Result<agent::Options> agent_options(const std::string& state, const ServeArguments& arguments,
                                     bool default_pool) {
  TRY(make_directory(state));
  agent::Options options;
  options.state_dir = state;
  options.nbd_socket = state + "/nbd.sock";
  options.nbd_tcp = arguments.nbd_tcp;
  ASSIGN_OR_RETURN(options.nbd_security, load_nbd_tls(arguments.nbd_tls));
  options.nbd_tls_on_socket = arguments.nbd_tls.on_socket;
  options.control = arguments.control;
  options.version = FORESHADOW_VERSION;
  TRY(check_socket_path(options.nbd_socket));
  ASSIGN_OR_RETURN(const agent::state::AgentState known, agent::StateDir::load_state(state));
  if (default_pool && known.pools().empty()) {
    const std::string directory = state + "/pool";
    TRY(make_directory(directory));
    options.pools.push_back({"default", directory, 0});
  }
  return options;
}

// Until control knows the agent, there is nobody to carry a command out; so `up` is not up before.
Status wait_for_agent(const std::string& state) {
  constexpr auto kPatience = std::chrono::seconds(30);
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  while (std::chrono::steady_clock::now() < give_up) {
    ASSIGN_OR_RETURN(const v1::StatusReport status,
                     client.call(&Client::Stub::GetStatus, v1::GetStatusRequest()));
    if (status.agents_size() > 0) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return fail(Code::kTimeout, fmt::format("the agent did not reach {} in 30 s", control_socket(state)));
}

void say(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

std::string control_lines(const control::Server& server) {
  std::string out;
  for (const std::string& address : server.addresses()) out += fmt::format("control  {}\n", address);
  if (!server.http_address().empty()) out += fmt::format("HTTP     {}\n", server.http_address());
  return out;
}

std::string agent_lines(agent::Agent& agent) {
  std::string out;
  for (const std::string& address : agent.nbd_addresses()) out += fmt::format("NBD      {}\n", address);
  out += fmt::format("volumes  {} served\n", agent.volume_count());
  return out;
}

Status up(const Invocation& invocation, ServeArguments arguments) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  StopSignal signal;
  ASSIGN_OR_RETURN(const std::unique_ptr<control::Server> server, start_control(state, arguments));
  arguments.control = "unix:" + control_socket(state);
  ASSIGN_OR_RETURN(const agent::Options options, agent_options(state, arguments, true));
  ASSIGN_OR_RETURN(const std::unique_ptr<AgentThread> agent, AgentThread::start(options));
  TRY(wait_for_agent(state));
  std::string text = fmt::format("foreshadow {} is up\n", FORESHADOW_VERSION);
  text += control_lines(*server);
  text += agent_lines(agent->agent());
  text += fmt::format("next: foreshadow --state {} volume create NAME --size 1TiB --primary 256MiB\n", state);
  say(text);
  signal.wait();
  const Status stopped = agent->stop();
  server->stop();
  return stopped;
}

Status run_control(const Invocation& invocation, const ServeArguments& arguments) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  StopSignal signal;
  ASSIGN_OR_RETURN(const std::unique_ptr<control::Server> server, start_control(state, arguments));
  std::string text = fmt::format("foreshadow {} control is up\n", FORESHADOW_VERSION);
  text += control_lines(*server);
  text += fmt::format("next: foreshadow agent --state AGENT_DIR --control {}\n", server->addresses().back());
  say(text);
  signal.wait();
  server->stop();
  return {};
}

Status run_agent(const Invocation& invocation, const ServeArguments& arguments) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  StopSignal signal;
  ASSIGN_OR_RETURN(const agent::Options options, agent_options(state, arguments, false));
  ASSIGN_OR_RETURN(const std::unique_ptr<AgentThread> agent, AgentThread::start(options));
  say(fmt::format("foreshadow {} agent is up\ncontrol  {}\n", FORESHADOW_VERSION, options.control) +
      agent_lines(agent->agent()) + "next: foreshadow --state CONTROL_DIR pool add NAME --dir PATH\n");
  signal.wait();
  return agent->stop();
}

}  // namespace

void add_serve_commands(CLI::App& app, Invocation& invocation) {
  const auto arguments = std::make_shared<ServeArguments>();
  const auto add_nbd = [&](CLI::App* command) {
    add_parsed(*command, "--nbd-tcp", &arguments->nbd_tcp, parse_tcp,
               "Serve NBD on this address too: under TLS any, else a loopback address")
        ->type_name("HOST:PORT");
    const std::tuple<const char*, std::string*, const char*> files[] = {
        {"--nbd-tls-cert", &arguments->nbd_tls.certificate,
         "NBD over TCP under TLS: the server's certificate, with its chain (PEM)"},
        {"--nbd-tls-key", &arguments->nbd_tls.key, "The certificate's key (PEM)"},
        {"--nbd-tls-ca", &arguments->nbd_tls.authorities, "The authorities of clients' certificates (PEM)"},
        {"--nbd-tls-psk", &arguments->nbd_tls.psk, "Clients' pre-shared keys, USER:HEX a line"},
        {"--nbd-tls-authz", &arguments->nbd_tls.authorization,
         "Who may use what, an identity (cn:, dns:, email:, uri:, psk:) and exports or * a line; without it, "
         "every client that TLS lets in may use every export"}};
    for (const auto& [flag, path, text] : files) command->add_option(flag, *path, text)->type_name("FILE");
    command->add_flag("--nbd-tls-unix", arguments->nbd_tls.on_socket, "TLS on the unix socket as well");
  };
  const auto add_listen = [&](CLI::App* command) {
    command->add_option("--listen", arguments->listen, "Let control listen on this loopback address too")
        ->type_name("HOST:PORT");
    command
        ->add_option("--http", arguments->http,
                     "Serve control's API as JSON over HTTP on this loopback address")
        ->type_name("HOST:PORT");
    add_parsed(*command, "--shadow-max", &arguments->shadow_max, parse_size,
               "The largest shadow to grant (64GiB)")
        ->type_name("SIZE");
  };
  CLI::App* both = app.add_subcommand("up", "Run control and agent in one process");
  add_nbd(both);
  add_listen(both);
  both->callback(
      [&invocation, arguments] { invocation.run = [&, arguments] { return up(invocation, *arguments); }; });

  CLI::App* control = app.add_subcommand("control", "Run control: forecasts, decides, remembers");
  add_listen(control);
  control->callback([&invocation, arguments] {
    invocation.run = [&, arguments] { return run_control(invocation, *arguments); };
  });

  CLI::App* agent = app.add_subcommand("agent", "Run the agent: serves volumes, measures, obeys control");
  add_parsed(*agent, "--control", &arguments->control, parse_control, "Where control listens")
      ->required()
      ->type_name("unix:PATH|HOST:PORT");
  add_nbd(agent);
  agent->callback([&invocation, arguments] {
    invocation.run = [&, arguments] { return run_agent(invocation, *arguments); };
  });
}

}  // namespace foreshadow::app
