#include "agent/scrubs.h"

#include <fmt/format.h>

#include <utility>

#include "agent/agent_limits.h"
#include "base/log.h"

namespace foreshadow::agent {
namespace {

volume::ScrubPoint point_of(const state::ScrubRecord& record) {
  return {Lcn(record.cursor()),
          {record.read(), record.verified(), record.filled(), record.corrupt(), record.unreadable()}};
}

std::string sentence(const state::ScrubRecord& record) {
  return fmt::format("{} sub-blocks read: {} verified, {} filled in, {} corrupt, {} unreadable",
                     record.read(), record.verified(), record.filled(), record.corrupt(),
                     record.unreadable());
}

}  // namespace

Scrubs::Scrubs(Catalog& catalog, Gate& structure, EventSink& sink, Clock clock)
    : catalog_(catalog), structure_(structure), sink_(sink), clock_(std::move(clock)) {
  timer_.op.target = this;
  timer_.op.done = [](io::Op* op, int) {
    auto* self = static_cast<Scrubs*>(op->target);
    if (std::exchange(self->noting_, true)) return;
    ++self->tasks_;
    io::spawn(self->note_progress(), [self](const Status& noted) {
      if (!noted) log::warn("how far a scrub is cannot be noted: {}", noted.error().message);
      self->noting_ = false;
      if (!self->running_.empty()) self->arm();
      if (--self->tasks_ == 0 && self->finishing_) self->idle_.set();
    });
  };
}

Scrubs::~Scrubs() {
  catalog_.loop().cancel(timer_);
  ASSERT(tasks_ == 0);
}

void Scrubs::arm() {
  catalog_.loop().arm(timer_, catalog_.loop().now() + limits::kScrubNoteInterval);
}

io::Task<Status> Scrubs::start(std::shared_ptr<VolumeHost> host, uint64_t rate, bool restart) {
  if (running_.contains(host->id())) co_return Status{};
  if (finishing_) co_return fail(Code::kShutdown, "the agent is stopping");
  const state::VolumeRecord* known = catalog_.record(host->id());
  state::ScrubRecord record;
  if (known != nullptr) record = known->scrub();
  if (restart || record.cursor() == 0) put_point({}, 0, record);
  record.set_running(true);
  record.set_rate(rate);
  record.set_started_ms(clock_());
  record.clear_error();
  const Status noted = co_await note(host->id(), record);
  if (!noted) co_return noted;
  spawn(std::move(host), std::move(record));
  co_return Status{};
}

void Scrubs::spawn(std::shared_ptr<VolumeHost> host, state::ScrubRecord from) {
  const Uuid id = host->id();
  if (running_.contains(id) || finishing_) return;
  running_[id] = {host, false};
  if (!timer_.armed()) arm();
  ++tasks_;
  io::spawn(run(std::move(host), std::move(from)), [this](const Status& noted) {
    if (!noted) log::warn("the end of a scrub cannot be noted: {}", noted.error().message);
    if (--tasks_ == 0 && finishing_) idle_.set();
  });
}

io::Task<Status> Scrubs::run(std::shared_ptr<VolumeHost> host, state::ScrubRecord from) {
  volume::ScrubOptions options;
  options.from = point_of(from);
  options.bytes_per_s = from.rate();
  const auto ended = co_await host->volume().scrub(options);
  const Uuid id = host->id();
  const bool stopped = running_[id].stopped;
  running_.erase(id);
  const volume::ScrubProgress& at = host->volume().scrub_progress();
  put_point(at.resume, at.total, from);
  const bool complete = ended && !stopped && !host->closing();
  if (complete) {
    from.set_last_complete_ms(clock_());
    from.set_cursor(0);
  }
  const bool closed = host->closing() || (!ended && ended.error().code == Code::kShutdown);
  from.set_running(!complete && !stopped && closed);
  if (!ended && !closed) from.set_error(ended.error().message);
  const Status noted = co_await note(id, from);
  if (!closed) {
    v1::VolumeEvent event;
    event.set_time_ms(clock_());
    event.set_kind(v1::VolumeEvent::KIND_SCRUB_ENDED);
    event.set_message(fmt::format("the scrub {}: {}",
                                  complete  ? "is complete"
                                  : stopped ? "was stopped"
                                            : "failed: " + ended.error().message,
                                  sentence(from)));
    *event.mutable_volume() = host->report();
    sink_.on_event(std::move(event));
  }
  co_return noted;
}

io::Task<Status> Scrubs::stop(std::shared_ptr<VolumeHost> host) {
  const auto found = running_.find(host->id());
  if (found == running_.end()) co_return Status{};
  found->second.stopped = true;
  host->volume().stop_scrub();
  co_return Status{};
}

io::Task<Status> Scrubs::resume(std::map<Uuid, std::shared_ptr<VolumeHost>> hosts) {
  for (const auto& [id, host] : hosts) {
    const state::VolumeRecord* record = catalog_.record(id);
    if (record == nullptr || !record->scrub().running()) continue;
    log::info("volume {}: its scrub goes on", host->name());
    spawn(host, record->scrub());
  }
  co_return Status{};
}

// Never for a volume that is gone meanwhile: its record must not come back.
io::Task<Status> Scrubs::note(Uuid volume, state::ScrubRecord scrub) {
  const Gate::Turn turn = co_await structure_.enter();
  const state::VolumeRecord* known = catalog_.record(volume);
  if (known != nullptr && known->phase() != state::VOLUME_PHASE_SERVED) co_return Status{};
  state::VolumeRecord record;
  if (known != nullptr) record = *known;
  record.set_id(volume.str());
  *record.mutable_scrub() = std::move(scrub);
  if (known == nullptr && !record.scrub().running()) co_return Status{};
  const Status put = co_await catalog_.put_record(std::move(record));
  co_return put;
}

io::Task<Status> Scrubs::note_progress() {
  std::map<Uuid, std::shared_ptr<VolumeHost>> hosts;
  for (const auto& [id, running] : running_) hosts[id] = running.host;
  for (const auto& [id, host] : hosts) {
    const state::VolumeRecord* known = catalog_.record(id);
    const volume::ScrubProgress& at = host->volume().scrub_progress();
    if (known == nullptr || !at.running || at.resume.cursor.v == known->scrub().cursor()) continue;
    state::ScrubRecord record = known->scrub();
    put_point(at.resume, at.total, record);
    const Status noted = co_await note(id, std::move(record));
    if (!noted) co_return noted;
  }
  co_return Status{};
}

io::Task<Status> Scrubs::finish() {
  finishing_ = true;
  catalog_.loop().cancel(timer_);
  if (tasks_ > 0) co_await idle_;
  co_return Status{};
}

}  // namespace foreshadow::agent
