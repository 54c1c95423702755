#pragma once
// What was answered to which intent.
#include <cstddef>
#include <deque>
#include <map>
#include <string>
#include <utility>

#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::agent {

// Remembers the last `max` answers; the oldest is forgotten first. A forgotten intent that comes again is
// recognised by its effect instead.
class Answers {
 public:
  explicit Answers(size_t max) : max_(max) {}
  const v1::Ack* find(const std::string& intent) const {
    const auto found = acks_.find(intent);
    return found == acks_.end() ? nullptr : &found->second;
  }
  void add(const v1::Ack& ack) {
    if (!acks_.emplace(ack.intent_id(), ack).second) return;
    order_.push_back(ack.intent_id());
    if (order_.size() <= max_) return;
    acks_.erase(order_.front());
    order_.pop_front();
  }
  size_t size() const { return acks_.size(); }

 private:
  size_t max_;
  std::map<std::string, v1::Ack> acks_;
  std::deque<std::string> order_;
};

}  // namespace foreshadow::agent
