#include "nbd/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <utility>

#include "base/limits.h"

namespace foreshadow::nbd {
namespace {

// Idle buffers kept between requests: enough for one connection at its limit.
constexpr size_t kIdleBufferBytes = limits::kNbdInFlightBytes;
// Out of descriptors, say: the backlog keeps the clients meanwhile.
constexpr std::chrono::milliseconds kAcceptRetry{100};

}  // namespace

struct Server::Accepting {
  struct Retry {
    io::Timer timer;  // first, so that its address is the Retry's
    Accepting* owner;
  };
  Server* server;
  std::unique_ptr<io::Listener> listener;
  Security security;
  struct AcceptOp : io::Op {
    Accepting* owner = nullptr;
  } op;
  Retry retry{{}, this};
  bool in_flight = false;

  Accepting(Server* s, std::unique_ptr<io::Listener> l, Security w)
      : server(s), listener(std::move(l)), security(std::move(w)) {
    op.owner = this;
    op.done = [](io::Op* done, int result) {
      Accepting* self = static_cast<AcceptOp*>(done)->owner;
      self->server->on_accepted(*self, result);
    };
    retry.timer.op.done = on_retry;
  }
  static void on_retry(io::Op* done, int) {
    auto* timer = static_cast<std::byte*>(static_cast<void*>(done)) - offsetof(io::Timer, op);
    Accepting* self = static_cast<Retry*>(static_cast<void*>(timer))->owner;
    self->server->accept_next(*self);
  }
};

Server::Server(io::Executor& executor, Allowance::Bounds bounds)
    : executor_(executor),
      pool_(kIdleBufferBytes),
      allowance_(executor, [this] { drop_stalled(); }, bounds) {}

Server::~Server() {
  ASSERT(sessions_.empty() && !check_posted_);
  for (const auto& accepting : listeners_) ASSERT(!accepting->in_flight && !accepting->retry.timer.armed());
}

void Server::add_listener(std::unique_ptr<io::Listener> listener, Security security) {
  ASSERT(!stopping_);
  listeners_.push_back(std::make_unique<Accepting>(this, std::move(listener), std::move(security)));
  accept_next(*listeners_.back());
}

Status Server::add_export(const Name& name, block::BlockDevice& device) {
  if (stopping_) return fail(Code::kFailedPrecondition, "the NBD server is stopping");
  if (!exports_.emplace(name.str(), &device).second) {
    return fail(Code::kAlreadyExists, fmt::format("there is already an export {}", name.str()));
  }
  return {};
}

Status Server::remove_export(std::string_view name) {
  const auto found = exports_.find(name);
  if (found == exports_.end())
    return fail(Code::kNotFound, fmt::format("there is no export {}", quoted(name)));
  exports_.erase(found);
  return {};
}

void Server::drain_export(block::BlockDevice& device, std::function<void()> done) {
  std::erase_if(exports_, [&](const auto& entry) { return entry.second == &device; });
  for (const auto& [key, session] : sessions_) {
    if (session->device() == &device) session->drain();
  }
  waiters_.push_back({&device, std::move(done)});
  check_waiters();
}

void Server::stop(std::function<void()> done) {
  stopping_ = true;
  for (const auto& accepting : listeners_) {
    executor_.cancel(accepting->retry.timer);
    accepting->listener->stop();
  }
  for (const auto& [key, session] : sessions_) session->drain();
  waiters_.push_back({nullptr, std::move(done)});
  check_waiters();
}

size_t Server::session_count(const block::BlockDevice& device) const {
  return static_cast<size_t>(std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& entry) {
    return entry.second->device() == &device;
  }));
}

block::BlockDevice* Server::find(std::string_view name) {
  const auto found = exports_.find(name);
  return found == exports_.end() ? nullptr : found->second;
}

std::vector<std::string> Server::names() {
  std::vector<std::string> out;
  out.reserve(exports_.size());
  for (const auto& [name, device] : exports_) out.push_back(name);
  return out;
}

void Server::session_ended(Session& session) {
  sessions_.erase(&session);
  if (!waiters_.empty()) check_waiters();
}

void Server::accept_next(Accepting& accepting) {
  accepting.in_flight = true;
  accepting.listener->accept(accepting.op);
}

void Server::on_accepted(Accepting& accepting, int result) {
  accepting.in_flight = false;
  std::unique_ptr<io::Stream> stream = result >= 0 ? accepting.listener->take() : nullptr;
  if (stopping_) {
    // A connection that came at the last moment is closed by leaving this scope.
    return check_waiters();
  }
  if (stream != nullptr && sessions_.size() < limits::kNbdConnections) {
    ExportTable& exports = *this;
    Session::Host& host = *this;
    const Session::Commons commons{executor_, pool_, allowance_};
    auto session = std::make_unique<Session>(commons, exports, host, std::move(stream), accepting.security);
    Session& started = *session;
    sessions_.emplace(&started, std::move(session));
    started.start();
  }
  if (result >= 0) {
    accept_next(accepting);
  } else if (result != -ECANCELED) {
    executor_.arm(accepting.retry.timer, executor_.now() + kAcceptRetry);
  }
}

bool Server::is_over(const Waiter& waiter) const {
  if (waiter.device != nullptr) return session_count(*waiter.device) == 0;
  return sessions_.empty() && std::none_of(listeners_.begin(), listeners_.end(),
                                           [](const auto& accepting) { return accepting->in_flight; });
}

void Server::drop_stalled() {
  for (const auto& [key, session] : sessions_) session->drop_if_stalled();
}

// Looks soon, from the executor, whether a waiter can be called.
void Server::check_waiters() {
  if (check_posted_) return;
  check_posted_ = true;
  executor_.post(check_op_);
}

void Server::on_check(int) {
  check_posted_ = false;
  std::vector<std::function<void()>> over;
  // A stop() is told last, since the server may be destroyed by it.
  for (const bool whole : {false, true}) {
    std::erase_if(waiters_, [&](Waiter& waiter) {
      if ((waiter.device == nullptr) != whole || !is_over(waiter)) return false;
      over.push_back(std::move(waiter.done));
      return true;
    });
  }
  for (const auto& done : over) done();
}

}  // namespace foreshadow::nbd
