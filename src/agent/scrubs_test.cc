// Data checksums and scrubs as an agent serves them: real files, real gRPC, real NBD.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libnbd.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "agent/agent.h"
#include "agent/scripted_control.h"
#include "base/rng.h"
#include "base/types.h"
#include "base/uuid.h"

namespace foreshadow::agent {
namespace {

namespace fs = std::filesystem;
using testing::LoopThread;
using testing::ScriptedControl;

constexpr uint64_t kPrimary = 16 * kMiB;

std::string fresh_uuid() {
  SystemRng rng;
  return Uuid::random(rng).str();
}

// One request of a client that comes and goes.
bool write_once(const std::string& socket, const std::string& data) {
  nbd_handle* handle = nbd_create();
  nbd_set_export_name(handle, "db");
  const bool written = nbd_connect_unix(handle, socket.c_str()) == 0 &&
                       nbd_pwrite(handle, data.data(), data.size(), 0, LIBNBD_CMD_FLAG_FUA) == 0;
  nbd_close(handle);
  return written;
}
std::string read_once(const std::string& socket, size_t length) {
  nbd_handle* handle = nbd_create();
  nbd_set_export_name(handle, "db");
  std::string out(length, '?');
  const bool read =
      nbd_connect_unix(handle, socket.c_str()) == 0 && nbd_pread(handle, out.data(), length, 0, 0) == 0;
  nbd_close(handle);
  return read ? out : std::string("error");
}

class ScrubbedAgent : public ::testing::Test {
 protected:
  ScrubbedAgent() {
    static std::atomic<int> count{0};
    dir_ = fs::current_path() / fmt::format("s.{}.{}", ::getpid(), count++);
    fs::create_directories(dir_ / "pool");
    control_ = std::make_unique<ScriptedControl>((dir_ / "control.sock").string());
  }
  ~ScrubbedAgent() override {
    stop();
    control_.reset();
    fs::remove_all(dir_);
  }
  v1::Hello start() {
    Options options;
    options.state_dir = (dir_ / "state").string();
    options.nbd_socket = nbd_socket();
    options.control = "unix:" + (dir_ / "control.sock").string();
    options.pools.push_back({"default", (dir_ / "pool").string(), 0});
    options.version = "test";
    auto started =
        loop_.wait<Result<std::unique_ptr<Agent>>>([&] { return Agent::start(loop_.loop(), options); });
    EXPECT_TRUE(started) << (started ? "" : started.error().message);
    if (started) agent_ = std::move(*started);
    return control_->wait_for_hello();
  }
  void stop() {
    if (agent_ == nullptr) return;
    const Status stopped = loop_.wait<Status>([&] { return agent_->stop(); });
    EXPECT_TRUE(stopped);
    loop_.call([&] { agent_.reset(); });
  }
  v1::Hello restart() {
    stop();
    return start();
  }
  std::string nbd_socket() const { return (dir_ / "nbd.sock").string(); }
  std::vector<std::string> backings() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(dir_ / "pool")) {
      if (entry.path().extension() == ".seg") out.push_back(entry.path().filename().string());
    }
    return out;
  }
  v1::Intent intent() {
    v1::Intent out;
    out.set_id(fresh_uuid());
    return out;
  }
  // A volume "db" with checksums; its id.
  std::string create() {
    v1::Intent out = intent();
    auto& action = *out.mutable_create_volume();
    action.set_volume_id(fresh_uuid());
    action.set_name("db");
    action.set_size(256 * kMiB);
    action.set_primary_size(kPrimary);
    action.set_pool("default");
    action.set_checksums(true);
    const v1::Ack ack = control_->ask(out);
    EXPECT_EQ(ack.code(), 0) << ack.message();
    return action.volume_id();
  }

  fs::path dir_;
  LoopThread loop_;
  std::unique_ptr<ScriptedControl> control_;
  std::unique_ptr<Agent> agent_;
};

TEST_F(ScrubbedAgent, ScrubsAVolumeTellsHowFarAndGoesOnAfterARestart) {
  start();
  const std::string volume = create();
  ASSERT_TRUE(write_once(nbd_socket(), std::string(4 * kMiB, 's')));
  const auto scrub = [&](uint64_t rate, bool stop) {
    v1::Intent out = intent();
    out.mutable_scrub_volume()->set_volume_id(volume);
    out.mutable_scrub_volume()->set_rate(rate);
    out.mutable_scrub_volume()->set_stop(stop);
    return control_->ask(out);
  };
  v1::Ack ack = scrub(kMiB, false);
  ASSERT_EQ(ack.code(), 0) << ack.message();
  EXPECT_TRUE(ack.volume().checksums());
  EXPECT_TRUE(ack.volume().scrub().running());
  EXPECT_EQ(scrub(kMiB, false).code(), 0) << "it runs";
  const auto under_way = control_->wait_for(
      [](const v1::AgentMessage& m) { return m.has_metrics() && m.metrics().volumes(0).scrub().read() > 0; });
  ASSERT_TRUE(under_way);
  EXPECT_EQ(under_way->metrics().volumes(0).scrub().total(), 1024u);

  const v1::Hello hello = restart();
  EXPECT_TRUE(hello.volumes(0).scrub().running());
  EXPECT_LT(hello.volumes(0).scrub().read(), 1024u);
  EXPECT_EQ(scrub(0, true).code(), 0);
  const auto ended = [](const v1::AgentMessage& m) {
    return m.has_event() && m.event().kind() == v1::VolumeEvent::KIND_SCRUB_ENDED;
  };
  const auto stopped = control_->wait_for(ended);
  ASSERT_TRUE(stopped);
  EXPECT_NE(stopped->event().message().find("was stopped"), std::string::npos);
  EXPECT_FALSE(stopped->event().volume().scrub().running());
  const uint64_t read = stopped->event().volume().scrub().read();
  EXPECT_GT(read, 0u);

  ASSERT_EQ(scrub(0, false).code(), 0);
  const auto complete = control_->wait_for(ended);
  ASSERT_TRUE(complete);
  const v1::Scrub& done = complete->event().volume().scrub();
  EXPECT_EQ(done.read(), 1024u) << "the second part went on after " << read;
  EXPECT_EQ(done.verified(), 1024u);
  EXPECT_GE(done.last_complete_ms(), done.started_ms());
  EXPECT_EQ(restart().volumes(0).scrub().last_complete_ms(), done.last_complete_ms());
}

TEST_F(ScrubbedAgent, TellsOfRottenDataAndRefusesToServeIt) {
  start();
  const std::string volume = create();
  const std::string data(4096, 'r');
  ASSERT_TRUE(write_once(nbd_socket(), data));
  ASSERT_EQ(backings().size(), 1u);
  const fs::path backing = dir_ / "pool" / backings().front();
  std::fstream file(backing, std::ios::in | std::ios::out | std::ios::binary);
  std::string bytes(kPrimary, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  const size_t at = bytes.find(data);
  ASSERT_NE(at, std::string::npos);
  file.seekp(static_cast<std::streamoff>(at + 100));
  file.put('R');
  file.close();
  EXPECT_EQ(read_once(nbd_socket(), 4096), "error");
  const auto told = control_->wait_for([](const v1::AgentMessage& m) {
    return m.has_event() && m.event().kind() == v1::VolumeEvent::KIND_CORRUPT_DATA;
  });
  ASSERT_TRUE(told);
  EXPECT_NE(told->event().message().find(fmt::format("offset {}", at)), std::string::npos)
      << told->event().message();
  EXPECT_EQ(told->event().volume().checksum_errors(), 1u);
}

}  // namespace
}  // namespace foreshadow::agent
