// Label, superblock and table page as any bytes: the same back from what was decoded, or a clean error.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>

#include "extent/label.h"
#include "extent/sealed_block.h"
#include "extent/superblock.h"
#include "extent/table_page.h"
#include "io/buffer.h"

using namespace foreshadow;
using namespace foreshadow::extent;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const io::Buffer bytes(kSuperBytes);
  const io::Buffer again(kSuperBytes);
  std::memset(bytes.data(), 0, bytes.size());
  std::memcpy(bytes.data(), data + 1, std::min(size - 1, bytes.size()));
  if (data[0] % 3 == 0) {
    seal_block(bytes.first(kMetaBlock), 8);
    if (const auto label = decode_label(bytes.first(kMetaBlock), 0)) {
      encode_label(*label, 0, again.first(kMetaBlock));
      const auto back = decode_label(again.first(kMetaBlock), 0);
      if (!back || *back != *label) std::abort();
    }
  } else if (data[0] % 3 == 1) {
    seal_block(bytes.span(), 8);
    if (const auto super = decode_superblock(bytes.span(), 0, Uuid{})) {
      encode_superblock(*super, 0, again.span());
      const auto back = decode_superblock(again.span(), 0, Uuid{});
      if (!back || *back != *super) std::abort();
    }
  } else {
    seal_block(bytes.first(kMetaBlock), 4);
    const auto place = decode_page(bytes.first(kMetaBlock), Uuid{}, Uuid{}, 0, Pcn(kGranuleClusters));
    if (place && *place) encode_page((*place)->page, again.first(kMetaBlock));
  }
  return 0;
}
