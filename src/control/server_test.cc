// Sessions, sockets and the state directory of a running control plane.
#include "control/server.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "control/service_fixture.h"

namespace foreshadow::control {
namespace {

TEST_F(ServiceTest, ASessionBeginsWithHello) {
  auto stub = v1::AgentService::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  auto stream = stub->Session(&context);
  v1::AgentMessage message;
  message.mutable_metrics();
  stream->Write(message);
  v1::ControlMessage reply;
  EXPECT_FALSE(stream->Read(&reply));
  EXPECT_EQ(stream->Finish().error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, ANewerConnectionOfAnAgentReplacesTheOlder) {
  agent_.connect(address_);
  GrpcAgent newer("agent-a");
  newer.connect(address_);
  EXPECT_FALSE(agent_.wait_for_end().ok());
  create("data");
  EXPECT_FALSE(newer.wait_for_intents(1).id().empty());
}

TEST_F(ServiceTest, FollowersAreLimited) {
  std::vector<std::unique_ptr<Follower>> followers;
  for (size_t i = 0; i < limits::kEventFollowers; ++i) {
    followers.push_back(std::make_unique<Follower>(*stub_, ""));
    followers.back()->wait_for("control.started");
  }
  v1::WatchEventsRequest request;
  v1::Event event;
  grpc::ClientContext context;
  auto refused = stub_->WatchEvents(&context, request);
  EXPECT_FALSE(refused->Read(&event));
  EXPECT_EQ(refused->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
  // Short calls find a thread all the same.
  v1::StatusReport report;
  EXPECT_TRUE(call(&v1::ControlService::Stub::GetStatus, v1::GetStatusRequest(), &report).ok());
}

TEST_F(ServiceTest, StoppingEndsSessionsAndFollowers) {
  agent_.connect(address_);
  auto ended = std::async(std::launch::async, [&] {
    Follower events(*stub_, "");
    v1::Event event = events.wait_for("agent.connected");
    return event.kind();
  });
  EXPECT_EQ(ended.get(), "agent.connected");
  server_->stop();
  EXPECT_FALSE(agent_.wait_for_end().ok());
  server_->stop();
}

TEST_F(ServiceTest, ListensOnlyWhereItMay) {
  struct Case {
    std::string listen;
    Code code;
  };
  const std::string file = scratch_.path("file");
  std::ofstream(file) << "precious";
  const Case cases[] = {
      {"0.0.0.0:0", Code::kInvalidArgument},
      {"192.168.1.1:7070", Code::kInvalidArgument},
      {"example.org:80", Code::kInvalidArgument},
      {"127.0.0.1", Code::kInvalidArgument},
      {"127.0.0.1:x", Code::kInvalidArgument},
      {"127.0.0.1:70000", Code::kInvalidArgument},
      {"unix:relative", Code::kInvalidArgument},
      {"unix:/" + std::string(200, 'x'), Code::kInvalidArgument},
      {"", Code::kInvalidArgument},
      {address_, Code::kBusy},
      {"unix:" + file, Code::kAlreadyExists},
  };
  for (const Case& row : cases) {
    ServerOptions other = options();
    other.state_dir = scratch_.path("other-state");
    other.listen = {row.listen};
    auto server = Server::start(other);
    ASSERT_FALSE(server) << row.listen;
    EXPECT_EQ(server.error().code, row.code) << row.listen << ": " << server.error().message;
  }
}

TEST_F(ServiceTest, TheStateDirectoryHasOneOwner) {
  ServerOptions other = options();
  other.listen = {"unix:" + scratch_.path("other.sock")};
  auto server = Server::start(other);
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().code, Code::kBusy);
  EXPECT_NE(server.error().message.find(other.state_dir), std::string::npos);
}

TEST_F(ServiceTest, TheSocketIsPrivateAndAStaleOneIsReplaced) {
  const std::string path = address_.substr(5);
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  // A second name keeps the socket's file when its listener takes the first away: stale, as after a crash.
  std::filesystem::create_hard_link(path, path + ".kept");
  server_.reset();
  std::filesystem::rename(path + ".kept", path);
  start();
  v1::StatusReport report;
  EXPECT_TRUE(call(&v1::ControlService::Stub::GetStatus, v1::GetStatusRequest(), &report).ok());
}

TEST_F(ServiceTest, ATcpPortIsNotShared) {
  ServerOptions tcp = options();
  tcp.state_dir = scratch_.path("tcp-state");
  tcp.listen = {"127.0.0.1:0"};
  auto first = Server::start(tcp);
  ASSERT_TRUE(first) << first.error().message;
  const std::string address = (*first)->addresses().front();
  EXPECT_NE(address, "127.0.0.1:0");
  agent_.connect(address);
  tcp.state_dir = scratch_.path("tcp-state-2");
  tcp.listen = {address};
  auto second = Server::start(tcp);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kBusy);
  agent_.disconnect();
}

}  // namespace
}  // namespace foreshadow::control
