#include "control/event_log.h"

#include "base/log.h"

namespace foreshadow::control {
namespace {
constexpr uint64_t kRarelyMs = 60'000;
constexpr size_t kKeys = 8192;
}  // namespace

void EventLog::append(std::string_view kind, const std::string& volume, const std::string& message,
                      uint32_t segment_id) {
  v1::Event event;
  event.set_time_ms(clock_());
  event.set_kind(std::string(kind));
  event.set_volume(volume);
  event.set_message(message);
  event.set_segment_id(segment_id);
  const auto sequence = store_.add_event(event);
  if (!sequence) {
    log::error("event {} of volume {} not recorded: {}; it said: {}", kind, volume, sequence.error().message,
               message);
    return;
  }
  log::info("{} {} {}", kind, volume.empty() ? "-" : volume, message);
  appended_();
}

void EventLog::append_rarely(const std::string& key, std::string_view kind, const std::string& volume,
                             const std::string& message) {
  const uint64_t now = clock_();
  const auto found = last_ms_.find(key);
  if (found != last_ms_.end() && now < found->second + kRarelyMs && now >= found->second) return;
  // Forgetting all keys costs at most one repeated event each.
  if (last_ms_.size() >= kKeys) last_ms_.clear();
  last_ms_[key] = now;
  append(kind, volume, message);
}

}  // namespace foreshadow::control
