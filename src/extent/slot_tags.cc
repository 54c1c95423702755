#include "extent/slot_tags.h"

#include "base/assert.h"
#include "base/codec.h"
#include "extent/journal.h"

namespace foreshadow::extent {
namespace {

constexpr size_t kSector = 512;  // what a tear leaves whole, as io/file.h says
constexpr size_t kHeaderBytes = kMetaBlock - kRecordsPerBlock * kRecordBytes;
constexpr size_t kTagAt = 3;
// Of the 16 slots of a sector (14 in the first). By chance, six of eight bytes of another mix fit once in
// 2^43.
constexpr size_t kDamagedMax = 2;

uint64_t mix(uint64_t z) {  // the finaliser of splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint64_t mix(const Uuid& volume, Epoch epoch, BlockSeq seq) {
  DiskReader halves(volume.bytes);
  const uint64_t first = halves.u64();
  return mix(mix(mix(first + epoch.v) + halves.u64()) + seq.v);
}

std::byte tag(uint64_t mixed, size_t slot) {
  return static_cast<std::byte>(mixed >> slot % 8 * 8);
}

}  // namespace

void tag_slots(std::span<std::byte> block, const Uuid& volume, Epoch epoch, BlockSeq seq) {
  ASSERT(block.size() == kMetaBlock);
  const uint64_t mixed = mix(volume, epoch, seq);
  for (size_t slot = 0; slot < kRecordsPerBlock; ++slot) {
    block[kHeaderBytes + slot * kRecordBytes + kTagAt] = tag(mixed, slot);
  }
}

bool written_whole(std::span<const std::byte> block, const Uuid& volume, Epoch epoch, BlockSeq seq) {
  ASSERT(block.size() == kMetaBlock);
  const uint64_t mixed = mix(volume, epoch, seq);
  size_t wrong = 0;
  for (size_t slot = 0; slot < kRecordsPerBlock; ++slot) {
    const size_t at = kHeaderBytes + slot * kRecordBytes;
    if (at % kSector == 0) wrong = 0;
    wrong += block[at + kTagAt] == tag(mixed, slot) ? 0 : 1;
    if (wrong > kDamagedMax) return false;
  }
  return true;
}

}  // namespace foreshadow::extent
