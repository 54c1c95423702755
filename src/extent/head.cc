#include "extent/head.h"

#include <fmt/format.h>

#include <algorithm>

#include "extent/recovery.h"
#include "extent/sealed_block.h"
#include "io/buffer.h"

namespace foreshadow::extent {

io::Task<Result<HeadArea>> read_head_area(io::File& file, Uuid volume, Uuid segment) {
  const io::Buffer copies(size_t{kSuperCopies} * kSuperBytes);
  const int read = co_await io::read(file, Layout::super_offset(0), copies.span());
  if (read < 0) co_return fail_errno(read, "cannot read the superblock");
  HeadArea out;
  out.segment = segment;
  auto chosen = choose_superblock(copies.span(), volume, &out.highest);
  if (!chosen && chosen.error().code == Code::kUnsupported) co_return tl::unexpected(chosen.error());
  out.agreed = chosen.has_value();
  out.unfinished = !out.agreed && all_zero(copies.span().subspan(size_t{2} * kSuperBytes));
  if (!chosen) out.trouble = chosen.error();
  if (chosen) out.super = std::move(*chosen);
  for (uint32_t i = 0; i < kSuperCopies; ++i) {
    const auto copy = decode_superblock(copies.span().subspan(size_t{i} * kSuperBytes, kSuperBytes),
                                        Layout::super_offset(i), volume);
    out.good[i] = out.agreed && copy && *copy == out.super;
    if (!copy) out.blemishes.push_back(copy.error().message);
  }
  co_return out;
}

Result<size_t> choose_head(std::span<const HeadArea> areas) {
  const HeadArea* head = nullptr;
  for (const HeadArea& area : areas) {
    if (!area.agreed && (!area.unfinished || areas.size() == 1)) return tl::unexpected(area.trouble);
    if (!area.is_claim()) continue;
    if (head != nullptr && head->super.sequence == area.super.sequence) {
      return fail(Code::kCorrupt, fmt::format("segments {} and {} both claim to be the primary",
                                              head->segment.str(), area.segment.str()));
    }
    if (head == nullptr || area.super.sequence > head->super.sequence) head = &area;
  }
  for (const HeadArea& area : areas) {
    if (!area.is_mark() || (head != nullptr && head->super.sequence >= area.super.sequence)) continue;
    const Uuid& now = area.super.moved_to;
    const bool there =
        std::any_of(areas.begin(), areas.end(), [&](const auto& a) { return a.segment == now; });
    return fail(
        there ? Code::kCorrupt : Code::kNotFound,
        fmt::format("the primary is no longer segment {} but {}, which {}", area.segment.str(), now.str(),
                    there ? "does not say so: no two of its superblock copies are good" : "is missing"));
  }
  if (head == nullptr) return fail(Code::kCorrupt, "none of the segments claims to be the primary");
  return static_cast<size_t>(head - areas.data());
}

Superblock make_mark(const Superblock& super, const Uuid& head) {
  Superblock out = super;
  out.moved_to = head;
  out.features |= kFeatureMoved;
  return out;
}

bool needs_mark(const HeadArea& area) {
  const bool whole = std::all_of(area.good.begin(), area.good.end(), [](bool good) { return good; });
  const bool bare = area.unfinished && area.highest == 0;
  return !bare && !(area.is_mark() && whole);
}

}  // namespace foreshadow::extent
