// What agents and people send to control: protobuf messages of any content, alone and on top of valid ones.
// Control refuses or takes each, its numbers stay possible, and a message that was parsed returns.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/rng.h"
#include "base/types.h"
#include "control/reconciler.h"
#include "control/report_check.h"
#include "control/requests.h"
#include "fuzz/target.h"

using namespace foreshadow;
using namespace foreshadow::control;
using fuzz::expect;

namespace {

constexpr const char* kAgent = "agent-a";
constexpr const char* kVolume = "6d1f7a52-0c1b-4a57-9a51-2f3f7c3f8f11";
constexpr const char* kSegment = "0f0d3f6e-8f8e-4f0a-8f52-9f5d5a1f7a52";

// Remembers nothing: what is stored is store_test's business.
class Forgetful final : public Store {
 public:
  Status transaction(Durability, const std::function<Status()>& body) override { return body(); }
  Status put_agent(const AgentRow&) override { return {}; }
  Result<std::vector<AgentRow>> agents() override { return std::vector<AgentRow>(); }
  Status put_pool(const v1::Pool&) override { return {}; }
  Status remove_pools(const std::string&) override { return {}; }
  Result<std::vector<v1::Pool>> pools() override { return std::vector<v1::Pool>(); }
  Status put_volume(const v1::Volume&) override { return {}; }
  Status remove_volume(const std::string&) override { return {}; }
  Result<std::vector<v1::Volume>> volumes() override { return std::vector<v1::Volume>(); }
  Status add_intent(const IntentRow&) override { return {}; }
  Status update_intent(const IntentRow&) override { return {}; }
  Result<std::vector<IntentRow>> unfinished_intents() override { return std::vector<IntentRow>(); }
  Result<std::vector<uint64_t>> lead_times_us(const std::string&, size_t) override {
    return std::vector<uint64_t>();
  }
  Result<uint64_t> add_event(const v1::Event&) override { return ++events_; }
  Result<std::vector<v1::Event>> events(uint64_t, const std::string&, size_t) override {
    return std::vector<v1::Event>();
  }
  Status add_decision(const std::string&, const v1::Decision&) override { return {}; }
  Result<std::vector<v1::Decision>> decisions(const std::string&, size_t) override {
    return std::vector<v1::Decision>();
  }
  Status add_history(std::span<const HistoryRow>) override { return {}; }
  Result<std::vector<HistoryRow>> history(const std::string&, size_t) override {
    return std::vector<HistoryRow>();
  }
  Result<uint64_t> history_size(const std::string&) override { return 0u; }

 private:
  uint64_t events_ = 0;
};

// The agent's end: keeps the last intent, to answer it.
struct Link final : AgentLink {
  v1::Intent last;
  void send(const v1::ControlMessage& message) override {
    if (message.has_intent()) last = message.intent();
  }
  void close(const std::string&) override {}
};

v1::Volume valid_volume() {
  v1::Volume out;
  out.set_id(kVolume);
  out.set_name("demo");
  out.set_size(16 * kGiB);
  out.set_capacity(kGiB);
  out.set_used(kGiB / 2);
  out.set_pool("default");
  v1::Segment& primary = *out.add_segments();
  primary.set_uuid(kSegment);
  primary.set_pool("default");
  primary.set_role(v1::SEGMENT_ROLE_PRIMARY);
  primary.set_state(v1::SEGMENT_STATE_MERGED);
  primary.set_capacity(kGiB);
  primary.set_used(kGiB / 2);
  return out;
}

v1::AgentMessage valid_hello() {
  v1::AgentMessage out;
  v1::Hello& hello = *out.mutable_hello();
  hello.set_agent_id(kAgent);
  hello.set_host("host-a");
  hello.set_version("fuzz");
  v1::Pool& pool = *hello.add_pools();
  pool.set_name("default");
  pool.set_directory("/pools/default");
  pool.set_capacity(kTiB);
  *hello.add_volumes() = valid_volume();
  return out;
}

v1::AgentMessage valid_metrics(uint64_t time_ms) {
  v1::AgentMessage out;
  out.mutable_metrics()->set_time_ms(time_ms);
  out.mutable_metrics()->set_interval_ms(1000);
  v1::VolumeMetrics& counts = *out.mutable_metrics()->add_volumes();
  counts.set_volume_id(kVolume);
  counts.set_used(kGiB / 2);
  counts.set_capacity(kGiB);
  counts.set_allocated_bytes(64 * kKiB);
  return out;
}

// A message as it came in must go out the same.
template <typename Message>
void returns(const Message& message) {
  std::string bytes;
  expect(message.SerializeToString(&bytes), "a message can be written");
  Message again;
  expect(again.ParseFromString(bytes) && again.SerializeAsString() == bytes, "a message returns");
}

// `valid` with the input's fields on top of it: scalars are replaced, lists grow. False: not a message.
template <typename Message>
bool merge(fuzz::Input& in, Message& valid) {
  const std::string bytes = in.text(in.u8());
  if (!valid.MergeFromString(bytes)) return false;
  returns(valid);
  return true;
}

class World {
 public:
  World() {
    expect(core_.load().has_value(), "an empty store is read");
    expect(core_.hello(link_, valid_hello().hello()).has_value(), "a sound agent is taken");
  }

  void act(fuzz::Input& in) {
    now_ += 1000;
    switch (in.u8() % 10) {
      case 0: {
        v1::AgentMessage message;
        return merge(in, message) ? hear(message) : void();
      }
      case 1: {
        v1::AgentMessage message = valid_hello();
        return merge(in, message) ? hear(message) : void();
      }
      case 2: {
        v1::AgentMessage message = valid_metrics(now_);
        return merge(in, message) ? hear(message) : void();
      }
      case 3: {
        v1::AgentMessage message;
        message.mutable_event()->set_kind(v1::VolumeEvent::KIND_REDIRECTED);
        *message.mutable_event()->mutable_volume() = valid_volume();
        return merge(in, message) ? hear(message) : void();
      }
      case 4: {
        v1::AgentMessage message;
        message.mutable_ack()->set_intent_id(link_.last.id());
        *message.mutable_ack()->mutable_volume() = valid_volume();
        return merge(in, message) ? hear(message) : void();
      }
      default:
        return ask(in);
    }
  }

  void judge() {
    for (const auto& [key, pool] : core_.fleet().pools) {
      expect(core_.pool_free(pool) <= pool.capacity(), "a pool has no more room than it has");
    }
    for (const std::string& id : volume_ids()) {
      const VolumeModel* model = core_.fleet().volumes.at(id).get();
      expect(model != nullptr, "a volume that is known is found");
      returns(core_.shown(*model));
      expect(check_volume_report(model->volume()).has_value(), "what was taken is sound");
    }
  }

 private:
  std::vector<std::string> volume_ids() const {
    std::vector<std::string> out;
    for (const auto& [id, model] : core_.fleet().volumes) out.push_back(id);
    return out;
  }

  void hear(const v1::AgentMessage& message) {
    switch (message.body_case()) {
      case v1::AgentMessage::kHello:
        if (const Status status = core_.hello(link_, message.hello()); !status) {
          expect(!status.error().message.empty(), "a refusal says why");
        }
        return;
      case v1::AgentMessage::kMetrics:
        return core_.metrics(kAgent, message.metrics());
      case v1::AgentMessage::kAck:
        return core_.ack(kAgent, message.ack());
      case v1::AgentMessage::kEvent:
        return core_.event(kAgent, message.event());
      default:
        return;
    }
  }

  void ask(fuzz::Input& in) {
    Status status;
    switch (in.u8() % 6) {
      case 0: {
        v1::AddPoolRequest request;
        request.set_name("more");
        request.set_directory("/pools/more");
        if (merge(in, request)) status = requests_.add_pool(request, {});
        break;
      }
      case 1: {
        v1::CreateVolumeRequest request;
        request.set_name("fresh");
        request.set_size(kGiB);
        request.set_primary_size(64 * kMiB);
        if (merge(in, request)) status = requests_.create_volume(request, {});
        break;
      }
      case 2: {
        v1::GrantShadowRequest request;
        request.set_volume("demo");
        if (merge(in, request)) status = requests_.grant_shadow(request, {});
        break;
      }
      case 3: {
        v1::MergeShadowRequest request;
        request.set_volume("demo");
        if (merge(in, request)) status = requests_.merge_shadow(request, {});
        break;
      }
      case 4: {
        v1::ControlMessage message;
        (void)merge(in, message);
        break;
      }
      default: {
        const uint8_t how = in.u8();
        v1::CheckVolumeRequest check;
        check.set_name(in.text(8));
        check.set_repair((how & 2) != 0);
        status = how % 2 == 0 ? requests_.check_volume(check, {})
                              : requests_.delete_volume("demo", (how & 4) != 0, {});
      }
    }
    if (!status) expect(!status.error().message.empty(), "a refusal says why");
  }

  static ReconcilerOptions options(const uint64_t& now) {
    ReconcilerOptions out;
    out.clock = [&now] { return now; };
    return out;
  }

  uint64_t now_ = 1'700'000'000'000;
  SeededRng rng_{1};
  Forgetful store_;
  Link link_;
  Reconciler core_{store_, rng_, options(now_), [] {}};
  Requests requests_{core_};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Nobody reads it, and to write it would take most of the time.
  static const bool quiet = [] {
    log::set_level(log::Level::kError);
    google::protobuf::SetLogHandler(nullptr);
    return true;
  }();
  (void)quiet;
  fuzz::Input in(data, size);
  World world;
  for (int acts = 0; acts < 32 && !in.empty(); ++acts) world.act(in);
  world.judge();
  return 0;
}
