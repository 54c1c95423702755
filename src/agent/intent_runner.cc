#include "agent/intent_runner.h"

#include <fmt/format.h>

#include <limits>

#include "base/log.h"
#include "base/names.h"

namespace foreshadow::agent {
namespace {

// An error of control's value, with the name of the field it was in.
Result<Uuid> parse_uuid(const std::string& text, std::string_view field) {
  auto uuid = Uuid::parse(text);
  if (uuid && !uuid->is_nil()) return uuid;
  return fail(Code::kInvalidArgument, fmt::format("{} {}: expected a UUID", field, foreshadow::quoted(text)));
}

Result<v1::SqueezeMode> parse_squeeze(v1::SqueezeMode mode) {
  if (mode == v1::SQUEEZE_MODE_UNSPECIFIED) return v1::SQUEEZE_MODE_OFF;
  if (mode == v1::SQUEEZE_MODE_OFF || mode == v1::SQUEEZE_MODE_LZ4 || mode == v1::SQUEEZE_MODE_ZSTD)
    return mode;
  return fail(Code::kInvalidArgument,
              fmt::format("squeeze {}: expected off, lz4 or zstd", static_cast<int>(mode)));
}

// What CreateVolume and AdoptDevice have in common.
template <typename Action>
Result<VolumeSpec> parse_spec(const Action& action) {
  VolumeSpec spec;
  ASSIGN_OR_RETURN(spec.id, parse_uuid(action.volume_id(), "volume_id"));
  spec.name = action.name();
  spec.size = action.size();
  spec.primary_size = action.primary_size();
  spec.pool = action.pool();
  spec.hold_timeout_ms = action.hold_timeout_ms();
  if (action.has_backpressure()) spec.backpressure = action.backpressure();
  switch (action.redirect()) {
    case v1::REDIRECT_MODE_UNSPECIFIED:
    case v1::REDIRECT_MODE_ALLOCATING:
      spec.redirect = extent::Redirect::kAllocating;
      break;
    case v1::REDIRECT_MODE_ALL:
      spec.redirect = extent::Redirect::kAll;
      break;
    default:
      return fail(Code::kInvalidArgument, fmt::format("redirect {}: expected allocating or all",
                                                      static_cast<int>(action.redirect())));
  }
  return spec;
}

}  // namespace

IntentRunner::IntentRunner(Catalog& catalog, VolumeSet& volumes, Scrubs& scrubs, Gate& structure,
                           Answer answer)
    : catalog_(catalog),
      volumes_(volumes),
      scrubs_(scrubs),
      structure_(structure),
      answer_(std::move(answer)),
      executor_(catalog.loop()) {}

IntentRunner::~IntentRunner() {
  ASSERT(running_.empty());
}

v1::Ack IntentRunner::make_ack(const std::string& intent, const Status& status) {
  v1::Ack ack;
  ack.set_intent_id(intent);
  if (status) return ack;
  ack.set_code(row_of(status.error().code).grpc_status);
  ack.set_message(status.error().message);
  return ack;
}

void IntentRunner::take(v1::Intent intent) {
  const std::string& id = intent.id();
  if (const v1::Ack* known = answers_.find(id)) {
    v1::Ack again = *known;  // the outcome was then, what the volume looks like is now
    again.clear_volume();
    add_report(known->volume().id(), &again);
    return answer_(std::move(again));
  }
  if (running_.contains(id)) return;  // its answer is on the way
  if (id.empty() || id.size() > limits::kIntentIdBytes) {
    return answer_(
        make_ack(foreshadow::quoted(id),
                 fail(Code::kInvalidArgument, fmt::format("intent id {}: expected 1 to {} bytes",
                                                          foreshadow::quoted(id), limits::kIntentIdBytes))));
  }
  if (finishing_) return answer_(make_ack(id, fail(Code::kShutdown, "the agent is stopping")));
  if (running_.size() >= limits::kRunningIntents) {
    return answer_(make_ack(id, fail(Code::kLimit, fmt::format("{} intents run already", running_.size()))));
  }
  running_.insert(id);
  const MonoTime began = executor_.now();
  io::spawn(run(std::move(intent)), [this, began](v1::Ack ack) { on_done(std::move(ack), began); });
}

void IntentRunner::on_done(v1::Ack ack, MonoTime began) {
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(executor_.now() - began);
  ack.set_elapsed_us(static_cast<uint64_t>(took.count()));
  if (ack.code() != 0) log::warn("intent {} failed: {}", ack.intent_id(), ack.message());
  running_.erase(ack.intent_id());
  answers_.add(ack);
  answer_(std::move(ack));
  if (finishing_ && running_.empty()) idle_.set();
}

io::Task<Status> IntentRunner::finish() {
  finishing_ = true;
  if (!running_.empty()) co_await idle_;
  co_return Status{};
}

io::Task<v1::Ack> IntentRunner::run(v1::Intent intent) {
  v1::Ack ack;
  Status status =
      fail(Code::kUnsupported, fmt::format("intent {}: this agent does not know its action", intent.id()));
  bool changes_pools = true;
  std::string volume;
  switch (intent.action_case()) {
    case v1::Intent::kAddPool:
      status = co_await add_pool(intent.add_pool());
      break;
    case v1::Intent::kRemovePool:
      status = co_await remove_pool(intent.remove_pool());
      break;
    case v1::Intent::kCreateVolume:
      volume = intent.create_volume().volume_id();
      status = co_await create_volume(intent.create_volume());
      break;
    case v1::Intent::kAdoptDevice:
      volume = intent.adopt_device().volume_id();
      status = co_await adopt_device(intent.adopt_device());
      break;
    case v1::Intent::kGrowVolume:
      volume = intent.grow_volume().volume_id();
      status = co_await grow_volume(intent.grow_volume());
      changes_pools = false;
      break;
    case v1::Intent::kSetVolume:
      volume = intent.set_volume().volume_id();
      status = co_await set_volume(intent.set_volume());
      changes_pools = false;
      break;
    case v1::Intent::kDeleteVolume:
      volume = intent.delete_volume().volume_id();
      status = co_await delete_volume(intent.delete_volume());
      break;
    case v1::Intent::kGrantShadow:
      volume = intent.grant_shadow().volume_id();
      status = co_await grant_shadow(intent.grant_shadow());
      break;
    case v1::Intent::kActivateShadow:
      volume = intent.activate_shadow().volume_id();
      status = activate_shadow(intent.activate_shadow());
      changes_pools = false;
      break;
    case v1::Intent::kMergeShadow:
      volume = intent.merge_shadow().volume_id();
      status = co_await merge_shadow(intent.merge_shadow());
      changes_pools = false;
      break;
    case v1::Intent::kSqueezeShadow:
      volume = intent.squeeze_shadow().volume_id();
      status = co_await squeeze_shadow(intent.squeeze_shadow(), &ack);
      changes_pools = false;
      break;
    case v1::Intent::kFoldShadow:
      volume = intent.fold_shadow().volume_id();
      status = co_await fold_shadow(intent.fold_shadow());
      break;
    case v1::Intent::kDrainSegment:
      volume = intent.drain_segment().volume_id();
      status = co_await drain_segment(intent.drain_segment());
      break;
    case v1::Intent::kResizeSegment:
      volume = intent.resize_segment().volume_id();
      status = co_await resize_segment(intent.resize_segment());
      break;
    case v1::Intent::kMovePrimary:
      volume = intent.move_primary().volume_id();
      status = co_await move_primary(intent.move_primary());
      break;
    case v1::Intent::kCheckVolume:
      volume = intent.check_volume().volume_id();
      status = co_await check_volume(intent.check_volume(), &ack);
      changes_pools = false;
      break;
    case v1::Intent::kScrubVolume:
      volume = intent.scrub_volume().volume_id();
      status = co_await scrub_volume(intent.scrub_volume());
      changes_pools = false;
      break;
    case v1::Intent::ACTION_NOT_SET:
      break;
  }
  ack.MergeFrom(make_ack(intent.id(), status));
  if (changes_pools) {
    const Status asked = co_await catalog_.refresh_usage();
    if (!asked) log::warn("{}", asked.error().message);
    for (const v1::Pool& pool : catalog_.pools()) *ack.add_pools() = pool;
  }
  // Last, with nothing awaited before the answer goes: an older report must not follow a newer one.
  add_report(volume, &ack);
  co_return ack;
}

void IntentRunner::add_report(const std::string& volume_id, v1::Ack* ack) const {
  const auto id = parse_uuid(volume_id, "volume_id");
  if (!id) return;
  if (const std::shared_ptr<VolumeHost> volume = volumes_.find(*id)) {
    *ack->mutable_volume() = volume->report();
  } else if (const BrokenVolume* broken = volumes_.find_broken(*id)) {
    *ack->mutable_volume() = broken->report;
  }
}

Result<std::shared_ptr<VolumeHost>> IntentRunner::host(const std::string& volume_id) const {
  ASSIGN_OR_RETURN(const Uuid id, parse_uuid(volume_id, "volume_id"));
  std::shared_ptr<VolumeHost> found = volumes_.find(id);
  if (found != nullptr) return found;
  const BrokenVolume* broken = volumes_.find_broken(id);
  if (broken != nullptr) {
    return fail(Code::kFailedPrecondition,
                fmt::format("volume {} is not served: {}", volume_id, broken->report.read_only_reason()));
  }
  return fail(Code::kNotFound, fmt::format("there is no volume {}", volume_id));
}

io::Task<Status> IntentRunner::add_pool(v1::Intent::AddPool action) {
  const Gate::Turn turn = co_await structure_.enter();
  PoolConfig config{action.name(), action.directory(), action.capacity()};
  const Status added = co_await catalog_.add_pool(std::move(config));
  if (!added) co_return added;
  // A pool may come with volumes: after the loss of agent.json, say, or moved here from another host.
  const Status opened = co_await volumes_.open_found();
  co_return opened;
}

io::Task<Status> IntentRunner::remove_pool(v1::Intent::RemovePool action) {
  const Gate::Turn turn = co_await structure_.enter();
  const Status removed = co_await catalog_.remove_pool(action.name());
  co_return removed;
}

io::Task<Status> IntentRunner::create_volume(v1::Intent::CreateVolume action) {
  const Gate::Turn turn = co_await structure_.enter();
  auto spec = parse_spec(action);
  if (!spec) co_return tl::unexpected(spec.error());
  const auto squeeze = parse_squeeze(action.squeeze());
  if (!squeeze) co_return tl::unexpected(squeeze.error());
  spec->squeeze = *squeeze;
  spec->checksums = action.checksums();
  spec->policy = action.policy();
  const auto created = co_await volumes_.create(*spec);
  if (!created) co_return tl::unexpected(created.error());
  co_return Status{};
}

io::Task<Status> IntentRunner::adopt_device(v1::Intent::AdoptDevice action) {
  const Gate::Turn turn = co_await structure_.enter();
  auto spec = parse_spec(action);
  if (!spec) co_return tl::unexpected(spec.error());
  spec->device = action.device();
  if (spec->device.empty()) co_return fail(Code::kInvalidArgument, "an intent to adopt a device names none");
  const auto adopted = co_await volumes_.create(*spec);
  if (!adopted) co_return tl::unexpected(adopted.error());
  co_return Status{};
}

io::Task<Status> IntentRunner::grow_volume(v1::Intent::GrowVolume action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const Status grown = co_await (*volume)->grow(action.size());
  co_return grown;
}

io::Task<Status> IntentRunner::set_volume(v1::Intent::SetVolume action) {
  const Gate::Turn turn = co_await structure_.enter();
  const auto id = parse_uuid(action.volume_id(), "volume_id");
  if (!id) co_return tl::unexpected(id.error());
  const Status set = co_await volumes_.set_wall(*id, action.hold_timeout_ms(),
                                                action.has_backpressure() ? &action.backpressure() : nullptr);
  if (!set || !action.has_policy()) co_return set;
  const Status decided = co_await volumes_.set_policy(*id, action.policy());
  co_return decided;
}

io::Task<Status> IntentRunner::delete_volume(v1::Intent::DeleteVolume action) {
  const Gate::Turn turn = co_await structure_.enter();
  const auto id = parse_uuid(action.volume_id(), "volume_id");
  if (!id) co_return tl::unexpected(id.error());
  const Status removed = co_await volumes_.remove(*id, action.force());
  co_return removed;
}

io::Task<Status> IntentRunner::check_volume(v1::Intent::CheckVolume action, v1::Ack* ack) {
  const auto id = parse_uuid(action.volume_id(), "volume_id");
  if (!id) co_return tl::unexpected(id.error());
  if (volumes_.find_broken(*id) != nullptr && action.repair()) {
    const Gate::Turn turn = co_await structure_.enter();
    auto repaired = co_await volumes_.repair_broken(*id);
    if (!repaired) co_return tl::unexpected(repaired.error());
    *ack->mutable_check() = make_check_report(*repaired);
    co_return Status{};
  }
  if (const BrokenVolume* broken = volumes_.find_broken(*id)) {
    ack->mutable_check()->add_findings(broken->report.read_only_reason());
    co_return Status{};
  }
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto report = co_await (*volume)->check(action.repair());
  if (!report) co_return tl::unexpected(report.error());
  *ack->mutable_check() = make_check_report(*report);
  co_return Status{};
}

io::Task<Status> IntentRunner::scrub_volume(v1::Intent::ScrubVolume action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  if (action.stop()) {
    const Status stopped = co_await scrubs_.stop(*volume);
    co_return stopped;
  }
  const Status started = co_await scrubs_.start(*volume, action.rate(), action.restart());
  co_return started;
}

io::Task<Status> IntentRunner::grant_shadow(v1::Intent::GrantShadow action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const Status granted = co_await (*volume)->grant_shadow(*segment, action.pool(), action.size());
  co_return granted;
}

Status IntentRunner::activate_shadow(const v1::Intent::ActivateShadow& action) {
  ASSIGN_OR_RETURN(const std::shared_ptr<VolumeHost> volume, host(action.volume_id()));
  ASSIGN_OR_RETURN(const Uuid segment, parse_uuid(action.segment_uuid(), "segment_uuid"));
  const Status activated = volume->activate_shadow(segment);
  return activated;
}

io::Task<Status> IntentRunner::merge_shadow(v1::Intent::MergeShadow action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const Status merged = co_await (*volume)->merge_shadow(*segment);
  co_return merged;
}

io::Task<Status> IntentRunner::squeeze_shadow(v1::Intent::SqueezeShadow action, v1::Ack* ack) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const auto report = co_await (*volume)->squeeze(*segment, action.codec());
  if (!report) co_return tl::unexpected(report.error());
  v1::SqueezeReport& out = *ack->mutable_squeeze();
  out.set_squeezed(report->squeezed);
  out.set_repacked(report->repacked);
  out.set_containers(report->containers);
  out.set_incompressible(report->incompressible);
  out.set_alone(report->alone);
  out.set_busy(report->busy);
  co_return Status{};
}

io::Task<Status> IntentRunner::fold_shadow(v1::Intent::FoldShadow action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const Status folded = co_await (*volume)->fold_shadow(*segment);
  co_return folded;
}

io::Task<Status> IntentRunner::drain_segment(v1::Intent::DrainSegment action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const Status drained = co_await (*volume)->drain_segment(*segment);
  co_return drained;
}

io::Task<Status> IntentRunner::move_primary(v1::Intent::MovePrimary action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const Status moved = co_await (*volume)->move_primary(*segment, action.pool(), action.size());
  co_return moved;
}

io::Task<Status> IntentRunner::resize_segment(v1::Intent::ResizeSegment action) {
  const auto volume = host(action.volume_id());
  if (!volume) co_return tl::unexpected(volume.error());
  const auto segment = parse_uuid(action.segment_uuid(), "segment_uuid");
  if (!segment) co_return tl::unexpected(segment.error());
  const Status resized = co_await (*volume)->resize_segment(*segment, action.size());
  co_return resized;
}

}  // namespace foreshadow::agent
