#pragma once
// For tests: an agent's memory without its disks. Speaks the real protocol's messages; creates nothing.
#include <cstdint>
#include <map>
#include <string>

#include "control/scratch_directory.h"
#include "control/scripted_segments.h"
#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::control {

// Answers each intent once, and a repeated one with the same answer, as agent.proto demands.
class ScriptedAgent {
 public:
  explicit ScriptedAgent(std::string id) : id_(std::move(id)) { add_pool("default", 1ull << 40); }

  void add_pool(const std::string& name, uint64_t capacity) {
    v1::Pool& pool = pools[name];
    pool.set_name(name);
    pool.set_directory("/pools/" + name);
    pool.set_capacity(capacity);
  }

  v1::AgentMessage hello() const {
    v1::AgentMessage message;
    v1::Hello& hello = *message.mutable_hello();
    hello.set_agent_id(id_);
    hello.set_host("host-a");
    hello.set_version("test");
    for (const auto& [name, pool] : pools) *hello.add_pools() = pool;
    for (const auto& [id, volume] : volumes) *hello.add_volumes() = volume;
    return message;
  }

  v1::AgentMessage answer(const v1::Intent& intent) {
    v1::AgentMessage message;
    const auto known = answers_.find(intent.id());
    if (known != answers_.end()) {
      ++repeats;
      *message.mutable_ack() = known->second;
      return message;
    }
    v1::Ack& ack = *message.mutable_ack();
    ack.set_intent_id(intent.id());
    ack.set_elapsed_us(50'000);
    carry_out(intent, ack);
    for (const auto& [name, pool] : pools) *ack.add_pools() = pool;
    answers_[intent.id()] = ack;
    return message;
  }

  v1::AgentMessage metrics(const std::string& volume_id, uint64_t time_ms, uint64_t used,
                           uint64_t allocated) const {
    v1::AgentMessage message;
    message.mutable_metrics()->set_time_ms(time_ms);
    message.mutable_metrics()->set_interval_ms(1000);
    v1::VolumeMetrics& counts = *message.mutable_metrics()->add_volumes();
    counts.set_volume_id(volume_id);
    counts.set_used(used);
    counts.set_capacity(volumes.at(volume_id).capacity());
    counts.set_allocated_bytes(allocated);
    counts.set_sequential_share(0.5);
    return message;
  }

  // Changes the volume as a data plane would, and reports it.
  v1::AgentMessage event(const std::string& volume_id, v1::VolumeEvent::Kind kind, uint32_t segment,
                         v1::SegmentState state) {
    v1::AgentMessage message;
    v1::Volume& volume = volumes.at(volume_id);
    for (v1::Segment& row : *volume.mutable_segments()) {
      if (row.id() != segment) continue;
      row.set_state(state);
      if (kind == v1::VolumeEvent::KIND_SHADOW_FULL) row.set_used(row.capacity());
    }
    message.mutable_event()->set_kind(kind);
    message.mutable_event()->set_segment_id(segment);
    message.mutable_event()->set_message("as scripted");
    *message.mutable_event()->mutable_volume() = volume;
    return message;
  }

  std::map<std::string, v1::Pool> pools;
  std::map<std::string, v1::Volume> volumes;
  uint64_t repeats = 0;
  // While set, what changes segments is refused with this status.
  int refuse_code = 0;
  std::string refuse_message;

 private:
  static constexpr uint64_t kMetadataBytes = 1 << 20;

  void carry_out(const v1::Intent& intent, v1::Ack& ack) {
    if (intent.has_add_pool()) {
      const uint64_t capacity = intent.add_pool().capacity();
      add_pool(intent.add_pool().name(), capacity == 0 ? 1ull << 40 : capacity);
    } else if (intent.has_create_volume()) {
      v1::Volume& volume = create(intent.create_volume());
      volume.set_squeeze(intent.create_volume().squeeze());
      *volume.mutable_policy() = intent.create_volume().policy();
      *ack.mutable_volume() = volume;
    } else if (intent.has_adopt_device()) {
      *ack.mutable_volume() = adopt(intent.adopt_device());
    } else if (intent.has_grow_volume()) {
      v1::Volume& volume = volumes.at(intent.grow_volume().volume_id());
      volume.set_size(intent.grow_volume().size());
      *ack.mutable_volume() = volume;
    } else if (intent.has_set_volume()) {
      v1::Volume& volume = volumes.at(intent.set_volume().volume_id());
      volume.set_hold_timeout_ms(intent.set_volume().hold_timeout_ms());
      *volume.mutable_backpressure() = intent.set_volume().backpressure();
      if (intent.set_volume().has_policy()) *volume.mutable_policy() = intent.set_volume().policy();
      *ack.mutable_volume() = volume;
    } else if (intent.has_delete_volume()) {
      if (volumes.erase(intent.delete_volume().volume_id()) == 0) ack.set_code(5);
    } else if (intent.has_check_volume()) {
      ack.mutable_check()->set_ok(true);
      ack.mutable_check()->set_clusters_mapped(7);
      *ack.mutable_volume() = volumes.at(intent.check_volume().volume_id());
    } else if (intent.has_scrub_volume()) {
      v1::Volume& volume = volumes.at(intent.scrub_volume().volume_id());
      volume.mutable_scrub()->set_running(!intent.scrub_volume().stop());
      volume.mutable_scrub()->set_rate(intent.scrub_volume().rate());
      *ack.mutable_volume() = volume;
    } else if (refuse_code != 0) {
      ack.set_code(refuse_code);
      ack.set_message(refuse_message);
    } else if (intent.has_grant_shadow()) {
      v1::Volume& volume = volumes.at(intent.grant_shadow().volume_id());
      add_segment(volume, intent.grant_shadow().segment_uuid(), intent.grant_shadow().pool(),
                  intent.grant_shadow().size());
      *ack.mutable_volume() = volume;
    } else if (intent.has_merge_shadow()) {
      v1::Volume& volume = volumes.at(intent.merge_shadow().volume_id());
      for (v1::Segment& row : *volume.mutable_segments()) {
        if (row.uuid() == intent.merge_shadow().segment_uuid()) row.set_state(v1::SEGMENT_STATE_MERGED);
      }
      *ack.mutable_volume() = volume;
    } else if (intent.has_squeeze_shadow()) {
      ack.mutable_squeeze()->set_squeezed(30);
      ack.mutable_squeeze()->set_containers(10);
      *ack.mutable_volume() = volumes.at(intent.squeeze_shadow().volume_id());
    } else if (intent.has_fold_shadow()) {
      *ack.mutable_volume() = volumes.at(intent.fold_shadow().volume_id());
      release_segment(*ack.mutable_volume(), pools, intent.fold_shadow().segment_uuid(), true);
    } else if (intent.has_drain_segment()) {
      *ack.mutable_volume() = volumes.at(intent.drain_segment().volume_id());
      release_segment(*ack.mutable_volume(), pools, intent.drain_segment().segment_uuid(), false);
    } else if (intent.has_resize_segment()) {
      *ack.mutable_volume() = volumes.at(intent.resize_segment().volume_id());
      cut_segment(*ack.mutable_volume(), pools, intent.resize_segment());
    } else if (intent.has_move_primary()) {
      *ack.mutable_volume() =
          moved(volumes.at(intent.move_primary().volume_id()), pools, intent.move_primary());
    }
    if (ack.has_volume()) volumes[ack.volume().id()] = ack.volume();
  }

  template <typename Action>
  v1::Volume& create(const Action& action) {
    v1::Volume& volume = volumes[action.volume_id()];
    volume.set_id(action.volume_id());
    volume.set_name(action.name());
    volume.set_size(action.size());
    volume.set_pool(action.pool());
    volume.set_redirect(action.redirect());
    volume.set_uri("nbd+unix:///" + action.name());
    add_segment(volume, action.volume_id(), action.pool(), action.primary_size());  // any UUID
    return volume;
  }

  v1::Volume& adopt(const v1::Intent::AdoptDevice& action) {
    v1::Volume& volume = create(action);
    volume.set_base_path(action.device());
    add_segment(volume, "00000000-0000-4000-8000-00000000ba5e", action.pool(), action.size());
    volume.mutable_segments(1)->set_role(v1::SEGMENT_ROLE_BASE);
    volume.mutable_segments(1)->set_state(v1::SEGMENT_STATE_MERGED);
    return volume;
  }

  void add_segment(v1::Volume& volume, const std::string& uuid, const std::string& pool, uint64_t size) {
    const uint32_t id =
        volume.segments_size() == 0 ? 0 : volume.segments(volume.segments_size() - 1).id() + 1;
    v1::Segment& segment = *volume.add_segments();
    segment.set_id(id);
    segment.set_uuid(uuid);
    segment.set_pool(pool);
    segment.set_role(id == 0 ? v1::SEGMENT_ROLE_PRIMARY : v1::SEGMENT_ROLE_SHADOW);
    segment.set_state(id == 0 ? v1::SEGMENT_STATE_MERGED : v1::SEGMENT_STATE_WARM);
    segment.set_capacity(size - kMetadataBytes);
    segment.set_backing(size);
    volume.set_capacity(volume.capacity() + segment.capacity());
    pools.at(pool).set_used(pools.at(pool).used() + size);
  }
  std::string id_;
  std::map<std::string, v1::Ack> answers_;  // by intent
};

}  // namespace foreshadow::control
