#pragma once
// Repair: makes good what has a second copy that is provably the same, and nothing else.
//
// What counts as proof. A label or superblock copy: the other copy, by the same rules as opening. Any sealed
// block: a single flipped bit is found by trying each, and proven by the block's CRC-32C together with what
// names it from elsewhere (own offset, chain to its neighbours, digest). A table page: the page before it
// with what the journal still holds of history, if that gives the very share of the superblock's digest that
// is missing. Whatever cannot be proven so is left as it is, and told.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "extent/label.h"
#include "io/file.h"
#include "io/task.h"

namespace foreshadow::extent {

struct RepairReport {
  std::vector<std::string> repaired;  // what was done; with `apply` false, what would be
  std::vector<std::string> refused;   // what is damaged and cannot be proven
  std::vector<size_t> orphans;        // files that name the volume but are not part of it: safe to remove
};

// `files`: every backing that names the volume, opened for writing if `apply`. Each repair is durable before
// the next one is looked at. An error of a file ends it; what was done stays done, and a repeat goes on.
// `base`: which of them is the image that an `over` volume lies over; nothing is read from it or written to
// it.
io::Task<Result<RepairReport>> repair_segments(std::vector<io::File*> files, bool apply,
                                               size_t base = kNoBase);

// The one bit that must be flipped back for `block` to be sealed, and flips it. False: there is none.
bool flip_back(std::span<std::byte> block, std::string_view magic, size_t crc_at);

}  // namespace foreshadow::extent
