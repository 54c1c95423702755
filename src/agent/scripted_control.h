#pragma once
// For tests: a control that says what the test tells it to, over real gRPC on a unix socket, and an agent on
// a real loop.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "foreshadow/v1/agent.grpc.pb.h"
#include "io/loop.h"
#include "io/task.h"

namespace foreshadow::agent::testing {

inline constexpr std::chrono::seconds kPatience{30};  // a test that waits longer has failed

// Thread-safe. One session at a time matters: sends go to the newest.
class ScriptedControl final : public v1::AgentService::Service {
 public:
  explicit ScriptedControl(const std::string& socket) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ScriptedControl() override {
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  }

  // Waits for a message that `wanted` accepts, and takes it and all before it.
  std::optional<v1::AgentMessage> wait_for(const std::function<bool(const v1::AgentMessage&)>& wanted) {
    std::unique_lock lock(mutex_);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    for (;;) {
      while (!received_.empty()) {
        v1::AgentMessage message = std::move(received_.front());
        received_.pop_front();
        if (wanted(message)) return message;
      }
      if (changed_.wait_until(lock, deadline) == std::cv_status::timeout) return std::nullopt;
    }
  }
  v1::Hello wait_for_hello() {
    const auto message = wait_for([](const v1::AgentMessage& m) { return m.has_hello(); });
    return message ? message->hello() : v1::Hello();
  }
  // Sends the intent and waits for its answer.
  v1::Ack ask(v1::Intent intent) {
    const std::string id = intent.id();
    send(std::move(intent));
    return wait_for_ack(id);
  }
  v1::Ack wait_for_ack(const std::string& id) {
    const auto message =
        wait_for([&](const v1::AgentMessage& m) { return m.has_ack() && m.ack().intent_id() == id; });
    if (message) return message->ack();
    v1::Ack none;
    none.set_code(-1);
    none.set_message("no answer came");
    return none;
  }
  void send(v1::Intent intent) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [this] { return stream_ != nullptr; });
    if (stream_ == nullptr) return;
    v1::ControlMessage message;
    *message.mutable_intent() = std::move(intent);
    stream_->Write(message);
  }

 private:
  using Stream = grpc::ServerReaderWriter<v1::ControlMessage, v1::AgentMessage>;
  grpc::Status Session(grpc::ServerContext*, Stream* stream) override {
    v1::AgentMessage message;
    while (stream->Read(&message)) {
      const std::lock_guard lock(mutex_);
      if (message.has_hello()) {
        v1::ControlMessage answer;
        answer.mutable_welcome()->set_metrics_interval_ms(100);
        stream->Write(answer);
        stream_ = stream;
      }
      received_.push_back(message);
      changed_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    if (stream_ == stream) stream_ = nullptr;
    return grpc::Status::OK;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::AgentMessage> received_;  // guarded by mutex_
  Stream* stream_ = nullptr;               // guarded by mutex_
  std::unique_ptr<grpc::Server> server_;
};

// A loop with a thread of its own.
class LoopThread {
 public:
  LoopThread() : loop_(std::move(*io::Loop::create())), thread_([this] { loop_->run(); }) {}
  ~LoopThread() {
    loop_->stop();
    thread_.join();
  }
  io::Loop& loop() { return *loop_; }

  // Runs the coroutine that `make` gives on the loop; returns its value.
  template <typename T>
  T wait(const std::function<io::Task<T>()>& make) {
    std::promise<T> value;
    loop_->run_on_loop([&] { io::spawn(make(), [&value](T v) { value.set_value(std::move(v)); }); });
    return value.get_future().get();
  }
  // Runs `f` on the loop.
  void call(const std::function<void()>& f) {
    std::promise<void> done;
    loop_->run_on_loop([&] {
      f();
      done.set_value();
    });
    done.get_future().get();
  }

 private:
  std::unique_ptr<io::Loop> loop_;
  std::thread thread_;
};

}  // namespace foreshadow::agent::testing
