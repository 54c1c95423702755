#include "agent/send_queue.h"

#include <map>
#include <utility>

namespace foreshadow::agent {

bool SendQueue::push(v1::AgentMessage report) {
  const std::lock_guard lock(mutex_);
  if (reports_.size() >= reports_max_) {
    reports_.clear();
    metrics_.clear();
    return false;
  }
  reports_.push_back(std::move(report));
  return true;
}

void SendQueue::push_metrics(v1::Metrics metrics) {
  const std::lock_guard lock(mutex_);
  if (metrics_.size() >= metrics_max_) metrics_.pop_front();
  metrics_.push_back(std::move(metrics));
}

std::optional<v1::AgentMessage> SendQueue::pop() {
  const std::lock_guard lock(mutex_);
  if (!reports_.empty()) {
    v1::AgentMessage out = std::move(reports_.front());
    reports_.pop_front();
    return out;
  }
  if (metrics_.empty()) return std::nullopt;
  v1::AgentMessage out;
  *out.mutable_metrics() = std::move(metrics_.front());
  metrics_.pop_front();
  return out;
}

void SendQueue::put_back(v1::AgentMessage message) {
  if (message.has_metrics()) return;
  const std::lock_guard lock(mutex_);
  reports_.push_front(std::move(message));
}

bool SendQueue::empty() const {
  const std::lock_guard lock(mutex_);
  return reports_.empty() && metrics_.empty();
}

void SendQueue::prepare_for(const v1::Hello& hello) {
  std::map<std::string, const v1::Volume*> now;
  for (const v1::Volume& volume : hello.volumes()) now[volume.id()] = &volume;
  const std::lock_guard lock(mutex_);
  metrics_.clear();
  for (v1::AgentMessage& message : reports_) {
    v1::Volume* volume = nullptr;
    if (message.has_event() && message.event().has_volume())
      volume = message.mutable_event()->mutable_volume();
    if (message.has_ack() && message.ack().has_volume()) volume = message.mutable_ack()->mutable_volume();
    if (volume == nullptr) continue;
    const auto current = now.find(volume->id());
    if (current != now.end()) *volume = *current->second;
  }
}

}  // namespace foreshadow::agent
