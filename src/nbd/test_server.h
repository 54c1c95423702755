#pragma once
// Test support: a Server with RamDevices on an io::Loop in a thread of its own. Not part of the product.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "base/assert.h"
#include "io/loop.h"
#include "io/stream.h"
#include "nbd/ram_device.h"
#include "nbd/server.h"
#include "nbd/test_client.h"

namespace foreshadow::nbd {

// Serves export "vol" (a RamDevice) on a unix socket. Everything of the server is touched only through
// on_loop().
class TestServer {
 public:
  static constexpr uint64_t kSize = 64 * kMiB;

  explicit TestServer(uint64_t size = kSize, Allowance::Bounds bounds = {}) {
    char name[] = "/tmp/foreshadow-nbd-XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/s";
    std::promise<void> ready;
    thread_ = std::thread([this, &ready] {
      auto loop = io::Loop::create();
      ASSERT(loop.has_value());  // without a loop there is nothing to test
      loop_ = std::move(*loop);
      loop_->run_on_loop([&ready] { ready.set_value(); });
      loop_->run();
    });
    ready.get_future().wait();
    on_loop([&] {
      server_ = std::make_unique<Server>(*loop_, bounds);
      device_ = std::make_unique<RamDevice>(*loop_, size);
      EXPECT_TRUE(server_->add_export(*Name::parse("vol"), *device_).has_value());
      auto listener = io::listen_unix(*loop_, path_);
      ASSERT_TRUE(listener.has_value()) << listener.error().message;
      server_->add_listener(std::move(*listener));
    });
  }
  ~TestServer() {
    on_loop([&] { device_->release(); });
    stop();
    on_loop([&] {
      server_.reset();
      device_.reset();
    });
    loop_->stop();
    thread_.join();
    ::rmdir(directory_.c_str());
  }

  // Runs `f` on the loop and waits for it.
  void on_loop(std::function<void()> f) {
    std::promise<void> done;
    loop_->run_on_loop([&] {
      f();
      done.set_value();
    });
    done.get_future().wait();
  }
  // Starts something that calls back, on the loop, and waits for the call.
  void await(std::function<void(std::function<void()>)> start) {
    std::promise<void> done;
    loop_->run_on_loop([&] { start([&] { done.set_value(); }); });
    ASSERT_EQ(done.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready)
        << "no call back";
  }
  // Polls a condition of the loop's side until it holds: for states no message tells about.
  void until(std::function<bool()> condition) {
    for (int i = 0; i < 20'000; i++) {
      bool holds = false;
      on_loop([&] { holds = condition(); });
      if (holds) return;
      std::this_thread::yield();
      if (i > 100) ::usleep(500);
    }
    FAIL() << "the condition never held";
  }
  void stop() {
    if (stopped_) return;
    stopped_ = true;
    await([&](std::function<void()> done) { server_->stop(std::move(done)); });
  }

  TestClient connect() const { return TestClient(path_); }
  // A client past its handshake.
  TestClient client(bool structured = true, bool status = false) const {
    TestClient out = connect();
    out.go("vol", structured, status);
    return out;
  }
  // The server still works: a new client gets an answer.
  void expect_alive() const {
    TestClient c = client();
    EXPECT_EQ(c.call({0, kCmdFlush, 1, 0, 0}), 0u);
  }
  void until_sessions(size_t n) {
    until([&] { return server_->session_count() == n; });
  }

  io::Loop& loop() { return *loop_; }
  Server& server() { return *server_; }
  RamDevice& device() { return *device_; }
  const std::string& path() const { return path_; }

 private:
  std::string directory_;
  std::string path_;
  std::unique_ptr<io::Loop> loop_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<RamDevice> device_;
  std::thread thread_;
  bool stopped_ = false;
};

}  // namespace foreshadow::nbd
