#include "control/requests.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "base/names.h"
#include "base/size.h"
#include "control/control_limits.h"

namespace foreshadow::control {
namespace {

namespace base_limits = foreshadow::limits;

constexpr uint64_t kSizeUnit = 4096;

}  // namespace

Status check_size(uint64_t size, std::string_view what, uint64_t min, uint64_t max) {
  if (size < min || size > max) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} {} ({} bytes): expected {} to {}", what, format_size(size), size,
                            format_size(min), format_size(max)));
  }
  if (size % kSizeUnit != 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} {}: expected a multiple of {} bytes; the next ones are {} and {}", what, size,
                            kSizeUnit, size / kSizeUnit * kSizeUnit, (size / kSizeUnit + 1) * kSizeUnit));
  }
  return {};
}

Result<VolumeModel*> Requests::volume(const std::string& name) const {
  TRY(Name::parse(name, "volume name"));
  VolumeModel* model = reconciler_.fleet().volume_named(name);
  if (model == nullptr) {
    return fail(Code::kNotFound, fmt::format("volume \"{}\" does not exist; there are: {}", name,
                                             reconciler_.fleet().volume_names()));
  }
  return model;
}

Result<std::string> Requests::agent_for(const std::string& asked) const {
  const auto connected = reconciler_.fleet().connected();
  if (!asked.empty()) {
    if (std::find(connected.begin(), connected.end(), asked) != connected.end()) return asked;
    const bool known = reconciler_.fleet().agents.contains(asked);
    return fail(known ? Code::kUnavailable : Code::kNotFound,
                fmt::format("agent {} {}", quoted(asked), known ? "is not connected" : "is not known"));
  }
  if (connected.empty()) return fail(Code::kUnavailable, "no agent is connected");
  if (connected.size() == 1) return connected.front();
  return fail(Code::kInvalidArgument,
              fmt::format("{} agents are connected ({} and others): say which, by agent_id", connected.size(),
                          connected.front()));
}

Status Requests::add_pool(const v1::AddPoolRequest& request, Done done) {
  TRY(Name::parse(request.name(), "pool name"));
  const std::string& directory = request.directory();
  const bool control_bytes = std::any_of(directory.begin(), directory.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (directory.empty() || directory.front() != '/' || control_bytes ||
      directory.size() > limits::kDirectoryLength) {
    return fail(Code::kInvalidArgument,
                fmt::format("directory {}: expected an absolute path of at most {} bytes", quoted(directory),
                            limits::kDirectoryLength));
  }
  if (request.capacity() != 0) {
    TRY(check_size(request.capacity(), "capacity", base_limits::kSegmentSizeMin, 1ull << 60));
  }
  ASSIGN_OR_RETURN(const std::string agent, agent_for(request.agent_id()));
  const Fleet& fleet = reconciler_.fleet();
  bool taken = fleet.pool(agent, request.name()) != nullptr;
  size_t count = 0;
  for (const auto& [key, pool] : fleet.pools) count += key.first == agent ? 1 : 0;
  for (const auto& [number, open] : reconciler_.ledger().open()) {
    const IntentRow& intent = open.row;
    if (intent.kind != "add_pool" || intent.agent != agent) continue;
    taken = taken || intent.payload.add_pool().name() == request.name();
    ++count;
  }
  if (taken) {
    return fail(Code::kAlreadyExists,
                fmt::format("pool \"{}\" exists already at agent {}", request.name(), agent));
  }
  if (count >= base_limits::kPools) {
    return fail(Code::kLimit,
                fmt::format("agent {} has {} pools: at most {}", agent, count, base_limits::kPools));
  }
  v1::Intent intent;
  intent.mutable_add_pool()->set_name(request.name());
  intent.mutable_add_pool()->set_directory(directory);
  intent.mutable_add_pool()->set_capacity(request.capacity());
  return reconciler_.begin(agent, std::move(intent), std::move(done));
}

Result<const v1::Pool*> Requests::pool_for(const std::string& name) const {
  TRY(Name::parse(name, "pool name"));
  const Fleet& fleet = reconciler_.fleet();
  if (fleet.connected().empty()) return fail(Code::kUnavailable, "no agent is connected");
  const auto pools = fleet.pools_named(name);
  if (pools.empty()) {
    return fail(Code::kNotFound,
                fmt::format("pool \"{}\" does not exist; there are: {}", name, fleet.pool_names()));
  }
  const v1::Pool* best = nullptr;
  for (const v1::Pool* pool : pools) {
    if (fleet.link(pool->agent_id()) == nullptr) continue;
    if (best == nullptr || reconciler_.pool_free(*pool) > reconciler_.pool_free(*best)) best = pool;
  }
  if (best == nullptr) {
    return fail(Code::kUnavailable,
                fmt::format("pool \"{}\": its agent {} is not connected", name, pools[0]->agent_id()));
  }
  return best;
}

Status Requests::create_volume(const v1::CreateVolumeRequest& request, Done done) {
  TRY(Name::parse(request.name(), "volume name"));
  TRY(check_size(request.size(), "size", base_limits::kVolumeSizeMin, base_limits::kVolumeSizeMax));
  TRY(check_size(request.primary_size(), "primary_size", base_limits::kSegmentSizeMin,
                 base_limits::kSegmentSizeMax));
  TRY(check_policy(request.policy()));
  TRY(check_redirect(request.redirect()));
  TRY(check_wall(request.hold_timeout_ms(), request.backpressure()));
  if (!v1::SqueezeMode_IsValid(request.squeeze())) {
    return fail(Code::kInvalidArgument,
                fmt::format("squeeze {}: expected off, lz4 or zstd", static_cast<int>(request.squeeze())));
  }
  ASSIGN_OR_RETURN(const v1::Pool* pool, place_for(request.name(), request.pool(), request.primary_size()));
  v1::Intent intent;
  v1::Intent::CreateVolume& action = *intent.mutable_create_volume();
  action.set_volume_id(reconciler_.new_uuid().str());
  action.set_name(request.name());
  action.set_size(request.size());
  action.set_primary_size(request.primary_size());
  action.set_pool(pool->name());
  action.set_redirect(request.redirect() == v1::REDIRECT_MODE_UNSPECIFIED ? v1::REDIRECT_MODE_ALLOCATING
                                                                          : request.redirect());
  action.set_squeeze(request.squeeze() == v1::SQUEEZE_MODE_UNSPECIFIED ? v1::SQUEEZE_MODE_OFF
                                                                       : request.squeeze());
  action.set_hold_timeout_ms(request.hold_timeout_ms() == 0 ? limits::kHoldTimeoutDefaultMs
                                                            : request.hold_timeout_ms());
  action.set_checksums(request.checksums());
  if (request.has_backpressure()) *action.mutable_backpressure() = request.backpressure();
  *action.mutable_policy() = request.policy();
  if (action.policy().merge() == v1::MERGE_MODE_UNSPECIFIED) {
    action.mutable_policy()->set_merge(v1::MERGE_MODE_ADOPT);
  }
  return reconciler_.begin(pool->agent_id(), std::move(intent), std::move(done));
}

Status Requests::delete_volume(const std::string& name, bool force, Done done) {
  ASSIGN_OR_RETURN(const VolumeModel* model, volume(name));
  if (const auto* open = reconciler_.ledger().about("delete_volume", model->id(), "")) {
    reconciler_.ledger().join(open->row.id, std::move(done));
    return {};
  }
  v1::Intent intent;
  intent.mutable_delete_volume()->set_volume_id(model->id());
  intent.mutable_delete_volume()->set_force(force);
  return reconciler_.begin(model->agent(), std::move(intent), std::move(done));
}

Status Requests::check_volume(const v1::CheckVolumeRequest& request, Done done) {
  ASSIGN_OR_RETURN(const VolumeModel* model, volume(request.name()));
  v1::Intent intent;
  intent.mutable_check_volume()->set_repair(request.repair());
  intent.mutable_check_volume()->set_volume_id(model->id());
  return reconciler_.begin(model->agent(), std::move(intent), std::move(done));
}

Status Requests::scrub_volume(const v1::ScrubVolumeRequest& request, Done done) {
  ASSIGN_OR_RETURN(const VolumeModel* model, volume(request.name()));
  if (request.rate() > limits::kScrubRateMax) {
    return fail(Code::kInvalidArgument, fmt::format("rate {}/s: at most {}/s", format_size(request.rate()),
                                                    format_size(limits::kScrubRateMax)));
  }
  if (request.stop() && (request.restart() || request.rate() > 0))
    return fail(Code::kInvalidArgument, "a scrub that stops has no rate, and does not restart");
  v1::Intent intent;
  v1::Intent::ScrubVolume& action = *intent.mutable_scrub_volume();
  action.set_volume_id(model->id());
  action.set_rate(request.rate());
  action.set_stop(request.stop());
  action.set_restart(request.restart());
  return reconciler_.begin(model->agent(), std::move(intent), std::move(done));
}

uint64_t Requests::policy_size(const VolumeModel& model, const std::string& pool_name) const {
  const policy::Config& config = reconciler_.options().policy;
  const policy::Decision decision = reconciler_.decide(model);
  // Where policy would grant nothing now, a person asks all the same: the rung of its least share it is.
  const double share = static_cast<double>(model.volume().capacity()) * config.grow_share;
  uint64_t size = decision.action == policy::Action::kGrant
                      ? decision.size
                      : policy::ladder_size(static_cast<uint64_t>(share), config);
  // Policy looked at the volume's own pool; the one asked for may have less.
  const v1::Pool* pool = reconciler_.fleet().pool(model.agent(), pool_name);
  const uint64_t free = pool == nullptr ? 0 : reconciler_.pool_free(*pool);
  if (size > free) size = config.shadow_min;
  while (size <= free / 2 && size * 2 <= config.shadow_max && static_cast<double>(size) < share) size *= 2;
  return size;
}

Status Requests::grant_shadow(const v1::GrantShadowRequest& request, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, volume(request.volume()));
  if (request.size() != 0) {
    TRY(check_size(request.size(), "size", base_limits::kSegmentSizeMin, base_limits::kSegmentSizeMax));
  }
  if (!request.pool().empty()) TRY(Name::parse(request.pool(), "pool name"));
  if (!model->volume().read_only_reason().empty()) {
    return fail(Code::kFailedPrecondition,
                fmt::format("volume {} is read-only: {}", model->name(), model->volume().read_only_reason()));
  }
  const std::string pool = request.pool().empty() ? model->volume().pool() : request.pool();
  const uint64_t size = request.size() == 0 ? policy_size(*model, pool) : request.size();
  return reconciler_.grant(*model, size, pool, "asked for by hand", std::move(done));
}

Status Requests::merge_shadow(const v1::MergeShadowRequest& request, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, volume(request.volume()));
  const v1::Segment* chosen = nullptr;
  for (const v1::Segment& segment : model->volume().segments()) {
    if (segment.id() == 0 || is_leaving(segment)) continue;
    const bool wanted = request.segment_id() == 0 ? segment.state() != v1::SEGMENT_STATE_MERGED
                                                  : segment.id() == request.segment_id();
    if (wanted && (chosen == nullptr || segment.id() < chosen->id())) chosen = &segment;
  }
  if (chosen == nullptr && request.segment_id() != 0) {
    return fail(Code::kNotFound, fmt::format("volume {} has no shadow with segment id {}", model->name(),
                                             request.segment_id()));
  }
  if (chosen == nullptr) {
    return fail(Code::kFailedPrecondition,
                fmt::format("volume {} has no shadow that is not merged", model->name()));
  }
  if (chosen->state() == v1::SEGMENT_STATE_MERGED) {
    v1::Ack already;
    *already.mutable_volume() = reconciler_.shown(*model);
    done(already);
    return {};
  }
  return reconciler_.merge(*model, chosen->uuid(), "asked for by hand", std::move(done));
}

Status Requests::squeeze_shadow(const v1::SqueezeShadowRequest& request, Done done) {
  ASSIGN_OR_RETURN(VolumeModel * model, volume(request.volume()));
  v1::SqueezeMode codec = request.codec();
  if (codec == v1::SQUEEZE_MODE_UNSPECIFIED) codec = model->volume().squeeze();
  if (codec == v1::SQUEEZE_MODE_UNSPECIFIED || codec == v1::SQUEEZE_MODE_OFF) {
    if (request.codec() == v1::SQUEEZE_MODE_OFF)
      return fail(Code::kInvalidArgument, "codec off: expected lz4 or zstd");
    codec = v1::SQUEEZE_MODE_ZSTD;
  }
  if (!v1::SqueezeMode_IsValid(codec)) {
    return fail(Code::kInvalidArgument,
                fmt::format("codec {}: expected lz4 or zstd", static_cast<int>(codec)));
  }
  for (const v1::Segment& segment : model->volume().segments()) {
    if (segment.id() != request.segment_id()) continue;
    if (segment.state() != v1::SEGMENT_STATE_SEALED && segment.state() != v1::SEGMENT_STATE_MERGED) {
      return fail(
          Code::kFailedPrecondition,
          fmt::format("segment {} of volume {} is neither sealed nor merged", segment.id(), model->name()));
    }
    return reconciler_.squeeze(*model, segment.uuid(), codec, "asked for by hand", std::move(done));
  }
  return fail(Code::kNotFound,
              fmt::format("volume {} has no segment with id {}", model->name(), request.segment_id()));
}

}  // namespace foreshadow::control
