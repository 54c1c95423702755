#pragma once
// The agent's own bounds (promise G8), beside those of base/limits.h that it shares with the other rooms.
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace foreshadow::agent::limits {

inline constexpr size_t kAnswers = 1024;         // intents whose answer is remembered
inline constexpr size_t kRunningIntents = 4096;  // taken and not yet answered
inline constexpr size_t kQueuedReports = 8192;   // acks and events on their way to control
inline constexpr size_t kQueuedMetrics = 8;      // the newest win
inline constexpr size_t kIntentIdBytes = 128;
inline constexpr size_t kCheckFindings = 200;  // told in one report
inline constexpr size_t kFindingBytes = 400;
inline constexpr uint64_t kStateFileBytes = 4u << 20;
inline constexpr uint32_t kMetricsIntervalMsMin = 100;
inline constexpr uint32_t kMetricsIntervalMsMax = 60'000;
inline constexpr uint32_t kMetricsIntervalMsDefault = 1000;
inline constexpr uint32_t kHoldTimeoutMsDefault = 60'000;
inline constexpr uint32_t kHoldTimeoutMsMax = 600'000;
inline constexpr uint64_t kCorruptEvents = 16;  // of a volume that are all told; then each time they double
inline constexpr std::chrono::seconds kScrubNoteInterval{10};
inline constexpr std::chrono::milliseconds kReconnectMin{100};
inline constexpr std::chrono::milliseconds kReconnectMax{2000};

}  // namespace foreshadow::agent::limits
