#pragma once
// The record of what happened: into the store, and to whoever follows it.
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "control/clock.h"
#include "control/store.h"

namespace foreshadow::control {

// Not thread-safe: the core's mutex guards it. An event that cannot be stored is logged and lost: the record
// never stops the work it records.
class EventLog {
 public:
  // `appended` is called with the mutex held, after each event.
  EventLog(Store& store, Clock clock, std::function<void()> appended)
      : store_(store), clock_(std::move(clock)), appended_(std::move(appended)) {}

  void append(std::string_view kind, const std::string& volume, const std::string& message,
              uint32_t segment_id = 0);
  // The same, at most once a minute per `key`: what an agent can repeat every second must not push the rest
  // out.
  void append_rarely(const std::string& key, std::string_view kind, const std::string& volume,
                     const std::string& message);

 private:
  Store& store_;
  Clock clock_;
  std::function<void()> appended_;
  std::map<std::string, uint64_t> last_ms_;  // by key; bounded by kKeys
};

}  // namespace foreshadow::control
