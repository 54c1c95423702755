#pragma once
// For tests: what becomes of a volume's segments and its pools where a ScriptedAgent gives some back.
#include <cstdint>
#include <map>
#include <string>

#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::control {

using ScriptedPools = std::map<std::string, v1::Pool>;

// Its data goes to the primary, which grows by it if it is folded.
inline void release_segment(v1::Volume& volume, ScriptedPools& pools, const std::string& uuid, bool folds) {
  v1::Segment& primary = *volume.mutable_segments(0);
  for (int i = 1; i < volume.segments_size(); ++i) {
    const v1::Segment segment = volume.segments(i);
    if (segment.uuid() != uuid) continue;
    const uint64_t grown = folds ? segment.used() : 0;
    primary.set_used(primary.used() + segment.used());
    primary.set_capacity(primary.capacity() + grown);
    primary.set_backing(primary.backing() + grown);
    volume.set_capacity(volume.capacity() + grown - segment.capacity());
    v1::Pool& pool = pools.at(segment.pool());
    pool.set_used(pool.used() + grown - segment.backing());
    volume.mutable_segments()->DeleteSubrange(i, 1);
    return;
  }
}

inline void cut_segment(v1::Volume& volume, ScriptedPools& pools, const v1::Intent::ResizeSegment& action) {
  for (v1::Segment& segment : *volume.mutable_segments()) {
    if (segment.uuid() != action.segment_uuid()) continue;
    const uint64_t cut = segment.backing() - action.size();
    segment.set_backing(action.size());
    segment.set_capacity(segment.capacity() - cut);
    volume.set_capacity(volume.capacity() - cut);
    pools.at(segment.pool()).set_used(pools.at(segment.pool()).used() - cut);
  }
}

inline v1::Volume moved(v1::Volume volume, ScriptedPools& pools, const v1::Intent::MovePrimary& action) {
  v1::Segment& primary = *volume.mutable_segments(0);
  pools.at(primary.pool()).set_used(pools.at(primary.pool()).used() - primary.backing());
  pools.at(action.pool()).set_used(pools.at(action.pool()).used() + action.size());
  volume.set_pool(action.pool());
  primary.set_uuid(action.segment_uuid());
  primary.set_pool(action.pool());
  primary.set_backing(action.size());
  return volume;
}

}  // namespace foreshadow::control
