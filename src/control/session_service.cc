#include "control/session_service.h"

#include <fmt/format.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/log.h"
#include "control/control_limits.h"
#include "control/grpc_status.h"
#include "control/seat.h"

namespace foreshadow::control {
namespace {

using Stream = grpc::ServerReaderWriter<v1::ControlMessage, v1::AgentMessage>;

// The link of one session: a bounded queue and the thread that empties it into the stream. An agent that does
// not read holds up its own session only; past the bound it is let go, and hears everything unanswered again
// when it returns.
class SessionLink final : public AgentLink {
 public:
  SessionLink(grpc::ServerContext& context, Stream& stream)
      : context_(context), stream_(stream), writer_([this] { write_all(); }) {}
  ~SessionLink() override { finish(); }

  void send(const v1::ControlMessage& message) override {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    if (queue_.size() >= limits::kSessionQueue) {
      reason_ = "the agent does not read its messages";
      closing_ = cut_ = true;
    } else {
      queue_.push_back(message);
    }
    ready_.notify_one();
    // The writer may be inside a write that nobody reads; only this ends it.
    if (cut_) context_.TryCancel();
  }

  void close(const std::string& reason) override {
    const std::lock_guard lock(mutex_);
    if (reason_.empty()) reason_ = reason;
    closing_ = cut_ = true;
    ready_.notify_one();
  }

  // The stream has ended: no send() may follow. Joins the writer, so that the stream may go.
  void finish() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
      ready_.notify_one();
    }
    if (writer_.joinable()) writer_.join();
  }

  std::string reason() const {
    const std::lock_guard lock(mutex_);
    return reason_;
  }

 private:
  void write_all() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ready_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) break;
      const v1::ControlMessage message = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      const bool written = stream_.Write(message);
      lock.lock();
      if (written) continue;
      queue_.clear();
      closing_ = true;
    }
    // What was queued is out; the reader wakes up and ends the session.
    if (cut_) context_.TryCancel();
  }

  grpc::ServerContext& context_;
  Stream& stream_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<v1::ControlMessage> queue_;
  std::string reason_;
  bool closing_ = false;  // nothing more is queued
  bool cut_ = false;      // the stream is cancelled once the queue is empty
  std::thread writer_;    // last: it uses all of the above
};

void take(Core& core, const std::string& agent, const v1::AgentMessage& message) {
  const std::lock_guard lock(core.mutex);
  switch (message.body_case()) {
    case v1::AgentMessage::kMetrics:
      return core.reconciler.metrics(agent, message.metrics());
    case v1::AgentMessage::kAck:
      return core.reconciler.ack(agent, message.ack());
    case v1::AgentMessage::kEvent:
      return core.reconciler.event(agent, message.event());
    case v1::AgentMessage::kHello:
    case v1::AgentMessage::BODY_NOT_SET:
      break;
  }
  // A newer agent may know kinds of message that we do not; they are not worth the session.
  log::debug("agent {}: message of no known kind ignored", agent);
}

}  // namespace

grpc::Status SessionService::Session(grpc::ServerContext* context, Stream* stream) {
  const Seat seat(sessions_, limits::kAgentSessions);
  if (!seat.granted()) {
    return to_grpc(
        {Code::kLimit, fmt::format("{} agents are connected: no more are taken", limits::kAgentSessions)});
  }
  v1::AgentMessage first;
  if (!stream->Read(&first) || !first.has_hello()) {
    return to_grpc({Code::kInvalidArgument, "the first message of a session is Hello"});
  }
  const std::string agent = first.hello().agent_id();
  SessionLink link(*context, *stream);
  {
    const std::lock_guard lock(core_.mutex);
    if (core_.stopping) return to_grpc({Code::kShutdown, "control is going away"});
    const Status taken = core_.reconciler.hello(link, first.hello());
    if (!taken) return to_grpc(taken.error());
  }
  v1::AgentMessage message;
  bool twice = false;
  while (!twice && stream->Read(&message)) {
    twice = message.has_hello();
    if (!twice) take(core_, agent, message);
  }
  {
    // From here on the core knows no link of this session, so nothing is sent to it any more.
    const std::lock_guard lock(core_.mutex);
    core_.reconciler.disconnected(agent, link);
  }
  link.finish();
  if (twice) return to_grpc({Code::kInvalidArgument, "Hello comes once, first"});
  const std::string reason = link.reason();
  if (!reason.empty()) return to_grpc({Code::kUnavailable, reason});
  return grpc::Status::OK;
}

}  // namespace foreshadow::control
