#pragma once
// Every bound of the product, in one place (promise G8). Each has a test at the limit and one past it.
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace foreshadow::limits {

// Names and sizes.
inline constexpr size_t kNameLength = 63;                // [a-z0-9][a-z0-9-]{0,62}
inline constexpr uint64_t kVolumeSizeMin = 1ull << 20;   // 1 MiB
inline constexpr uint64_t kVolumeSizeMax = 1ull << 47;   // 128 TiB: 2^31 clusters of 64 KiB
inline constexpr uint64_t kSegmentSizeMin = 8ull << 20;  // 8 MiB, header and table included
inline constexpr uint64_t kSegmentSizeMax = 1ull << 44;  // 16 TiB
inline constexpr size_t kSegments = 64;                  // rows of a volume's segment table
inline constexpr size_t kVolumes = 1024;                 // served by one agent
inline constexpr size_t kPools = 64;

// NBD. Clients that ask are told kNbdAnnouncedBytes, what every client of the protocol may assume. Some, old
// ones above all, do not ask, and send more: that is served up to kNbdRequestBytes. The rest bounds a hostile
// peer.
inline constexpr uint32_t kNbdAnnouncedBytes = 32u << 20;   // payload of one READ or WRITE
inline constexpr uint32_t kNbdRequestBytes = 64u << 20;     // payload of one READ or WRITE
inline constexpr uint32_t kNbdOptions = 32;                 // options in one handshake
inline constexpr uint32_t kNbdOptionBytes = 8192;           // one option's payload
inline constexpr uint32_t kNbdMetaQueries = 64;             // queries in one SET_META_CONTEXT
inline constexpr uint32_t kNbdInFlightRequests = 256;       // per connection
inline constexpr uint64_t kNbdInFlightBytes = 64ull << 20;  // per connection
inline constexpr uint32_t kNbdConnections = 128;            // per server
inline constexpr uint32_t kNbdShareRequests = 32;           // that are a connection's own, whatever others do
inline constexpr uint64_t kNbdShareBytes = 1ull << 20;      // likewise
inline constexpr uint32_t kNbdSharedRequests = 8192;        // all connections', beyond those
inline constexpr uint64_t kNbdSharedBytes = 896ull << 20;   // likewise: with the shares, 1 GiB for a server
inline constexpr uint32_t kNbdExtents = 1u << 16;           // descriptors in one BLOCK_STATUS reply
inline constexpr std::chrono::seconds kNbdHandshakeTime{10};  // TLS's own included
// A client in its handshake is told of a shutdown by the answer to its next option, and has this long to ask.
inline constexpr std::chrono::seconds kNbdGoodbyeTime{1};
// A connection that neither takes a reply nor sends a payload for this long is dropped, once others wait for
// the memory that it holds.
inline constexpr std::chrono::seconds kNbdStallTime{10};
inline constexpr size_t kNbdPskUsers = 4096;
inline constexpr size_t kNbdPskUserBytes = 128;
inline constexpr size_t kNbdPskKeyBytesMin = 16;
inline constexpr size_t kNbdPskKeyBytesMax = 64;
inline constexpr size_t kNbdAuthorizationRules = 4096;
inline constexpr size_t kNbdTlsFileBytes = 1u << 20;  // of each file that an administrator gives

// Journal and engine.
inline constexpr size_t kBatchRecords = 16384;  // map records in one commit batch
inline constexpr size_t kHeldRequests = 4096;  // waiting at the wall, per volume; and as many paced before it
inline constexpr std::chrono::milliseconds kPaceMax{50};  // the longest delay of one write in the band

// Squeezed clusters, per volume.
inline constexpr size_t kUnpacksInFlight = 32;  // being read and decoded
inline constexpr size_t kDecodedClusters = 64;  // kept decoded: 4 MiB
inline constexpr size_t kSqueezeInFlight = 16;  // being read and compressed by a pass
inline constexpr size_t kSqueezeWaiting = 64;   // compressed, waiting for others to share a container with

// Control plane.
inline constexpr size_t kRpcMessageBytes = 4u << 20;
inline constexpr size_t kEventsPerPage = 500;
inline constexpr size_t kHistorySamplesPerVolume = 100'000;

}  // namespace foreshadow::limits
