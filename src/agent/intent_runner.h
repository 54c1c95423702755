#pragma once
// Does what control decided.
#include <functional>
#include <set>
#include <string>

#include "agent/agent_limits.h"
#include "agent/answers.h"
#include "agent/await.h"
#include "agent/catalog.h"
#include "agent/scrubs.h"
#include "agent/volume_set.h"
#include "base/error.h"
#include "foreshadow/v1/agent.pb.h"

namespace foreshadow::agent {

// On the loop. Each intent gets exactly one answer; one that is repeated while it runs gets that one, and one
// that is repeated later what it was answered before. After a restart the effect tells: what is there already
// is not done again. What blocks is offloaded, so I/O goes on meanwhile. Intents for different volumes run
// side by side; what changes the set of pools or volumes runs one at a time.
class IntentRunner {
 public:
  using Answer = std::function<void(v1::Ack)>;
  IntentRunner(Catalog& catalog, VolumeSet& volumes, Scrubs& scrubs, Gate& structure, Answer answer);
  ~IntentRunner();

  void take(v1::Intent intent);
  // Takes no more, and returns once nothing runs.
  io::Task<Status> finish();

 private:
  io::Task<v1::Ack> run(v1::Intent intent);
  void on_done(v1::Ack ack, MonoTime began);
  // What the volume looks like now, if there is such a volume.
  void add_report(const std::string& volume_id, v1::Ack* ack) const;
  static v1::Ack make_ack(const std::string& intent, const Status& status);

  io::Task<Status> add_pool(v1::Intent::AddPool action);
  io::Task<Status> remove_pool(v1::Intent::RemovePool action);
  io::Task<Status> create_volume(v1::Intent::CreateVolume action);
  io::Task<Status> adopt_device(v1::Intent::AdoptDevice action);
  io::Task<Status> grow_volume(v1::Intent::GrowVolume action);
  io::Task<Status> set_volume(v1::Intent::SetVolume action);
  io::Task<Status> delete_volume(v1::Intent::DeleteVolume action);
  io::Task<Status> check_volume(v1::Intent::CheckVolume action, v1::Ack* ack);
  io::Task<Status> scrub_volume(v1::Intent::ScrubVolume action);
  io::Task<Status> grant_shadow(v1::Intent::GrantShadow action);
  Status activate_shadow(const v1::Intent::ActivateShadow& action);
  io::Task<Status> merge_shadow(v1::Intent::MergeShadow action);
  io::Task<Status> squeeze_shadow(v1::Intent::SqueezeShadow action, v1::Ack* ack);
  io::Task<Status> fold_shadow(v1::Intent::FoldShadow action);
  io::Task<Status> drain_segment(v1::Intent::DrainSegment action);
  io::Task<Status> move_primary(v1::Intent::MovePrimary action);
  io::Task<Status> resize_segment(v1::Intent::ResizeSegment action);
  Result<std::shared_ptr<VolumeHost>> host(const std::string& volume_id) const;

  Catalog& catalog_;
  VolumeSet& volumes_;
  Scrubs& scrubs_;
  Gate& structure_;
  Answer answer_;
  io::Executor& executor_;
  Answers answers_{limits::kAnswers};
  std::set<std::string> running_;
  bool finishing_ = false;
  Signal idle_;
};

}  // namespace foreshadow::agent
