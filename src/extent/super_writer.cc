#include "extent/recovery.h"
#include "io/buffer.h"

namespace foreshadow::extent {
namespace {

io::Task<Status> write_copies(io::File& primary, const Superblock& super,
                              std::array<bool, kSuperCopies> which) {
  const io::Buffer bytes(kSuperBytes);
  for (uint32_t copy = 0; copy < kSuperCopies; ++copy) {
    if (!which[copy]) continue;
    const uint64_t offset = Layout::super_offset(copy);
    encode_superblock(super, offset, bytes.span());
    const int written = co_await io::write(primary, offset, bytes.span());
    if (written < 0) co_return fail_errno(written, "cannot write the superblock");
  }
  const int synced = co_await io::sync(primary);
  if (synced < 0) co_return fail_errno(synced, "cannot sync the superblock");
  co_return Status{};
}

}  // namespace

io::Task<Status> write_superblock(io::File& primary, const Superblock& super) {
  auto first = co_await write_copies(primary, super, {true, true, false, false});
  if (!first) co_return first;
  auto second = co_await write_copies(primary, super, {false, false, true, true});
  co_return second;
}

io::Task<Status> repair_superblock(io::File& primary, const Superblock& super,
                                   std::array<bool, kSuperCopies> good) {
  std::array<bool, kSuperCopies> bad{};
  bool any = false;
  for (uint32_t copy = 0; copy < kSuperCopies; ++copy) {
    bad[copy] = !good[copy];
    any = any || bad[copy];
  }
  if (!any) co_return Status{};
  auto written = co_await write_copies(primary, super, bad);
  co_return written;
}

}  // namespace foreshadow::extent
