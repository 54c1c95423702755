#pragma once
// For tests: a control plane on a unix socket, an agent on a real session with it, and a follower of its
// events.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/types.h"
#include "control/control_limits.h"
#include "control/scratch_directory.h"
#include "control/scripted_agent.h"
#include "control/server.h"
#include "foreshadow/v1/agent.grpc.pb.h"
#include "foreshadow/v1/control.grpc.pb.h"

namespace foreshadow::control {

inline constexpr std::chrono::seconds kPatience{30};  // a test that waits longer has failed

// A ScriptedAgent on a real session. Outlives sessions: its memory is what makes repeats harmless.
class GrpcAgent {
 public:
  explicit GrpcAgent(const std::string& id) : agent_(id) {}
  ~GrpcAgent() { disconnect(); }

  // Returns once control has said Welcome.
  void connect(const std::string& address) {
    stub_ = v1::AgentService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_wait_for_ready(true);
    stream_ = stub_->Session(context_.get());
    const std::lock_guard lock(mutex_);
    stream_->Write(agent_.hello());
    v1::ControlMessage first;
    ASSERT_TRUE(stream_->Read(&first));
    ASSERT_TRUE(first.has_welcome());
    reader_ = std::thread([this] { read_all(); });
  }
  void disconnect() {
    if (!reader_.joinable()) return;
    context_->TryCancel();
    reader_.join();
    (void)stream_->Finish();
  }
  grpc::Status wait_for_end() {  // for a session that control ends
    reader_.join();
    return stream_->Finish();
  }
  void set_silent(bool silent) {
    const std::lock_guard lock(mutex_);
    silent_ = silent;
  }
  void refuse(int code, const std::string& message) {
    const std::lock_guard lock(mutex_);
    agent_.refuse_code = code;
    agent_.refuse_message = message;
  }
  // Waits until control has sent this many intents, over all sessions, and gives the last.
  v1::Intent wait_for_intents(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return intents_.size() >= count; }));
    return intents_.empty() ? v1::Intent() : intents_.back();
  }
  void answer(const v1::Intent& intent) {
    const std::lock_guard lock(mutex_);
    stream_->Write(agent_.answer(intent));
  }
  void send(const v1::AgentMessage& message) {
    const std::lock_guard lock(mutex_);
    stream_->Write(message);
  }
  template <typename Function>
  auto with(Function function) {
    const std::lock_guard lock(mutex_);
    return function(agent_);
  }

 private:
  void read_all() {
    v1::ControlMessage message;
    while (stream_->Read(&message)) {
      const std::lock_guard lock(mutex_);
      if (!message.has_intent()) continue;
      intents_.push_back(message.intent());
      if (!silent_) stream_->Write(agent_.answer(message.intent()));
      changed_.notify_all();
    }
  }

  std::mutex mutex_;  // the script, and writes to the stream
  std::condition_variable changed_;
  ScriptedAgent agent_;
  bool silent_ = false;
  std::vector<v1::Intent> intents_;
  std::unique_ptr<v1::AgentService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AgentMessage, v1::ControlMessage>> stream_;
  std::thread reader_;
};

// Follows events from the first on.
class Follower {
 public:
  Follower(v1::ControlService::Stub& stub, const std::string& volume) {
    v1::WatchEventsRequest request;
    request.set_volume(volume);
    request.set_follow(true);
    context_.set_deadline(std::chrono::system_clock::now() + kPatience);
    reader_ = stub.WatchEvents(&context_, request);
  }
  ~Follower() {
    context_.TryCancel();
    (void)reader_->Finish();
  }
  v1::Event wait_for(const std::string& kind) {  // reads on until one is of this kind
    v1::Event event;
    while (reader_->Read(&event)) {
      EXPECT_GT(event.sequence(), std::exchange(last_, event.sequence()));
      if (event.kind() == kind) return event;
    }
    ADD_FAILURE() << "no event " << kind;
    return {};
  }

 private:
  grpc::ClientContext context_;
  uint64_t last_ = 0;
  std::unique_ptr<grpc::ClientReader<v1::Event>> reader_;
};

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() { start(); }
  ~ServiceTest() override { agent_.disconnect(); }
  ServerOptions options() const {
    ServerOptions out;
    out.state_dir = scratch_.path("state");
    out.listen = {address_};
    out.ack_timeout = ack_timeout_;
    return out;
  }
  void start() {
    auto server = Server::start(options());
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    stub_ = v1::ControlService::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  }
  void restart() {
    agent_.disconnect();
    server_.reset();
    start();
  }
  template <typename Request, typename Reply>
  grpc::Status call(grpc::Status (v1::ControlService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                     Reply*),
                    const Request& request, Reply* reply) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    return (stub_.get()->*method)(&context, request, reply);
  }
  static v1::CreateVolumeRequest volume_request(const std::string& name) {
    v1::CreateVolumeRequest request;
    request.set_name(name);
    request.set_size(16 * kGiB);
    request.set_primary_size(64 * kMiB);
    return request;
  }
  v1::Volume create(const std::string& name) {
    v1::Volume volume;
    const grpc::Status status = call(&v1::ControlService::Stub::CreateVolume, volume_request(name), &volume);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return volume;
  }
  v1::VolumeDetail get(const std::string& name) {
    v1::VolumeRequest request;
    request.set_name(name);
    v1::VolumeDetail detail;
    const grpc::Status status = call(&v1::ControlService::Stub::GetVolume, request, &detail);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return detail;
  }

  ScratchDirectory scratch_;
  std::string address_ = "unix:" + scratch_.path("control.sock");
  std::chrono::milliseconds ack_timeout_ = limits::kAckTimeout;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::ControlService::Stub> stub_;
  GrpcAgent agent_{"agent-a"};
};

}  // namespace foreshadow::control
