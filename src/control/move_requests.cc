// What people ask for of moving a volume.
#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "base/names.h"
#include "base/size.h"
#include "base/types.h"
#include "control/requests.h"

namespace foreshadow::control {
namespace {

// As much as it has, and what it holds with room for new writes beside it, in clusters and in metadata: a
// table with head-room, checksums and the journal take less than a fourteenth.
uint64_t size_of_next(const v1::Segment& primary) {
  const uint64_t beside = std::min(64 * kMiB, primary.used() / 15 + kMiB);
  const uint64_t data = primary.used() + beside;
  const uint64_t size = std::max(primary.backing(), align_up(data + data / 14 + 2 * kMiB, kMiB));
  return std::clamp(size, foreshadow::limits::kSegmentSizeMin, foreshadow::limits::kSegmentSizeMax);
}

}  // namespace

Result<const v1::Segment*> Requests::movable(const VolumeModel& model) const {
  const v1::Volume& volume = model.volume();
  const auto refuse = [&](const std::string& why) {
    return fail(Code::kFailedPrecondition, fmt::format("volume {} cannot be moved: {}", model.name(), why));
  };
  if (!volume.base_path().empty()) return refuse("it lies over an image, whose table is in its primary");
  constexpr std::pair<std::string_view, std::string_view> kOthers[] = {{"move_primary", "moved"},
                                                                       {"fold_shadow", "folded"},
                                                                       {"drain_segment", "drained"},
                                                                       {"resize_segment", "resized"},
                                                                       {"delete_volume", "deleted"}};
  for (const auto& [kind, what] : kOthers) {
    if (reconciler_.ledger().about(kind, model.id(), "") == nullptr) continue;
    return refuse(fmt::format("it, or a segment of it, is being {} already", what));
  }
  const v1::Segment* primary = nullptr;
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.role() == v1::SEGMENT_ROLE_PRIMARY) primary = &segment;
    if (is_leaving(segment)) return refuse(fmt::format("segment {} is being released", segment.id()));
  }
  if (primary == nullptr) return refuse("its agent reports no primary");
  return primary;
}

Status Requests::move_volume(const v1::MoveVolumeRequest& request, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, writable(request.name()));
  TRY(Name::parse(request.pool(), "pool name"));
  const Fleet& fleet = reconciler_.fleet();
  const v1::Pool* pool = fleet.pool(model->agent(), request.pool());
  if (pool == nullptr) {
    return fail(Code::kNotFound, fmt::format("pool {}: agent {} has no such pool; there are: {}",
                                             quoted(request.pool()), model->agent(), fleet.pool_names()));
  }
  if (const auto* open = reconciler_.ledger().about("move_primary", model->id(), "");
      open != nullptr && open->row.payload.move_primary().pool() == request.pool()) {
    if (request.wait()) reconciler_.ledger().join(open->row.id, std::move(done));
    if (!request.wait()) answer_now(*model, done);
    return {};
  }
  ASSIGN_OR_RETURN(const v1::Segment* primary, movable(*model));
  if (primary->pool() == request.pool()) {
    return fail(Code::kInvalidArgument,
                fmt::format("the primary of volume {} is in pool {} already", model->name(), request.pool()));
  }
  const uint64_t size = size_of_next(*primary);
  const uint64_t free = reconciler_.pool_free(*pool);
  if (size > free) {
    return fail(Code::kNoSpace,
                fmt::format("pool {} can hand out {} ({} bytes), the new primary of volume {} takes {} ({} "
                            "bytes)",
                            pool->name(), format_size(free), free, model->name(), format_size(size), size));
  }
  TRY(reconciler_.move(*model, *pool, size, "asked for by hand", request.wait() ? std::move(done) : Done()));
  if (!request.wait()) answer_now(*model, done);
  return {};
}

void Requests::answer_now(const VolumeModel& model, const Done& done) const {
  v1::Ack already;
  *already.mutable_volume() = reconciler_.shown(model);
  done(already);
}

}  // namespace foreshadow::control
