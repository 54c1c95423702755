#pragma once
// The control plane's own bounds (promise G8), beside those of base/limits.h that it shares with the other
// rooms.
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace foreshadow::control::limits {

inline constexpr size_t kAgentSessions = 64;    // agents connected at once
inline constexpr size_t kEventFollowers = 64;   // WatchEvents streams that follow
inline constexpr size_t kWaitingRequests = 64;  // requests that wait for an agent's answer
inline constexpr int kRpcThreads = 256;  // above the three together, so that a short call finds a thread
inline constexpr size_t kSessionQueue = 8192;       // messages on their way to one agent
inline constexpr size_t kUnfinishedIntents = 4096;  // recorded and not yet answered, all agents
inline constexpr size_t kFinishedIntents = 10'000;  // kept in the store for the record and for lead times
inline constexpr size_t kEvents = 100'000;          // kept in the store
inline constexpr size_t kDecisionsPerVolume = 100;  // kept in the store
inline constexpr size_t kForecastReplay = 20'000;   // history samples that a forecaster reads again at start
inline constexpr size_t kLeadTimes = 100;           // measured lead times a p99 is taken over
inline constexpr size_t kGrantsInFlight = 4;        // per volume
inline constexpr size_t kIdLength = 128;            // an agent's id, host or version
inline constexpr size_t kDirectoryLength = 4095;    // a pool's directory
inline constexpr size_t kDeviceLength = 1024;       // bytes of the path of a device to adopt
inline constexpr uint32_t kHoldTimeoutMaxMs = 600'000;
inline constexpr uint32_t kHoldTimeoutDefaultMs = 60'000;
inline constexpr uint64_t kScrubRateMax = 1ull << 40;  // bytes a second
inline constexpr uint32_t kReclaimHoldMaxS = 30 * 24 * 3600;
// Of a request whose answer takes as long as copying does; its caller's own deadline is what ends it.
inline constexpr std::chrono::hours kLongAckTimeout{30 * 24};
inline constexpr size_t kHttpConnections = 16;            // one request and one thread each; more wait
inline constexpr size_t kHttpHeadBytes = 32 * 1024;       // of a request: its first line and headers
inline constexpr std::chrono::seconds kHttpIdleTime{5};   // without a byte, before a connection is closed
inline constexpr std::chrono::seconds kHttpCallTime{60};  // above kAckTimeout, which tells more
inline constexpr std::chrono::seconds kAckTimeout{30};
inline constexpr std::chrono::seconds kShutdownTime{2};

}  // namespace foreshadow::control::limits
