// A device that grows while it is served: what old sessions, talking clients and new ones see of it.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/codec.h"
#include "nbd/test_server.h"

namespace foreshadow::nbd {
namespace {

constexpr uint64_t kOld = 1 * kMiB;
constexpr uint64_t kNew = 4 * kMiB;

// A server whose device shows kOld bytes until grow().
class GrowingServer : public TestServer {
 public:
  GrowingServer() {
    on_loop([&] { device().info_.size = kOld; });
  }
  void grow(uint64_t size = kNew) {
    on_loop([&] {
      ASSERT_GE(size, device().info_.size);
      device().info_.size = size;
    });
  }
};

uint64_t size_in(const std::vector<OptionReply>& replies) {
  for (const OptionReply& reply : replies) {
    if (const auto info = decode_info_export(reply.payload)) return info->size;
  }
  return 0;
}

TEST(NbdGrowth, EveryCommandOfAnOldSessionReachesTheNewRangeAtOnce) {
  GrowingServer server;
  TestClient client = server.client(true, true);
  const Bytes data = pattern(8192, 1);
  EXPECT_EQ(client.write(kOld - 4096, data), kEnospc);
  EXPECT_EQ(client.call({0, kCmdRead, 1, kOld, 512}), kEinval);
  EXPECT_EQ(client.call({0, kCmdBlockStatus, 1, kOld, 512}), kEinval);
  server.grow();
  EXPECT_EQ(client.write(kOld - 4096, data), 0u) << "across what was the end";
  EXPECT_EQ(client.read(kOld - 4096, 8192), data);
  EXPECT_EQ(client.call({0, kCmdWriteZeroes, 1, kNew - 4096, 4096}), 0u);
  EXPECT_EQ(client.call({0, kCmdTrim, 1, kOld, static_cast<uint32_t>(kNew - kOld)}), 0u);
  EXPECT_EQ(client.call({0, kCmdCache, 1, 0, static_cast<uint32_t>(kNew)}), 0u);
  client.command({0, kCmdBlockStatus, 1, 0, static_cast<uint32_t>(kNew)});
  const auto status = decode_status(client.reply()->data);
  ASSERT_TRUE(status.has_value());
  uint64_t told = 0;
  for (const StatusDescriptor& run : status->descriptors) told += run.length;
  EXPECT_EQ(told, kNew);
  EXPECT_EQ(client.write(kNew - 512, Bytes(1024)), kEnospc) << "but not past the new end";
  EXPECT_EQ(client.call({0, kCmdRead, 1, kNew - 1, 2}), kEinval);
}

TEST(NbdGrowth, AllSessionsOfADeviceSeeWhatOneWroteIntoTheNewRange) {
  GrowingServer server;
  TestClient one = server.client();
  TestClient two = server.client(false);
  server.grow();
  EXPECT_EQ(one.write(kOld, pattern(4096, 2)), 0u);
  EXPECT_EQ(two.read(kOld, 4096), pattern(4096, 2));
}

TEST(NbdGrowth, EveryWayOfAskingTellsTheNewSize) {
  GrowingServer server;
  TestClient before = server.connect();
  before.greet();
  const Bytes request = encode_info_request({"vol", {kInfoBlockSize}});
  EXPECT_EQ(size_in(before.option(kOptInfo, request)), kOld);
  server.grow();
  EXPECT_EQ(size_in(before.option(kOptInfo, request)), kNew) << "asked again";
  EXPECT_EQ(size_in(before.option(kOptGo, request)), kNew);
  TestClient old = server.connect();
  old.greet();
  old.send_option(kOptExportName, bytes_of("vol"));
  EXPECT_EQ(WireReader(old.receive(10)).u64(), kNew);
}

TEST(NbdGrowth, GoRepeatsTheInfoBeforeItAndTheSessionReachesTheNewRangeAllTheSame) {
  GrowingServer server;
  TestClient client = server.connect();
  client.greet();
  const Bytes request = encode_info_request({"vol", {kInfoBlockSize, kInfoName}});
  const auto told = client.option(kOptInfo, request);
  server.grow();
  const auto agreed = client.option(kOptGo, request);
  ASSERT_EQ(agreed.size(), told.size());
  for (size_t i = 0; i < told.size(); i++) EXPECT_EQ(agreed[i].payload, told[i].payload);
  EXPECT_EQ(client.write(kNew - 4096, Bytes(4096)), 0u);
}

TEST(NbdGrowth, GoTellsTheNewSizeWhereTheInfoBeforeItWasNotTheSame) {
  const Bytes request = encode_info_request({"vol", {kInfoBlockSize}});
  const std::pair<const char*, std::function<void(TestClient&)>> between[] = {
      {"another option", [](TestClient& c) { c.option(kOptList); }},
      {"an unknown option", [](TestClient& c) { c.option(99); }},
      {"other items", [](TestClient& c) { c.option(kOptInfo, encode_info_request({"vol", {kInfoName}})); }},
      {"a failed INFO", [](TestClient& c) { c.option(kOptInfo, encode_info_request({"other", {}})); }},
      {"a failed GO", [](TestClient& c) { c.option(kOptGo, Bytes(3)); }},
  };
  for (const auto& [what, act] : between) {
    GrowingServer server;
    TestClient client = server.connect();
    client.greet();
    EXPECT_EQ(size_in(client.option(kOptInfo, request)), kOld);
    act(client);
    server.grow();
    EXPECT_EQ(size_in(client.option(kOptGo, request)), kNew) << what;
  }
}

TEST(NbdGrowth, AReconnectNeverShowsASmallerSize) {
  GrowingServer server;
  uint64_t last = kOld;
  for (uint64_t step = 1; step <= 20; step++) {
    server.grow(kOld + step * 64 * kKiB);
    TestClient client = server.connect();
    // As kernel clients and libnbd do: INFO first, then GO.
    client.greet();
    const Bytes request = encode_info_request({"vol", {kInfoBlockSize}});
    const uint64_t asked = size_in(client.option(kOptInfo, request));
    const uint64_t agreed = size_in(client.option(kOptGo, request));
    EXPECT_EQ(asked, agreed);
    EXPECT_GT(agreed, last);
    last = agreed;
  }
}

TEST(NbdGrowth, CommandsInFlightAreNotDisturbedByTheGrowth) {
  GrowingServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().hold = true; });
  for (uint64_t i = 0; i < 16; i++) client.command({0, kCmdTrim, i, i * 4096, 4096});
  server.until([&] { return server.device().waiting() == 16; });
  server.grow();
  client.command({0, kCmdTrim, 16, kOld, 4096});
  server.until([&] { return server.device().waiting() == 17; });
  server.on_loop([&] { server.device().release(); });
  for (uint64_t i = 0; i <= 16; i++) EXPECT_EQ(client.reply()->error, 0u);
}

// A writer that goes on while the device grows step by step under it never sees an error that it should not.
TEST(NbdGrowth, AWriterThatFollowsTheGrowthIsNeverRefused) {
  GrowingServer server;
  TestClient client = server.client();
  std::atomic<uint64_t> size{kOld};
  std::thread grower([&] {
    for (uint64_t next = kOld + 64 * kKiB; next <= kNew; next += 64 * kKiB) {
      server.grow(next);
      size = next;
    }
  });
  uint64_t at = 0;
  while (at < kNew) {
    if (at + 16 * kKiB > size) {
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(client.write(at, pattern(16 * kKiB, at)), 0u);
    at += 16 * kKiB;
  }
  grower.join();
  for (at = 0; at < kNew; at += 16 * kKiB) {
    ASSERT_EQ(client.read(at, 16 * kKiB), pattern(16 * kKiB, at));
  }
}

}  // namespace
}  // namespace foreshadow::nbd
