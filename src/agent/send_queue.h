#pragma once
// What waits to be sent to control.
#include <deque>
#include <mutex>
#include <optional>

#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::agent {

// Thread-safe. Metrics are worth only as much as they are new: past their bound the oldest go. Acks and
// events are never dropped on a connection: past their bound push() says no, and the session must be begun
// anew, where a Hello tells the truth.
class SendQueue {
 public:
  SendQueue(size_t reports_max, size_t metrics_max) : reports_max_(reports_max), metrics_max_(metrics_max) {}

  // An ack or an event. False, and everything queued is gone, when it is past the bound.
  bool push(v1::AgentMessage report);
  void push_metrics(v1::Metrics metrics);
  // Reports first, in their order.
  std::optional<v1::AgentMessage> pop();
  // A report that could not be sent goes first again; metrics do not.
  void put_back(v1::AgentMessage message);
  bool empty() const;
  // Before a Hello: metrics from before would be counted twice, and an event's volume must not be older than
  // the Hello's.
  void prepare_for(const v1::Hello& hello);

 private:
  const size_t reports_max_;
  const size_t metrics_max_;
  mutable std::mutex mutex_;
  std::deque<v1::AgentMessage> reports_;  // guarded by mutex_
  std::deque<v1::Metrics> metrics_;       // guarded by mutex_
};

}  // namespace foreshadow::agent
