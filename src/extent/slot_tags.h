#pragma once
// How a journal block that was written whole and then damaged is told from one that was torn.
//
// A block that does not fit at the end of history is a torn tail, which is normal, or the last commit,
// damaged: its checksum cannot say which. So byte 3 of each of the 126 record slots, used or not, carries a
// byte of a mix of the volume, the writer's epoch and the block's sequence; slot i has byte i mod 8 of it. A
// tear leaves whole sectors of 512 bytes as they were, with the tags of another block or none. If every
// sector has nearly all its tags, the block was written whole: it was, or may have been, acknowledged, and
// what does not fit in it is damage.
#include <cstddef>
#include <span>

#include "base/types.h"
#include "base/uuid.h"

namespace foreshadow::extent {

// `block` is kMetaBlock long, its records in place. Before it is sealed.
void tag_slots(std::span<std::byte> block, const Uuid& volume, Epoch epoch, BlockSeq seq);
// Whether each sector of `block` is of that block. A few damaged tags in a sector do not matter.
bool written_whole(std::span<const std::byte> block, const Uuid& volume, Epoch epoch, BlockSeq seq);

}  // namespace foreshadow::extent
