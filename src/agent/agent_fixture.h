#pragma once
// For tests: the agent on a real loop and real files, told what to do over real gRPC, read and written over
// real NBD.
#include <gtest/gtest.h>
#include <libnbd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent.h"
#include "agent/scripted_control.h"
#include "base/rng.h"
#include "base/types.h"
#include "base/uuid.h"

namespace foreshadow::agent {

namespace fs = std::filesystem;
using testing::LoopThread;
using testing::ScriptedControl;

inline constexpr uint64_t kSize = 256 * kMiB;
inline constexpr uint64_t kPrimary = 16 * kMiB;
inline constexpr uint64_t kShadow = 8 * kMiB;

inline std::string fresh_uuid() {
  SystemRng rng;
  return Uuid::random(rng).str();
}

// A client of one export.
class Client {
 public:
  Client(const std::string& socket, const std::string& name) : handle_(nbd_create()) {
    nbd_set_export_name(handle_, name.c_str());
    connected_ = nbd_connect_unix(handle_, socket.c_str()) == 0;
  }
  Client(const Client&) = delete;
  ~Client() { nbd_close(handle_); }
  bool connected() const { return connected_; }
  uint64_t size() { return static_cast<uint64_t>(nbd_get_size(handle_)); }
  bool write(uint64_t offset, const std::string& data) {
    return nbd_pwrite(handle_, data.data(), data.size(), offset, LIBNBD_CMD_FLAG_FUA) == 0;
  }
  std::string read(uint64_t offset, size_t length) {
    std::string out(length, '?');
    return nbd_pread(handle_, out.data(), length, offset, 0) == 0 ? out : std::string("error");
  }

 private:
  nbd_handle* handle_;
  bool connected_ = false;
};

class AgentTest : public ::testing::Test {
 protected:
  AgentTest() {
    dir_ = fs::current_path() / ("t." + fresh_uuid().substr(0, 8));
    fs::create_directories(dir_ / "pool");
    fs::create_directories(dir_ / "pool2");
  }
  ~AgentTest() override {
    stop();
    control_.reset();
    fs::remove_all(dir_);
  }

  Options options() const {
    Options out;
    out.state_dir = (dir_ / "state").string();
    out.nbd_socket = nbd_socket();
    out.control = "unix:" + control_socket();
    out.pools.push_back({"default", (dir_ / "pool").string(), 0});
    out.version = "test";
    return out;
  }
  std::string nbd_socket() const { return (dir_ / "nbd.sock").string(); }
  std::string control_socket() const { return (dir_ / "control.sock").string(); }
  void start_control() { control_ = std::make_unique<ScriptedControl>(control_socket()); }

  Status start(const Options& options) {
    auto started =
        loop_.wait<Result<std::unique_ptr<Agent>>>([&] { return Agent::start(loop_.loop(), options); });
    if (!started) return tl::unexpected(started.error());
    agent_ = std::move(*started);
    return {};
  }
  // Control and agent up, the Hello taken.
  v1::Hello start_both() {
    start_control();
    const Status started = start(options());
    EXPECT_TRUE(started) << (started ? "" : started.error().message);
    return control_->wait_for_hello();
  }
  Status stop() {
    if (agent_ == nullptr) return {};
    Status stopped = loop_.wait<Status>([&] { return agent_->stop(); });
    loop_.call([&] { agent_.reset(); });
    return stopped;
  }
  v1::Hello restart() {
    EXPECT_TRUE(stop());
    EXPECT_TRUE(start(options()));
    return control_->wait_for_hello();
  }

  v1::Intent intent(const std::string& id = fresh_uuid()) {
    v1::Intent out;
    out.set_id(id);
    return out;
  }
  v1::Intent create_intent(const std::string& volume, const std::string& name) {
    v1::Intent out = intent();
    auto& action = *out.mutable_create_volume();
    action.set_volume_id(volume);
    action.set_name(name);
    action.set_size(kSize);
    action.set_primary_size(kPrimary);
    action.set_pool("default");
    return out;
  }
  v1::Intent grant_intent(const std::string& volume, const std::string& segment, uint64_t size = kShadow) {
    v1::Intent out = intent();
    auto& action = *out.mutable_grant_shadow();
    action.set_volume_id(volume);
    action.set_segment_uuid(segment);
    action.set_pool("default");
    action.set_size(size);
    return out;
  }
  v1::Intent activate_intent(const std::string& volume, const std::string& segment) {
    v1::Intent out = intent();
    out.mutable_activate_shadow()->set_volume_id(volume);
    out.mutable_activate_shadow()->set_segment_uuid(segment);
    return out;
  }
  v1::Intent merge_intent(const std::string& volume, const std::string& segment) {
    v1::Intent out = intent();
    out.mutable_merge_shadow()->set_volume_id(volume);
    out.mutable_merge_shadow()->set_segment_uuid(segment);
    return out;
  }
  v1::Intent fold_intent(const std::string& volume, const std::string& segment) {
    v1::Intent out = intent();
    out.mutable_fold_shadow()->set_volume_id(volume);
    out.mutable_fold_shadow()->set_segment_uuid(segment);
    return out;
  }
  v1::Intent drain_intent(const std::string& volume, const std::string& segment) {
    v1::Intent out = intent();
    out.mutable_drain_segment()->set_volume_id(volume);
    out.mutable_drain_segment()->set_segment_uuid(segment);
    return out;
  }
  v1::Intent move_intent(const std::string& volume, const std::string& segment, const std::string& pool,
                         uint64_t size) {
    v1::Intent out = intent();
    out.mutable_move_primary()->set_volume_id(volume);
    out.mutable_move_primary()->set_segment_uuid(segment);
    out.mutable_move_primary()->set_pool(pool);
    out.mutable_move_primary()->set_size(size);
    return out;
  }
  // Makes a volume and returns its id.
  std::string create(const std::string& name) {
    const std::string id = fresh_uuid();
    const v1::Ack ack = control_->ask(create_intent(id, name));
    EXPECT_EQ(ack.code(), 0) << ack.message();
    return id;
  }
  std::vector<std::string> backings() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(dir_ / "pool")) {
      if (entry.path().extension() == ".seg") out.push_back(entry.path().filename().string());
    }
    return out;
  }

  fs::path dir_;
  LoopThread loop_;
  std::unique_ptr<ScriptedControl> control_;
  std::unique_ptr<Agent> agent_;
};

}  // namespace foreshadow::agent
