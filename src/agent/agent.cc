#include "agent/agent.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "agent/agent_limits.h"
#include "agent/intent_runner.h"
#include "agent/scrubs.h"
#include "agent/session.h"
#include "agent/telemetry.h"
#include "agent/volume_set.h"
#include "base/log.h"
#include "io/state_directory.h"
#include "io/stream.h"
#include "nbd/server.h"

namespace foreshadow::agent {
namespace {

class RunningAgent final : public Agent, private EventSink, private Session::Host {
 public:
  RunningAgent(io::Loop& loop, Options options, std::unique_ptr<Catalog> catalog)
      : loop_(loop),
        options_(std::move(options)),
        catalog_(std::move(catalog)),
        structure_(loop),
        server_(loop),
        volumes_(*catalog_, server_, *this, options_.clock, rng_,
                 NbdSocket{options_.nbd_socket, options_.nbd_tls_on_socket}),
        scrubs_(*catalog_, structure_, *this, options_.clock),
        intents_(*catalog_, volumes_, scrubs_, structure_, [this](v1::Ack ack) { answer(std::move(ack)); }) {
    server_.report_refusals([this](const std::string& why) { on_refused(why); });
    tick_.owner = this;
    tick_.timer.op.done = on_tick;
  }

  io::Task<Status> begin();
  io::Task<Status> stop() override;
  const std::string& id() const override { return catalog_->agent_id(); }
  std::vector<std::string> nbd_addresses() const override { return addresses_; }
  size_t volume_count() const override { return volumes_.hosts().size(); }

 private:
  struct Tick {
    io::Timer timer;
    RunningAgent* owner = nullptr;
  };
  static void on_tick(io::Op* op, int result);

  Status listen();
  io::Task<Status> refresh_pools();
  void send_metrics();
  void arm_tick();
  void answer(v1::Ack ack);

  void on_refused(const std::string& why);
  void on_event(v1::VolumeEvent event) override;
  void on_inventory_changed() override {
    if (session_ != nullptr) session_->renew();
  }
  v1::Hello hello() override;
  void on_welcome(const v1::Welcome& welcome) override;
  void on_intent(v1::Intent intent) override { intents_.take(std::move(intent)); }
  void on_disconnected() override { connected_ = false; }

  io::Loop& loop_;
  Options options_;
  SystemRng rng_;
  std::unique_ptr<Catalog> catalog_;
  Gate structure_;
  nbd::Server server_;
  VolumeSet volumes_;
  Scrubs scrubs_;
  IntentRunner intents_;
  Telemetry telemetry_;
  std::unique_ptr<Session> session_;
  std::vector<v1::VolumeEvent> early_events_;  // from before there was a session
  std::vector<std::string> addresses_;
  Tick tick_;
  uint32_t metrics_interval_ms_ = limits::kMetricsIntervalMsDefault;
  bool connected_ = false;
  bool stopping_ = false;
  bool refreshing_ = false;
  MonoTime quiet_until_{};  // no line about a refused client before
  uint64_t refused_ = 0;    // since the last line
  Signal refreshed_;
};

io::Task<Status> RunningAgent::begin() {
  const Status pools = co_await catalog_->open_pools();
  if (!pools) co_return pools;
  for (const PoolConfig& config : options_.pools) {
    if (catalog_->knows_pool(config.name)) continue;
    const Status added = co_await catalog_->add_pool(config);
    if (!added) co_return added;
  }
  const Status found = co_await volumes_.open_found();
  if (!found) co_return found;
  const Status asked = co_await catalog_->refresh_usage();
  if (!asked) co_return asked;
  const Status scrubs = co_await scrubs_.resume(volumes_.hosts());
  if (!scrubs) co_return scrubs;
  const Status listening = listen();
  if (!listening) co_return listening;
  if (options_.control.empty()) co_return Status{};
  session_ = Session::start(loop_, options_.control, *this);
  for (v1::VolumeEvent& event : early_events_) session_->send_event(std::move(event));
  early_events_.clear();
  arm_tick();
  co_return Status{};
}

Status RunningAgent::listen() {
  const nbd::Security& security = options_.nbd_security;
  ASSIGN_OR_RETURN(std::unique_ptr<io::Listener> local, io::listen_unix(loop_, options_.nbd_socket));
  std::unique_ptr<io::Listener> tcp;
  if (options_.nbd_tcp) {
    // In plain text nobody proves who they are: that is for this machine only.
    const bool secure = security.tls != nullptr;
    auto made = io::listen_tcp(loop_, options_.nbd_tcp->host, options_.nbd_tcp->port,
                               secure ? io::Reach::kAnywhere : io::Reach::kLoopback);
    if (!made && !secure && made.error().code == Code::kInvalidArgument)
      made.error().message += "; any other needs TLS";
    ASSIGN_OR_RETURN(tcp, std::move(made));
  }
  const auto add = [&](std::unique_ptr<io::Listener> listener, bool secure) {
    addresses_.push_back(listener->address() + (secure ? " (TLS)" : ""));
    server_.add_listener(std::move(listener), secure ? security : nbd::Security{});
  };
  add(std::move(local), options_.nbd_tls_on_socket);
  if (tcp != nullptr) add(std::move(tcp), security.tls != nullptr);
  return {};
}

io::Task<Status> RunningAgent::stop() {
  stopping_ = true;
  loop_.cancel(tick_.timer);
  if (session_ != nullptr) {
    session_->stop();
    Offload join(loop_, [this] {
      session_->join();
      return true;
    });
    co_await join;
    session_.reset();
  }
  // They may go on for long; they are asked for again, and go on, when the agent is back.
  for (const auto& [id, host] : volumes_.hosts()) host->stop_squeezing();
  volumes_.stop_jobs();
  const Status finished = co_await intents_.finish();
  if (refreshing_) co_await refreshed_;
  // The drain waits for requests in flight; closing the volumes fails those that wait at the wall.
  Signal drained;
  server_.stop([&drained] { drained.set(); });
  const Status closed = co_await volumes_.close_all();
  co_await drained;
  const Status scrubbed = co_await scrubs_.finish();
  if (!scrubbed) co_return scrubbed;
  co_return finished ? closed : finished;
}

// Anybody who reaches the port can be refused as often as they like: a line a second is enough.
void RunningAgent::on_refused(const std::string& why) {
  refused_++;
  if (loop_.now() < quiet_until_) return;
  log::warn("NBD client refused: {}{}", why,
            refused_ == 1 ? "" : fmt::format(" ({} since the last such line)", refused_));
  refused_ = 0;
  quiet_until_ = loop_.now() + std::chrono::seconds(1);
}

void RunningAgent::on_event(v1::VolumeEvent event) {
  // What makes a volume read-only, or is corrupt, was logged, as an error, where it was found.
  if (event.kind() != v1::VolumeEvent::KIND_READ_ONLY && event.kind() != v1::VolumeEvent::KIND_CORRUPT_DATA) {
    log::info("volume {}: {}", event.volume().name(), event.message());
  }
  if (session_ != nullptr) return session_->send_event(std::move(event));
  if (!options_.control.empty() && !stopping_ && early_events_.size() < limits::kQueuedReports) {
    early_events_.push_back(std::move(event));
  }
}

void RunningAgent::answer(v1::Ack ack) {
  if (session_ != nullptr) session_->send_ack(std::move(ack));
}

v1::Hello RunningAgent::hello() {
  v1::Hello out;
  out.set_agent_id(catalog_->agent_id());
  out.set_host(io::host_name());
  out.set_version(options_.version);
  for (v1::Pool& pool : catalog_->pools()) *out.add_pools() = std::move(pool);
  for (v1::Volume& volume : volumes_.reports()) *out.add_volumes() = std::move(volume);
  telemetry_.on_hello(volumes_.hosts());
  return out;
}

void RunningAgent::on_welcome(const v1::Welcome& welcome) {
  connected_ = true;
  const uint32_t asked = welcome.metrics_interval_ms();
  metrics_interval_ms_ =
      asked == 0 ? limits::kMetricsIntervalMsDefault
                 : std::clamp(asked, limits::kMetricsIntervalMsMin, limits::kMetricsIntervalMsMax);
  arm_tick();
}

void RunningAgent::arm_tick() {
  loop_.arm(tick_.timer, loop_.now() + std::chrono::milliseconds(metrics_interval_ms_));
}

void RunningAgent::on_tick(io::Op* op, int) {
  // The op is a member of the timer, which is the first member of Tick.
  void* timer = static_cast<std::byte*>(static_cast<void*>(op)) - offsetof(io::Timer, op);
  RunningAgent& self = *static_cast<Tick*>(timer)->owner;
  self.send_metrics();
  self.arm_tick();
}

void RunningAgent::send_metrics() {
  if (!connected_ || session_ == nullptr) return;
  v1::Metrics metrics = telemetry_.take(volumes_.hosts(), options_.clock(), loop_.now());
  // The pools as they were asked last: asking may block, so it is done aside, for the next time.
  for (v1::Pool& pool : catalog_->pools()) *metrics.add_pools() = std::move(pool);
  session_->send_metrics(std::move(metrics));
  if (refreshing_) return;
  refreshing_ = true;
  io::spawn(refresh_pools(), [this](const Status&) {
    refreshing_ = false;
    if (stopping_) refreshed_.set();
  });
}

io::Task<Status> RunningAgent::refresh_pools() {
  const Status refreshed = co_await catalog_->refresh_usage();
  co_return refreshed;
}

}  // namespace

io::Task<Result<std::unique_ptr<Agent>>> Agent::start(io::Loop& loop, Options options) {
  SystemRng rng;
  auto catalog = Catalog::open(loop, options.state_dir, rng);
  if (!catalog) co_return tl::unexpected(catalog.error());
  auto agent = std::make_unique<RunningAgent>(loop, std::move(options), std::move(*catalog));
  const Status begun = co_await agent->begin();
  if (!begun) {
    const Status stopped = co_await agent->stop();
    if (!stopped) log::error("{}", stopped.error().message);
    co_return tl::unexpected(begun.error());
  }
  co_return agent;
}

}  // namespace foreshadow::agent
