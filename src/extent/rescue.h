#pragma once
// Rescue: what a volume consists of, from its segments alone, when no superblock says so any more.
//
// Why what is rebuilt is right. The ring holds the newest blocks of history as one chain. Its space is reused
// only behind a durable superblock that no longer needs it, so if the slot before the chain's first block
// holds something newer, or the chain begins with block 1, the chain reaches back to where replay would have
// begun, or further. Records are of absolute state: the tables, as any checkpoint from there on has left
// them, with the whole chain replayed over them, give the map as of the newest block. A damaged page would be
// an older one without anybody noticing, since the digest is lost with the superblock: then nothing is
// rebuilt. What cannot be known is told: whether a shadow was merged (all are taken as merged: no data
// depends on it), the redirect mode, the size, if its records are gone, and a page that was lost without a
// trace.
//
// What is on disk goes before a guess: a superblock that two copies agree on, or one of which a single good
// copy is left, is taken as it is. And nothing is proposed that recover() has not accepted.
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "extent/label.h"
#include "extent/recovery.h"
#include "extent/superblock.h"
#include "io/file.h"
#include "io/task.h"

namespace foreshadow::extent {

struct Rebuilt {
  Superblock super;
  bool stands = false;  // two copies on disk say so: only the others have to be marked
  size_t primary = 0;   // index of its file
  Uuid head;
  std::vector<size_t> to_mark;  // files that must be told that it is the head (extent/head.h)
  std::string from;  // in words
  std::vector<std::string> assumptions;
  std::unique_ptr<Recovered> state;  // the volume with that superblock
};

// `files` and `base` as for recover(); none is written to. kCorrupt, with the reason, if what is there proves
// nothing.
io::Task<Result<Rebuilt>> rebuild_superblock(std::vector<io::File*> files, size_t base = kNoBase);

}  // namespace foreshadow::extent
