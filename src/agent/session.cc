#include "agent/session.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "agent/agent_limits.h"
#include "agent/send_queue.h"
#include "base/limits.h"
#include "base/log.h"
#include "foreshadow/v1/agent.grpc.pb.h"

namespace foreshadow::agent {
namespace {

using Stream = grpc::ClientReaderWriter<v1::AgentMessage, v1::ControlMessage>;

// What calls posted to the loop find the Host by: they may run after the Session is gone. Used on the loop
// only.
struct HostLink {
  Session::Host* host = nullptr;
};

class GrpcSession final : public Session {
 public:
  GrpcSession(io::Loop& loop, std::string target, Host& host) : loop_(loop), target_(std::move(target)) {
    link_->host = &host;
    thread_ = std::thread([this] { run(); });
  }
  ~GrpcSession() override {
    GrpcSession::stop();
    GrpcSession::join();
  }

  void send_ack(v1::Ack ack) override {
    v1::AgentMessage message;
    *message.mutable_ack() = std::move(ack);
    send(std::move(message));
  }
  void send_event(v1::VolumeEvent event) override {
    v1::AgentMessage message;
    *message.mutable_event() = std::move(event);
    send(std::move(message));
  }
  void send_metrics(v1::Metrics metrics) override {
    queue_.push_metrics(std::move(metrics));
    wake();
  }
  void renew() override {
    const std::lock_guard lock(mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }
  void stop() override;
  void join() override {
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct Handed {
    std::optional<v1::Hello> hello;  // guarded by the session's mutex
  };

  void send(v1::AgentMessage message);
  void wake();
  void run();
  bool talk();
  std::optional<v1::Hello> ask_for_hello();
  void write_all(Stream& stream);
  void take(v1::ControlMessage message);
  void tell_disconnected();

  io::Loop& loop_;
  const std::string target_;
  const std::shared_ptr<HostLink> link_ = std::make_shared<HostLink>();
  SendQueue queue_{limits::kQueuedReports, limits::kQueuedMetrics};

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;                   // guarded by mutex_
  bool broken_ = false;                     // guarded by mutex_: this connection is over
  grpc::ClientContext* context_ = nullptr;  // guarded by mutex_: of the call under way
  bool reported_away_ = false;              // thread_ only: one line in the log for each change
  std::thread thread_;
};

void GrpcSession::stop() {
  link_->host = nullptr;
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  if (context_ != nullptr) context_->TryCancel();
  changed_.notify_all();
}

void GrpcSession::send(v1::AgentMessage message) {
  if (queue_.push(std::move(message))) return wake();
  log::warn("control takes in nothing: {} reports wait for it; the session begins anew",
            limits::kQueuedReports);
  renew();
}

// Under the mutex, so that the writer cannot look before the push and sleep after it.
void GrpcSession::wake() {
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void GrpcSession::run() {
  auto pause = limits::kReconnectMin;
  for (;;) {
    const bool talked = talk();
    pause = talked ? limits::kReconnectMin : std::min(pause * 2, limits::kReconnectMax);
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, pause, [this] { return stopping_; })) return;
  }
}

// One connection, from its beginning to its end. True if control answered on it.
bool GrpcSession::talk() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(foreshadow::limits::kRpcMessageBytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(foreshadow::limits::kRpcMessageBytes));
  // Each attempt is its own: the library's shared connections would add waits of their own.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto channel = grpc::CreateCustomChannel(target_, grpc::InsecureChannelCredentials(), arguments);
  const auto stub = v1::AgentService::NewStub(channel);
  grpc::ClientContext context;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
    context_ = &context;
    broken_ = false;
  }
  bool talked = false;
  const std::unique_ptr<Stream> stream = stub->Session(&context);
  // Asked for at the last moment, so that nothing that happens is missed: what comes after it is queued.
  std::optional<v1::Hello> hello = ask_for_hello();
  v1::AgentMessage first;
  if (hello) *first.mutable_hello() = std::move(*hello);
  const bool fits = first.ByteSizeLong() <= foreshadow::limits::kRpcMessageBytes;
  if (!fits)
    log::error("the inventory takes {} bytes: control can take {}", first.ByteSizeLong(),
               foreshadow::limits::kRpcMessageBytes);
  if (first.has_hello() && fits && stream->Write(first)) {
    std::thread writer([this, &stream] { write_all(*stream); });
    v1::ControlMessage message;
    while (stream->Read(&message)) {
      if (!talked) log::info("connected to control at {}", target_);
      talked = true;
      reported_away_ = false;
      take(std::move(message));
      message.Clear();
    }
    {
      const std::lock_guard lock(mutex_);
      broken_ = true;
      changed_.notify_all();
    }
    context.TryCancel();  // a write that control does not take in would not end
    writer.join();
  } else {
    context.TryCancel();
  }
  const grpc::Status status = stream->Finish();
  const std::lock_guard lock(mutex_);
  context_ = nullptr;
  if (stopping_) return talked;
  tell_disconnected();
  // CANCELLED is our own, said once the stream has ended.
  const bool ended = status.ok() || status.error_code() == grpc::StatusCode::CANCELLED;
  const std::string reason = ended ? "it ended the session" : status.error_message();
  if (!reported_away_) log::warn("no control at {}: {}; serving on", target_, reason);
  reported_away_ = true;
  return talked;
}

// Has the loop make it. Nothing if the session ends meanwhile.
std::optional<v1::Hello> GrpcSession::ask_for_hello() {
  const auto handed = std::make_shared<Handed>();
  loop_.run_on_loop([this, handed, link = link_] {
    if (link->host == nullptr) return;  // stop() was called: `this` may be gone
    v1::Hello hello = link->host->hello();
    queue_.prepare_for(hello);
    const std::lock_guard lock(mutex_);
    handed->hello = std::move(hello);
    changed_.notify_all();
  });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || handed->hello.has_value(); });
  if (stopping_) return std::nullopt;
  return std::move(handed->hello);
}

void GrpcSession::write_all(Stream& stream) {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || broken_ || !queue_.empty(); });
      if (stopping_ || broken_) return;
    }
    const std::optional<v1::AgentMessage> message = queue_.pop();
    if (!message) continue;
    if (message->ByteSizeLong() > foreshadow::limits::kRpcMessageBytes) {
      log::error("a report of {} bytes is not sent: control can take {}", message->ByteSizeLong(),
                 foreshadow::limits::kRpcMessageBytes);
      continue;
    }
    // What is lost with the connection, the next Hello makes good; an intent without its ack is sent again.
    if (stream.Write(*message)) continue;
    queue_.put_back(*message);
    return;
  }
}

void GrpcSession::take(v1::ControlMessage message) {
  loop_.run_on_loop([link = link_, message = std::move(message)]() mutable {
    if (link->host == nullptr) return;
    if (message.has_welcome()) link->host->on_welcome(message.welcome());
    if (message.has_intent()) link->host->on_intent(std::move(*message.mutable_intent()));
  });
}

void GrpcSession::tell_disconnected() {
  loop_.run_on_loop([link = link_] {
    if (link->host != nullptr) link->host->on_disconnected();
  });
}

}  // namespace

std::unique_ptr<Session> Session::start(io::Loop& loop, std::string target, Host& host) {
  return std::make_unique<GrpcSession>(loop, std::move(target), host);
}

}  // namespace foreshadow::agent
