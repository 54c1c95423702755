// Volumes over images, growth and the wall's policy: the agent on a real loop and real files.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>

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

std::string fresh_uuid() {
  SystemRng rng;
  return Uuid::random(rng).str();
}

class OverTest : public ::testing::Test {
 protected:
  OverTest() {
    static std::atomic<int> count{0};
    dir_ = fs::current_path() / fmt::format("over.{}.{}", ::getpid(), count++);
    fs::create_directories(dir_ / "pool");
    image_ = (dir_ / "image.raw").string();
    for (size_t i = 0; i < 2 * kMiB + 512; ++i) content_ += static_cast<char>(i * 7 / 512);
    std::ofstream(image_, std::ios::binary) << content_;
    control_ = std::make_unique<ScriptedControl>((dir_ / "control.sock").string());
    start();
  }
  ~OverTest() override {
    stop();
    control_.reset();
    fs::remove_all(dir_);
  }

  v1::Hello start() {
    Options options;
    options.state_dir = (dir_ / "state").string();
    options.nbd_socket = (dir_ / "nbd.sock").string();
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
    EXPECT_TRUE(loop_.wait<Status>([&] { return agent_->stop(); }));
    loop_.call([&] { agent_.reset(); });
  }

  v1::Intent intent() {
    v1::Intent out;
    out.set_id(fresh_uuid());
    return out;
  }
  v1::Intent adopt_intent(const std::string& id, const std::string& name = "db") {
    v1::Intent out = intent();
    v1::Intent::AdoptDevice& action = *out.mutable_adopt_device();
    action.set_volume_id(id);
    action.set_name(name);
    action.set_device(image_);
    action.set_pool("default");
    action.set_primary_size(16 * kMiB);
    return out;
  }
  v1::Ack grow(const std::string& id, uint64_t size) {
    v1::Intent out = intent();
    out.mutable_grow_volume()->set_volume_id(id);
    out.mutable_grow_volume()->set_size(size);
    return control_->ask(out);
  }
  v1::Ack remove(const std::string& id, bool force) {
    v1::Intent out = intent();
    out.mutable_delete_volume()->set_volume_id(id);
    out.mutable_delete_volume()->set_force(force);
    return control_->ask(out);
  }
  std::string image() const {
    std::ifstream in(image_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t backings() const {
    return static_cast<size_t>(std::count_if(fs::directory_iterator(dir_ / "pool"), fs::directory_iterator(),
                                             [](const auto& e) { return e.path().extension() == ".seg"; }));
  }

  fs::path dir_;
  std::string image_;
  std::string content_;
  LoopThread loop_;
  std::unique_ptr<ScriptedControl> control_;
  std::unique_ptr<Agent> agent_;
};

TEST_F(OverTest, AdoptsOnceGrowsAndFindsTheImageAgain) {
  const std::string id = fresh_uuid();
  const v1::Ack adopted = control_->ask(adopt_intent(id));
  ASSERT_EQ(adopted.code(), 0) << adopted.message();
  EXPECT_EQ(adopted.volume().size(), content_.size());
  EXPECT_EQ(adopted.volume().base_path(), image_);
  EXPECT_EQ(adopted.volume().base_bytes(), content_.size());
  ASSERT_EQ(adopted.volume().segments_size(), 2);
  EXPECT_EQ(adopted.volume().segments(1).role(), v1::SEGMENT_ROLE_BASE);
  EXPECT_EQ(control_->ask(adopt_intent(id)).code(), 0) << "the same intent again changes nothing";
  EXPECT_NE(control_->ask(adopt_intent(fresh_uuid(), "other")).code(), 0) << "one volume an image";
  EXPECT_EQ(backings(), 1u);
  const v1::Ack grown = grow(id, 64 * kMiB);
  ASSERT_EQ(grown.code(), 0) << grown.message();
  EXPECT_EQ(grown.volume().size(), 64 * kMiB);
  EXPECT_NE(grow(id, 32 * kMiB).code(), 0);
  stop();
  const v1::Hello hello = start();
  ASSERT_EQ(hello.volumes_size(), 1);
  EXPECT_EQ(hello.volumes(0).size(), 64 * kMiB);
  EXPECT_EQ(hello.volumes(0).base_path(), image_);
  EXPECT_TRUE(hello.volumes(0).read_only_reason().empty()) << hello.volumes(0).read_only_reason();
  EXPECT_EQ(image(), content_);
}

TEST_F(OverTest, RemovesTheVolumeAndNeverTheImage) {
  const std::string id = fresh_uuid();
  ASSERT_EQ(control_->ask(adopt_intent(id)).code(), 0);
  ASSERT_EQ(grow(id, 4 * kMiB).code(), 0);  // takes the image's last sub-block elsewhere
  const v1::Ack refused = remove(id, false);
  EXPECT_EQ(refused.code(), 9);
  EXPECT_NE(refused.message().find(image_), std::string::npos) << refused.message();
  EXPECT_EQ(remove(id, true).code(), 0);
  EXPECT_EQ(backings(), 0u);
  EXPECT_EQ(image(), content_);
  EXPECT_EQ(control_->ask(adopt_intent(fresh_uuid())).code(), 0) << "and it can be adopted again";
}

TEST_F(OverTest, KeepsAVolumeWhoseImageIsAway) {
  const std::string id = fresh_uuid();
  ASSERT_EQ(control_->ask(adopt_intent(id)).code(), 0);
  stop();
  fs::rename(image_, image_ + ".away");
  const v1::Hello hello = start();
  ASSERT_EQ(hello.volumes_size(), 1);
  EXPECT_NE(hello.volumes(0).read_only_reason().find(image_), std::string::npos)
      << hello.volumes(0).read_only_reason();
  EXPECT_NE(remove(id, false).code(), 0) << "nobody knows what is outside the image";
  stop();
  fs::rename(image_ + ".away", image_);
  EXPECT_TRUE(start().volumes(0).read_only_reason().empty());
}

TEST_F(OverTest, ThePolicyAtTheWallCanChangeAndIsNoted) {
  const std::string id = fresh_uuid();
  v1::Intent adopt = adopt_intent(id);
  adopt.mutable_adopt_device()->set_hold_timeout_ms(5000);
  adopt.mutable_adopt_device()->mutable_backpressure()->set_bytes(kMiB);
  adopt.mutable_adopt_device()->mutable_backpressure()->set_percent(100);
  const v1::Volume first = control_->ask(adopt).volume();
  EXPECT_EQ(first.hold_timeout_ms(), 5000u);
  EXPECT_EQ(first.band(), kMiB);
  v1::Intent set = intent();
  set.mutable_set_volume()->set_volume_id(id);
  set.mutable_set_volume()->set_hold_timeout_ms(7000);
  EXPECT_EQ(control_->ask(set).volume().hold_timeout_ms(), 7000u);
  set.set_id(fresh_uuid());
  set.mutable_set_volume()->set_hold_timeout_ms(0);
  set.mutable_set_volume()->mutable_backpressure();  // off
  const v1::Volume off = control_->ask(set).volume();
  EXPECT_EQ(off.band(), 0u);
  EXPECT_EQ(off.hold_timeout_ms(), 7000u) << "what is not asked for stays";
  stop();
  const v1::Hello hello = start();
  EXPECT_EQ(hello.volumes(0).band(), 0u);
  EXPECT_EQ(hello.volumes(0).hold_timeout_ms(), 7000u);
}

}  // namespace
}  // namespace foreshadow::agent
