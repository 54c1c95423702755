#include "nbd/server.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "nbd/test_server.h"

namespace foreshadow::nbd {
namespace {

Name name_of_export(const char* text) {
  return *Name::parse(text);
}

TEST(NbdServer, ServesManyClientsAtOnce) {
  TestServer server;
  std::vector<TestClient> clients;
  for (uint64_t i = 0; i < 16; i++) {
    clients.push_back(server.client(i % 2 == 0));
    EXPECT_EQ(clients.back().write(i << 20, pattern(1 << 16, i)), 0u);
  }
  for (uint64_t i = 0; i < 16; i++)
    EXPECT_EQ(clients[i].read((15 - i) << 20, 1 << 16), pattern(1 << 16, 15 - i));
  server.on_loop([&] {
    EXPECT_EQ(server.server().session_count(), 16u);
    EXPECT_EQ(server.server().session_count(server.device()), 16u);
  });
}

TEST(NbdServer, ServesTcpToo) {
  TestServer server;
  std::string address;
  server.on_loop([&] {
    auto listener = io::listen_tcp(server.loop(), "127.0.0.1", 0);
    ASSERT_TRUE(listener.has_value()) << listener.error().message;
    address = (*listener)->address();
    server.server().add_listener(std::move(*listener));
  });
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  TestClient client(INADDR_LOOPBACK, static_cast<uint16_t>(port));
  client.go("vol");
  const Bytes data = pattern(4 << 20, 4);
  EXPECT_EQ(client.write(12345, data), 0u);
  EXPECT_EQ(client.read(12345, 4 << 20), data);
}

TEST(NbdServer, ConnectionsPastTheLimitAreClosed) {
  TestServer server;
  std::vector<TestClient> clients;
  for (uint32_t i = 0; i < limits::kNbdConnections; i++) {
    clients.push_back(server.connect());
    ASSERT_EQ(clients.back().receive(kGreetingBytes).size(), kGreetingBytes);
  }
  EXPECT_TRUE(server.connect().at_end());
  clients.pop_back();
  server.until_sessions(limits::kNbdConnections - 1);
  server.expect_alive();
}

TEST(NbdServer, ExportsAreAddedAndRemovedByName) {
  TestServer server;
  server.on_loop([&] {
    EXPECT_EQ(server.server().add_export(name_of_export("vol"), server.device()).error().code,
              Code::kAlreadyExists);
    EXPECT_TRUE(server.server().add_export(name_of_export("alias"), server.device()).has_value());
  });
  TestClient client = server.connect();
  client.greet();
  EXPECT_EQ(client.option(kOptList).size(), 3u);
  EXPECT_EQ(client.option(kOptGo, encode_info_request({"", {}})).back().type(), kRepErrUnknown)
      << "two: no default";
  server.on_loop([&] {
    EXPECT_TRUE(server.server().remove_export("vol").has_value());
    EXPECT_EQ(server.server().remove_export("vol").error().code, Code::kNotFound);
  });
  EXPECT_EQ(client.option(kOptGo, encode_info_request({"vol", {}})).back().type(), kRepErrUnknown);
  EXPECT_EQ(client.option(kOptGo, encode_info_request({"", {}})).back().type(), kRepAck);
  EXPECT_EQ(client.call({0, kCmdFlush, 1, 0, 0}), 0u);
}

TEST(NbdServer, RemovingANameLeavesItsSessionsAlone) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { EXPECT_TRUE(server.server().remove_export("vol").has_value()); });
  EXPECT_EQ(client.write(0, pattern(512, 1)), 0u);
}

TEST(NbdServer, DrainingAnExportEndsItsSessionsOnly) {
  TestServer server;
  std::unique_ptr<RamDevice> other;
  server.on_loop([&] {
    other = std::make_unique<RamDevice>(server.loop(), 1 << 20);
    EXPECT_TRUE(server.server().add_export(name_of_export("other"), *other).has_value());
    EXPECT_TRUE(server.server().add_export(name_of_export("other-name"), *other).has_value());
  });
  TestClient stays = server.client();
  TestClient talking = server.connect();
  talking.greet();
  std::vector<TestClient> leaving;
  for (const char* name : {"other", "other-name", "other"}) {
    leaving.push_back(server.connect());
    leaving.back().go(name, false);
    EXPECT_EQ(leaving.back().call({0, kCmdTrim, 1, 0, 4096}), 0u);
  }
  server.on_loop([&] { other->hold = true; });
  for (TestClient& client : leaving) client.command({0, kCmdTrim, 2, 0, 4096});
  server.until([&] { return other->waiting() == 3; });

  bool drained = false;
  server.on_loop([&] { server.server().drain_export(*other, [&] { drained = true; }); });
  server.on_loop([] {});
  server.on_loop([&] { EXPECT_FALSE(drained) << "the device still has requests"; });
  EXPECT_EQ(leaving[0].call({0, kCmdTrim, 3, 0, 4096}), kEshutdown);
  server.on_loop([&] { other->release(); });
  for (TestClient& client : leaving) {
    EXPECT_EQ(client.reply()->error, 0u);
    EXPECT_TRUE(client.at_end());
  }
  server.until([&] { return drained; });
  server.on_loop([&] { other.reset(); });  // what done() promised: nothing refers to it
  EXPECT_EQ(stays.call({0, kCmdFlush, 1, 0, 0}), 0u);
  EXPECT_EQ(talking.option(kOptGo, encode_info_request({"other", {}})).back().type(), kRepErrUnknown);
  EXPECT_EQ(talking.option(kOptGo, encode_info_request({"vol", {}})).back().type(), kRepAck);
}

TEST(NbdServer, DrainingAnExportWithoutSessionsCallsBackLater) {
  TestServer server;
  bool called = false;
  server.on_loop([&] {
    server.server().drain_export(server.device(), [&] { called = true; });
    EXPECT_FALSE(called) << "never from inside the call";
  });
  server.until([&] { return called; });
}

TEST(NbdServer, StopEndsEveryPhaseOfASession) {
  TestServer server;
  TestClient silent = server.connect();
  EXPECT_EQ(silent.receive(kGreetingBytes).size(), kGreetingBytes);
  TestClient talking = server.connect();
  talking.greet();
  EXPECT_EQ(talking.option(kOptList).back().type(), kRepAck);
  TestClient idle = server.client();
  TestClient halfway = server.client();
  halfway.command({0, kCmdWrite, 1, 0, 1 << 20}, Bytes(100'000));
  TestClient busy = server.client(false);
  server.on_loop([&] { server.device().hold = true; });
  busy.command({0, kCmdRead, 1, 0, 4096});
  server.until(
      [&] { return server.device().waiting() == 1 && server.server().session_count(server.device()) == 3; });
  bool stopped = false;
  server.on_loop([&] { server.server().stop([&] { stopped = true; }); });
  EXPECT_TRUE(idle.at_end());
  EXPECT_TRUE(silent.at_end());
  EXPECT_TRUE(talking.at_end());
  EXPECT_TRUE(halfway.at_end());
  server.on_loop([&] {
    EXPECT_FALSE(stopped);
    server.device().release();
  });
  EXPECT_EQ(busy.reply(4096)->error, 0u) << "what was at the device is answered";
  EXPECT_TRUE(busy.at_end());
  server.until([&] { return stopped; });
}

TEST(NbdServer, AfterStopNobodyIsAccepted) {
  TestServer server;
  server.stop();
  server.on_loop([&] {
    EXPECT_EQ(server.server().add_export(name_of_export("late"), server.device()).error().code,
              Code::kFailedPrecondition);
    EXPECT_EQ(server.server().session_count(), 0u);
  });
}

TEST(NbdServer, ClientsThatComeAndGoLeaveNothingBehind) {
  TestServer server;
  for (int i = 0; i < 300; i++) {
    TestClient client = server.connect();
    if (i % 3 > 0) client.greet();
    if (i % 3 > 1) client.send_option(kOptGo, encode_info_request({"vol", {}}));
  }
  server.until_sessions(0);
  server.expect_alive();
}

}  // namespace
}  // namespace foreshadow::nbd
