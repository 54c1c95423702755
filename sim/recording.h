#pragma once
// A short life of a volume on real files, through the real loop, with a note of all that its disks and its
// client saw.
#include <cstdint>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "io/recording_file.h"
#include "sim/oracle.h"
#include "sim/swarm.h"

namespace foreshadow::sim {

// What the client did or was told. The log's marks are indices of these.
struct ClientEvent {
  enum class Kind : uint8_t {
    kServing,  // the volume is open: from here on a crash must be survived
    kWrite,
    kZero,
    kTrim,
    kEnd,  // of the operation `op`
    kFlush,
    kFlushed,
    kMade,  // a backing exists, and is empty
    kAttachAsked,
    kAttached,
    kMergeAsked,
    kMerged,
    kReleaseAsked,  // folded or drained
    kReleased,      // and its file is gone
    kMoveAsked,     // it is to be the primary
    kMoved,         // it is, and the one so far is a shadow that leaves
    kGrowAsked,     // of what clients see, to `length`
    kGrown,
  };
  Kind kind = Kind::kServing;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint32_t op = 0;       // kEnd: the oracle's; kFlushed: the clock when the flush was submitted
  uint32_t backing = 0;  // kMade and on: its number; 0 is the first primary
  bool ok = false;       // kEnd
  bool durable = false;  // kEnd: it was sent with FUA
};

struct Recording {
  struct Made {
    Uuid uuid;
    uint64_t size = 0;
    bool is_base = false;
  };
  Swarm swarm;  // what the volume is like; over an image if it has base_bytes
  std::vector<io::IoEvent> log;
  std::vector<ClientEvent> client;
  std::vector<Made> backings;
  uint64_t squeezed = 0;  // clusters
  uint64_t released = 0;  // segments, folded or drained
  uint64_t grown = 0;     // times
  uint64_t moved = 0;     // the primary, times
  std::string trouble;    // why there is no recording
};

struct Image {
  Oracle::OpId op = 0;
  std::vector<std::byte> bytes;
};
// What the image of a volume over one holds before anything is recorded, and the reference told of it.
Image make_image(const Swarm& swarm, Oracle& oracle);
// `operations` of a client with several in flight, with shadows granted, activated, merged, folded and
// drained, segments resized and squeezed, growth, moves of the primary, checkpoints, and the volume closed
// and opened again on the way. One recording in three is of a volume over an image, one in four has no
// checksums. Files are made below `directory`, and removed. The seed decides what is asked for, not when the
// machine answers.
Recording record(const std::string& directory, uint64_t seed, uint32_t operations);

}  // namespace foreshadow::sim
