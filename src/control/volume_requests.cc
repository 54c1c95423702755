// What people ask for about a volume as a whole, besides making a thin one.
#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "base/names.h"
#include "base/size.h"
#include "control/control_limits.h"
#include "control/requests.h"

namespace foreshadow::control {
namespace {
namespace base_limits = foreshadow::limits;
}

Status check_redirect(v1::RedirectMode redirect) {
  if (v1::RedirectMode_IsValid(redirect)) return {};
  return fail(
      Code::kInvalidArgument,
      fmt::format("redirect {}: expected {} (allocating) or {} (all)", static_cast<int>(redirect),
                  static_cast<int>(v1::REDIRECT_MODE_ALLOCATING), static_cast<int>(v1::REDIRECT_MODE_ALL)));
}

Status check_wall(uint32_t hold_timeout_ms, const v1::Backpressure& backpressure) {
  if (hold_timeout_ms > limits::kHoldTimeoutMaxMs) {
    return fail(Code::kInvalidArgument,
                fmt::format("hold_timeout_ms {}: at most {}", hold_timeout_ms, limits::kHoldTimeoutMaxMs));
  }
  if (backpressure.percent() > 100) {
    return fail(Code::kInvalidArgument,
                fmt::format("backpressure of {} %: at most 100", backpressure.percent()));
  }
  return {};
}

Status check_policy(const v1::VolumePolicy& policy) {
  if (!v1::MergeMode_IsValid(policy.merge())) {
    return fail(Code::kInvalidArgument,
                fmt::format("merge {}: expected {} (adopt) or {} (fold)", static_cast<int>(policy.merge()),
                            static_cast<int>(v1::MERGE_MODE_ADOPT), static_cast<int>(v1::MERGE_MODE_FOLD)));
  }
  if (policy.reclaim_hold_s() > limits::kReclaimHoldMaxS) {
    return fail(Code::kInvalidArgument, fmt::format("reclaim_hold_s {}: at most {}", policy.reclaim_hold_s(),
                                                    limits::kReclaimHoldMaxS));
  }
  return {};
}

Result<const v1::Pool*> Requests::place_for(const std::string& name, const std::string& pool_name,
                                            uint64_t primary_size) const {
  bool taken = reconciler_.fleet().volume_named(name) != nullptr;
  size_t creating = 0;
  for (const auto& [number, open] : reconciler_.ledger().open()) {
    const v1::Intent& intent = open.row.payload;
    if (!intent.has_create_volume() && !intent.has_adopt_device()) continue;
    taken = taken || name == (intent.has_create_volume() ? intent.create_volume().name()
                                                         : intent.adopt_device().name());
    ++creating;
  }
  if (taken) return fail(Code::kAlreadyExists, fmt::format("volume \"{}\" exists already", name));
  ASSIGN_OR_RETURN(const v1::Pool* pool, pool_for(pool_name.empty() ? "default" : pool_name));
  const size_t served = reconciler_.fleet().volumes_of(pool->agent_id()).size() + creating;
  if (served >= base_limits::kVolumes) {
    return fail(Code::kLimit, fmt::format("agent {} serves {} volumes: at most {}", pool->agent_id(), served,
                                          base_limits::kVolumes));
  }
  const uint64_t free = reconciler_.pool_free(*pool);
  if (primary_size > free) {
    return fail(Code::kNoSpace,
                fmt::format("pool \"{}\" can hand out {} ({} bytes), {} ({} bytes) are wanted", pool->name(),
                            format_size(free), free, format_size(primary_size), primary_size));
  }
  return pool;
}

Status Requests::adopt_device(const v1::AdoptDeviceRequest& request, Done done) {
  TRY(Name::parse(request.name(), "volume name"));
  const std::string& device = request.device();
  const bool printable = std::all_of(device.begin(), device.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  });
  if (device.empty() || device.front() != '/' || !printable || device.size() > limits::kDeviceLength) {
    return fail(Code::kInvalidArgument,
                fmt::format("device {}: expected an absolute path of at most {} bytes", quoted(device),
                            limits::kDeviceLength));
  }
  // The image's own size need not be a multiple of anything; one that is asked for is.
  if (request.size() != 0)
    TRY(check_size(request.size(), "size", base_limits::kVolumeSizeMin, base_limits::kVolumeSizeMax));
  if (request.primary_size() != 0) {
    TRY(check_size(request.primary_size(), "primary_size", base_limits::kSegmentSizeMin,
                   base_limits::kSegmentSizeMax));
  }
  TRY(check_redirect(request.redirect()));
  TRY(check_wall(request.hold_timeout_ms(), request.backpressure()));
  ASSIGN_OR_RETURN(const v1::Pool* pool, place_for(request.name(), request.pool(), request.primary_size()));
  v1::Intent intent;
  v1::Intent::AdoptDevice& action = *intent.mutable_adopt_device();
  action.set_volume_id(reconciler_.new_uuid().str());
  action.set_name(request.name());
  action.set_device(device);
  action.set_pool(pool->name());
  action.set_primary_size(request.primary_size());
  action.set_size(request.size());
  action.set_redirect(request.redirect() == v1::REDIRECT_MODE_UNSPECIFIED ? v1::REDIRECT_MODE_ALLOCATING
                                                                          : request.redirect());
  action.set_hold_timeout_ms(request.hold_timeout_ms() == 0 ? limits::kHoldTimeoutDefaultMs
                                                            : request.hold_timeout_ms());
  if (request.has_backpressure()) *action.mutable_backpressure() = request.backpressure();
  return reconciler_.begin(pool->agent_id(), std::move(intent), std::move(done));
}

Status Requests::grow_volume(const v1::GrowVolumeRequest& request, Done done) {
  ASSIGN_OR_RETURN(const VolumeModel* model, volume(request.name()));
  const v1::Volume& now = model->volume();
  TRY(check_size(request.size(), "size", base_limits::kVolumeSizeMin, base_limits::kVolumeSizeMax));
  if (request.size() < now.size()) {
    return fail(Code::kInvalidArgument,
                fmt::format("volume {} has {} already, and its size never shrinks: {} cannot be",
                            model->name(), format_size(now.size()), format_size(request.size())));
  }
  if (!now.read_only_reason().empty()) {
    return fail(Code::kFailedPrecondition,
                fmt::format("volume {} is read-only: {}", model->name(), now.read_only_reason()));
  }
  // One at a time: repeated after a later one, an earlier would be refused.
  if (reconciler_.ledger().about("grow_volume", model->id(), "") != nullptr) {
    return fail(Code::kFailedPrecondition, fmt::format("volume {} is growing already", model->name()));
  }
  v1::Intent intent;
  intent.mutable_grow_volume()->set_volume_id(model->id());
  intent.mutable_grow_volume()->set_size(request.size());
  return reconciler_.begin(model->agent(), std::move(intent), std::move(done));
}

Status Requests::set_volume(const v1::SetVolumeRequest& request, Done done) {
  ASSIGN_OR_RETURN(const VolumeModel* model, volume(request.name()));
  const bool decides =
      request.merge() != v1::MERGE_MODE_UNSPECIFIED || request.has_reclaim() || request.has_reclaim_hold_s();
  if (request.hold_timeout_ms() == 0 && !request.has_backpressure() && !decides) {
    return fail(Code::kInvalidArgument,
                "nothing is asked for: expected hold_timeout_ms, backpressure, merge or reclaim");
  }
  v1::VolumePolicy policy = model->volume().policy();
  if (request.merge() != v1::MERGE_MODE_UNSPECIFIED) policy.set_merge(request.merge());
  if (request.has_reclaim()) policy.set_reclaim(request.reclaim());
  if (request.has_reclaim_hold_s()) policy.set_reclaim_hold_s(request.reclaim_hold_s());
  TRY(check_policy(policy));
  TRY(check_wall(request.hold_timeout_ms(), request.backpressure()));
  v1::Intent intent;
  v1::Intent::SetVolume& action = *intent.mutable_set_volume();
  action.set_volume_id(model->id());
  action.set_hold_timeout_ms(request.hold_timeout_ms());
  if (request.has_backpressure()) *action.mutable_backpressure() = request.backpressure();
  if (decides) *action.mutable_policy() = policy;
  return reconciler_.begin(model->agent(), std::move(intent), std::move(done));
}

}  // namespace foreshadow::control
