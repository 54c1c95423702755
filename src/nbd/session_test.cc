#include "nbd/session.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/limits.h"
#include "base/rng.h"
#include "nbd/test_server.h"

namespace foreshadow::nbd {
namespace {

constexpr uint64_t kSize = TestServer::kSize;
constexpr uint32_t kMax = limits::kNbdRequestBytes;

TEST(NbdSession, WhatWasWrittenIsRead) {
  for (const bool structured : {false, true}) {
    TestServer server;
    TestClient client = server.client(structured);
    SeededRng rng(1);
    // Sizes around every path of the receiver: within one receive, across two, straight into the request's
    // buffer.
    for (const uint32_t size : {1u, 512u, 4096u, 4097u, 60'000u, 65'536u, 262'144u, 300'001u, 5u << 20}) {
      const uint64_t offset = rng.below(kSize - size);
      const Bytes data = pattern(size, size);
      EXPECT_EQ(client.write(offset, data), 0u);
      EXPECT_EQ(client.read(offset, size), data) << size;
    }
    server.on_loop([&] { EXPECT_EQ(server.device().misaligned, 0u) << "memory starts on 4 KiB"; });
  }
}

TEST(NbdSession, TheLargestRequestsPass) {
  TestServer server(kMax + 4096);
  TestClient client = server.client();
  const Bytes data = pattern(kMax, 3);
  EXPECT_EQ(client.write(4096, data), 0u);
  EXPECT_EQ(client.read(4096, kMax), data);
  EXPECT_EQ(client.call({kCmdFlagDf, kCmdRead, 0, 0, limits::kNbdAnnouncedBytes + 1}), kEoverflow);
  EXPECT_EQ(client.read(4096, limits::kNbdAnnouncedBytes, kCmdFlagDf),
            Bytes(data.begin(), data.begin() + limits::kNbdAnnouncedBytes));
}

TEST(NbdSession, ReadsOfHolesAreAnsweredByOneHoleChunk) {
  TestServer server;
  TestClient client = server.client();
  EXPECT_EQ(client.write(8192, pattern(4096, 1)), 0u);
  client.command({0, kCmdRead, 5, 0, 8192});
  const auto hole = client.reply();
  ASSERT_TRUE(hole && hole->structured);
  EXPECT_EQ(hole->chunk.type, kChunkOffsetHole);
  EXPECT_EQ(hole->chunk.flags, kChunkFlagDone);
  EXPECT_EQ(hole->chunk.length, 12u);
  client.command({kCmdFlagDf, kCmdRead, 6, 0, 16384});
  const auto mixed = client.reply();
  ASSERT_TRUE(mixed.has_value());
  EXPECT_EQ(mixed->chunk.type, kChunkOffsetData) << "zeros are explicit where data and holes meet";
  EXPECT_EQ(mixed->chunk.flags, kChunkFlagDone);
  EXPECT_EQ(mixed->data.size(), 8u + 16384u);
}

TEST(NbdSession, SimpleReadsOfHolesCarryZeros) {
  TestServer server;
  TestClient client = server.client(false);
  EXPECT_EQ(client.read(100, 5000), Bytes(5000));
}

struct ErrorCase {
  const char* what;
  Command command;
  uint32_t error;
};

// All on one connection: none of these may end it or leave bytes in the stream.
void expect_errors(TestClient& client, std::span<const ErrorCase> cases) {
  for (const ErrorCase& c : cases) {
    Command command = c.command;
    command.cookie = 0x1122334455667788;
    const Bytes payload = command.type == kCmdWrite ? pattern(command.length, 9) : Bytes();
    EXPECT_EQ(client.call(command, payload), c.error) << c.what;
  }
}

const std::vector<ErrorCase> kErrorCases = {
    {"read past the end", {0, kCmdRead, 0, kSize, 1}, kEinval},
    {"read across the end", {0, kCmdRead, 0, kSize - 1, 2}, kEinval},
    {"read with an offset that wraps", {0, kCmdRead, 0, ~0ull, 2}, kEinval},
    {"read of 4 KiB at 2^64 - 4 KiB", {0, kCmdRead, 0, ~0ull - 4095, 4096}, kEinval},
    {"write across the end", {0, kCmdWrite, 0, kSize - 1, 2}, kEnospc},
    {"large write past the end", {0, kCmdWrite, 0, kSize, 1 << 20}, kEnospc},
    {"write with an offset that wraps", {0, kCmdWrite, 0, ~0ull, 16}, kEnospc},
    {"zero across the end", {0, kCmdWriteZeroes, 0, kSize - 1, 2}, kEnospc},
    {"zero of 4 GiB", {0, kCmdWriteZeroes, 0, 0, 0xffffffff}, kEnospc},
    {"trim across the end", {0, kCmdTrim, 0, kSize - 1, 2}, kEinval},
    {"trim of 4 GiB", {0, kCmdTrim, 0, 0, 0xffffffff}, kEinval},
    {"cache across the end", {0, kCmdCache, 0, kSize - 1, 2}, kEinval},
    {"write one past the payload limit", {0, kCmdWrite, 0, 0, kMax + 1}, kEinval},
    {"write of twice the payload limit", {0, kCmdWrite, 0, 0, 2 * kMax}, kEinval},
    {"unknown command", {0, 8, 0, 0, 0}, kEinval},
    {"unknown command 0xffff", {0, 0xffff, 0, 0, 0xffffffff}, kEinval},
    {"unknown flag on read", {1 << 7, kCmdRead, 0, 0, 512}, kEinval},
    {"unknown flag on write", {1 << 15, kCmdWrite, 0, 0, 512}, kEinval},
    {"unknown flag on flush", {1 << 6, kCmdFlush, 0, 0, 0}, kEinval},
    {"unknown flag on cache", {1 << 1, kCmdCache, 0, 0, 512}, kEinval},
    {"NO_HOLE on trim", {kCmdFlagNoHole, kCmdTrim, 0, 0, 4096}, kEinval},
    {"FAST_ZERO on write", {kCmdFlagFastZero, kCmdWrite, 0, 0, 512}, kEinval},
    {"DF on write", {kCmdFlagDf, kCmdWrite, 0, 0, 512}, kEinval},
    {"REQ_ONE on read", {kCmdFlagReqOne, kCmdRead, 0, 0, 512}, kEinval},
    {"flush with a length", {0, kCmdFlush, 0, 0, 1}, kEinval},
    {"flush with an offset", {0, kCmdFlush, 0, 1, 0}, kEinval},
    {"block status without a context", {0, kCmdBlockStatus, 0, 0, 4096}, kEinval},
    {"fast zero that is not fast", {kCmdFlagFastZero, kCmdWriteZeroes, 0, 1, 5}, kEnotsup},
    {"fast zero that is", {kCmdFlagFastZero, kCmdWriteZeroes, 0, 0, 4096}, 0},
    {"read of nothing", {0, kCmdRead, 0, 0, 0}, 0},
    {"read of nothing at the end", {0, kCmdRead, 0, kSize, 0}, 0},
    {"write of nothing", {0, kCmdWrite, 0, 0, 0}, 0},
    {"trim of nothing", {0, kCmdTrim, 0, 0, 0}, 0},
    {"zero of nothing", {0, kCmdWriteZeroes, 0, 0, 0}, 0},
    {"cache of nothing", {0, kCmdCache, 0, 0, 0}, 0},
    {"cache of everything", {0, kCmdCache, 0, 0, static_cast<uint32_t>(kSize)}, 0},
    {"FUA on every command", {kCmdFlagFua, kCmdRead, 0, 0, 512}, 0},
    {"FUA on flush", {kCmdFlagFua, kCmdFlush, 0, 0, 0}, 0},
    {"FUA on cache", {kCmdFlagFua, kCmdCache, 0, 0, 512}, 0},
    {"zero longer than a payload", {0, kCmdWriteZeroes, 0, 0, static_cast<uint32_t>(kSize)}, 0},
    {"trim longer than a payload", {0, kCmdTrim, 0, 0, static_cast<uint32_t>(kSize)}, 0},
};

TEST(NbdSession, EveryMistakeGetsItsErrorAndTheStreamGoesOn) {
  TestServer server;
  TestClient structured = server.client(true);
  expect_errors(structured, kErrorCases);
  const ErrorCase overflow[] = {{"read past the limit", {0, kCmdRead, 0, 0, kMax + 1}, kEoverflow},
                                {"DF", {kCmdFlagDf, kCmdRead, 0, 0, 65536}, 0}};
  expect_errors(structured, overflow);
  TestClient simple = server.client(false);
  expect_errors(simple, kErrorCases);
  const ErrorCase invalid[] = {{"read past the limit", {0, kCmdRead, 0, 0, kMax + 1}, kEinval},
                               {"read of 4 GiB", {0, kCmdRead, 0, 0, 0xffffffff}, kEinval},
                               {"DF without structured replies", {kCmdFlagDf, kCmdRead, 0, 0, 512}, kEinval}};
  expect_errors(simple, invalid);
}

TEST(NbdSession, ErrorsCarryTextWhenStructured) {
  TestServer server;
  TestClient client = server.client(true);
  client.command({0, kCmdRead, 1, kSize, 512});
  const auto reply = client.reply();
  ASSERT_TRUE(reply && reply->structured);
  EXPECT_EQ(reply->chunk.flags, kChunkFlagDone);
  EXPECT_NE(reply->message.find("past the end"), std::string::npos) << reply->message;
  EXPECT_NE(reply->message.find("67108864"), std::string::npos) << "names the value: " << reply->message;
}

TEST(NbdSession, ReadOnlyExportsRefuseEveryChange) {
  TestServer server;
  server.on_loop([&] { server.device().info_.read_only = true; });
  TestClient client = server.client();
  const ErrorCase cases[] = {{"write", {0, kCmdWrite, 0, 0, 512}, kEperm},
                             {"trim", {0, kCmdTrim, 0, 0, 512}, kEperm},
                             {"zero", {0, kCmdWriteZeroes, 0, 0, 512}, kEperm},
                             {"read", {0, kCmdRead, 0, 0, 512}, 0},
                             {"flush", {0, kCmdFlush, 0, 0, 0}, 0}};
  expect_errors(client, cases);
  server.on_loop([&] { EXPECT_EQ(server.device().submitted, 2u); });
}

TEST(NbdSession, DeviceErrorsBecomeTheProtocolsErrors) {
  const std::pair<Code, uint32_t> cases[] = {{Code::kIo, kEio},
                                             {Code::kNoSpace, kEnospc},
                                             {Code::kReadOnly, kEio},
                                             {Code::kShutdown, kEshutdown},
                                             {Code::kCorrupt, kEio},
                                             {Code::kUnsupported, kEinval},
                                             {Code::kTimeout, kEio},
                                             {Code::kOverflow, kEinval},
                                             {Code::kPermissionDenied, kEperm}};
  for (const bool structured : {false, true}) {
    TestServer server;
    TestClient client = server.client(structured);
    for (const auto& [code, error] : cases) {
      server.on_loop([&, c = code] { server.device().fail_with = c; });
      EXPECT_EQ(client.call({0, kCmdTrim, 0, 0, 4096}), error) << name_of(code);
      EXPECT_EQ(client.write(0, Bytes(512)), error) << name_of(code);
    }
    server.on_loop([&] { server.device().fail_with = Code::kIo; });
    EXPECT_EQ(client.call({0, kCmdRead, 0, 0, 4096}), kEio);
    EXPECT_EQ(client.call({0, kCmdFlush, 0, 0, 0}), kEio);
    server.on_loop([&] { server.device().fail_with = Code::kOk; });
    EXPECT_EQ(client.read(0, 512), Bytes(512)) << "an error has no data behind it";
  }
}

TEST(NbdSession, FlagsReachTheDevice) {
  TestServer server;
  TestClient client = server.client(true, true);
  EXPECT_EQ(client.write(0, Bytes(4096), kCmdFlagFua), 0u);
  EXPECT_EQ(client.call({kCmdFlagFua, kCmdTrim, 0, 0, 4096}), 0u);
  EXPECT_EQ(client.call({kCmdFlagFua | kCmdFlagNoHole, kCmdWriteZeroes, 0, 0, 8192}), 0u);
  EXPECT_EQ(client.call({0, kCmdFlush, 0, 0, 0}), 0u);
  server.on_loop([&] {
    EXPECT_EQ(server.device().durable_requests, 3u);
    EXPECT_EQ(server.device().flushes, 1u);
    EXPECT_FALSE(server.device().extents(0, 8192, 1)[0].hole) << "NO_HOLE allocates";
  });
  EXPECT_EQ(client.call({0, kCmdWriteZeroes, 0, 0, 8192}), 0u);
  server.on_loop([&] { EXPECT_TRUE(server.device().extents(0, 8192, 1)[0].hole); });
}

TEST(NbdSession, BlockStatusTellsDataFromHoles) {
  TestServer server;
  TestClient client = server.client(true, true);
  for (const uint64_t block : {2u, 3u, 7u}) EXPECT_EQ(client.write(block * 4096, pattern(4096, block)), 0u);
  constexpr uint32_t kHole = kStateHole | kStateZero;
  struct Case {
    uint16_t flags;
    uint64_t offset;
    uint32_t length;
    std::vector<StatusDescriptor> expected;
  };
  const Case cases[] = {
      {0, 0, 40960, {{8192, kHole}, {8192, 0}, {12288, kHole}, {4096, 0}, {8192, kHole}}},
      {kCmdFlagReqOne, 0, 40960, {{8192, kHole}}},
      {kCmdFlagReqOne, 8192, 100, {{100, 0}}},
      {0, 8000, 500, {{192, kHole}, {308, 0}}},
      {0, kSize - 512, 512, {{512, kHole}}},
      {kCmdFlagFua, 8192, 8192, {{8192, 0}}},
  };
  for (const Case& c : cases) {
    client.command({c.flags, kCmdBlockStatus, 4, c.offset, c.length});
    const auto reply = client.reply();
    ASSERT_TRUE(reply && reply->structured);
    EXPECT_EQ(reply->chunk.type, kChunkBlockStatus);
    const auto status = decode_status(reply->data);
    ASSERT_TRUE(status.has_value());
    EXPECT_EQ(status->context, kAllocationContext);
    EXPECT_EQ(status->descriptors, c.expected) << c.offset << "+" << c.length;
  }
  const ErrorCase errors[] = {{"across the end", {0, kCmdBlockStatus, 0, kSize - 1, 2}, kEinval},
                              {"of nothing", {0, kCmdBlockStatus, 0, 0, 0}, kEinval},
                              {"with DF", {kCmdFlagDf, kCmdBlockStatus, 0, 0, 512}, kEinval}};
  expect_errors(client, errors);
}

TEST(NbdSession, BlockStatusStopsAtTheLimitOfDescriptors) {
  TestServer server((limits::kNbdExtents + 64) * 4096ull);
  TestClient client = server.client(true, true);
  // Straight into the device: that many round trips would add nothing.
  server.on_loop([&] {
    for (uint64_t block = 0; block < limits::kNbdExtents + 64; block += 2) server.device().allocate(block);
  });
  client.command({0, kCmdBlockStatus, 4, 0, static_cast<uint32_t>((limits::kNbdExtents + 64) * 4096ull)});
  const auto reply = client.reply();
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(decode_status(reply->data)->descriptors.size(), limits::kNbdExtents);
}

TEST(NbdSession, AThousandPipelinedCommandsAreAllAnswered) {
  for (const bool structured : {false, true}) {
    TestServer server;
    TestClient client = server.client(structured);
    Bytes out;
    for (uint64_t i = 0; i < 1000; i++) {
      const Bytes data = pattern(4096, i);
      const size_t at = out.size();
      out.resize(at + kCommandBytes);
      encode(Command{0, kCmdWrite, i, i * 4096, 4096}, std::span(out).subspan(at));
      out.insert(out.end(), data.begin(), data.end());
    }
    // Four megabytes pass both sockets' buffers, and 1000 the limit of commands in flight: the sender needs a
    // reader.
    std::thread sender([&] { EXPECT_TRUE(client.send(out)); });
    std::set<uint64_t> cookies;
    for (int i = 0; i < 1000; i++) {
      const auto reply = client.reply();
      ASSERT_TRUE(reply.has_value());
      EXPECT_EQ(reply->error, 0u);
      cookies.insert(reply->cookie);
    }
    sender.join();
    EXPECT_EQ(cookies.size(), 1000u);

    out.assign(1000 * kCommandBytes, std::byte{});
    for (uint64_t i = 0; i < 1000; i++) {
      encode(Command{0, kCmdRead, i, i * 4096, 4096}, std::span(out).subspan(i * kCommandBytes));
    }
    ASSERT_TRUE(client.send(out));
    for (int i = 0; i < 1000; i++) {
      const auto reply = client.reply(4096);
      ASSERT_TRUE(reply.has_value());
      const Bytes data(reply->data.begin() + (structured ? 8 : 0), reply->data.end());
      EXPECT_EQ(data, pattern(4096, reply->cookie));
    }
  }
}

TEST(NbdSession, RepliesMayComeInAnotherOrder) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().hold = server.device().newest_first = true; });
  for (uint64_t i = 0; i < 8; i++) client.command({0, kCmdTrim, i, i * 4096, 4096});
  server.until([&] { return server.device().waiting() == 8; });
  server.on_loop([&] { server.device().release(); });
  for (uint64_t i = 8; i-- > 0;) EXPECT_EQ(client.reply()->cookie, i);
}

TEST(NbdSession, TheLimitOfCommandsInFlightHoldsTheRestBack) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().hold = true; });
  constexpr uint64_t kCount = limits::kNbdInFlightRequests + 1;
  for (uint64_t i = 0; i < kCount; i++) client.command({0, kCmdTrim, i, 0, 4096});
  server.until([&] { return server.device().waiting() == kCount - 1; });
  server.on_loop([] {});
  server.on_loop(
      [&] { EXPECT_EQ(server.device().waiting(), kCount - 1) << "one past the limit waits outside"; });
  server.on_loop([&] { server.device().release(); });
  for (uint64_t i = 0; i < kCount; i++) EXPECT_EQ(client.reply()->error, 0u);
}

TEST(NbdSession, TheLimitOfBytesInFlightHoldsTheRestBack) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().hold = true; });
  constexpr uint64_t kFit = limits::kNbdInFlightBytes / kMax;
  for (uint64_t i = 0; i <= kFit; i++) client.command({0, kCmdRead, i, 0, kMax});
  server.until([&] { return server.device().waiting() == kFit; });
  server.on_loop([] {});
  server.on_loop([&] { EXPECT_EQ(server.device().waiting(), kFit); });
  server.on_loop([&] { server.device().release(); });
  for (uint64_t i = 0; i <= kFit; i++) EXPECT_EQ(client.reply()->error, 0u);
}

TEST(NbdSession, AClientThatDoesNotReadIsNoLongerRead) {
  TestServer server;
  TestClient client = server.client();
  EXPECT_EQ(client.write(0, pattern(1 << 20, 1)), 0u);
  // 40 MiB of replies that nobody takes, then the client goes.
  for (uint64_t i = 0; i < 40; i++) client.command({0, kCmdRead, i, 0, 1 << 20});
  client.close();
  server.until_sessions(0);
  server.expect_alive();
}

TEST(NbdSession, DiscFinishesWhatIsInFlightAndSaysNothing) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().hold = true; });
  client.command({0, kCmdTrim, 1, 0, 4096});
  client.command({0, kCmdTrim, 2, 0, 4096});
  client.command({0, kCmdDisc, 3, 0, 0});
  client.command({0, kCmdTrim, 4, 0, 4096});  // a client must not; it is not read
  server.until([&] { return server.device().waiting() == 2; });
  server.on_loop([&] { server.device().release(); });
  EXPECT_EQ(client.reply()->cookie, 1u);
  EXPECT_EQ(client.reply()->cookie, 2u);
  EXPECT_TRUE(client.at_end());
  server.until_sessions(0);
}

TEST(NbdSession, AClientThatClosesItsSendingHalfGetsItsReplies) {
  TestServer server;
  TestClient client = server.client();
  for (uint64_t i = 0; i < 10; i++) client.command({0, kCmdTrim, i, 0, 4096});
  client.close_sending();
  for (uint64_t i = 0; i < 10; i++) EXPECT_EQ(client.reply()->cookie, i);
  EXPECT_TRUE(client.at_end());
}

TEST(NbdSession, WhatEndsTheConnectionEndsItCleanly) {
  TestServer server;
  const auto bad_magic = [](TestClient& client) {
    Bytes bytes(kCommandBytes);
    encode(Command{0, kCmdRead, 1, 0, 512}, bytes);
    bytes[0] ^= std::byte{1};
    client.send(bytes);
  };
  const std::pair<const char*, std::function<void(TestClient&)>> cases[] = {
      {"wrong magic", bad_magic},
      {"wrong magic behind a good command",
       [&](TestClient& client) {
         EXPECT_EQ(client.call({0, kCmdTrim, 1, 0, 4096}), 0u);
         bad_magic(client);
       }},
      {"payload past twice the limit",
       [](TestClient& client) { client.command({0, kCmdWrite, 1, 0, 2 * kMax + 1}); }},
      {"payload of 4 GiB", [](TestClient& client) { client.command({0, kCmdWrite, 1, 0, 0xffffffff}); }},
  };
  for (const auto& [what, act] : cases) {
    TestClient client = server.client();
    act(client);
    EXPECT_TRUE(client.at_end()) << what;
  }
  server.until_sessions(0);
  server.expect_alive();
}

TEST(NbdSession, HalfAWriteIsDroppedWhenTheClientVanishes) {
  TestServer server;
  const Bytes before = pattern(1 << 20, 1);
  EXPECT_EQ(server.client().write(0, before), 0u);
  // Within the first receive, just past it, and while the payload is received straight into its buffer.
  for (const size_t sent : {0u, 1u, 4095u, 100'000u, 300'000u, 1'000'000u, (1u << 20) - 1}) {
    TestClient client = server.client();
    Bytes part = pattern(1 << 20, 2);
    part.resize(sent);
    client.command({0, kCmdWrite, 1, 0, 1 << 20}, part);
    client.close();
    server.until_sessions(0);
  }
  EXPECT_EQ(server.client().read(0, 1 << 20), before);
}

TEST(NbdSession, AClientMayVanishAtEveryByteOfACommand) {
  TestServer server;
  Bytes command(kCommandBytes);
  encode(Command{0, kCmdRead, 1, 0, 4096}, command);
  for (size_t n = 0; n <= command.size(); n++) {
    TestClient client = server.client();
    client.send(ByteView(command).first(n));
  }
  server.until_sessions(0);
  server.expect_alive();
}

TEST(NbdSession, RequestsOutliveAVanishedClient) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().hold = true; });
  const Bytes data = pattern(4096, 5);
  client.command({0, kCmdWrite, 1, 0, 4096}, data);
  for (uint64_t i = 0; i < 20; i++) client.command({0, kCmdRead, i, 0, 1 << 16});
  server.until([&] { return server.device().waiting() == 21; });
  client.close();
  server.on_loop([] {});
  server.on_loop(
      [&] { EXPECT_EQ(server.server().session_count(), 1u) << "its requests are still at the device"; });
  server.on_loop([&] { server.device().release(); });
  server.until_sessions(0);
  EXPECT_EQ(server.client().read(0, 4096), data) << "a whole write that was submitted is done";
}

TEST(NbdSession, CommandsMayArriveByteByByte) {
  TestServer server;
  TestClient client = server.client();
  Bytes bytes(kCommandBytes);
  encode(Command{0, kCmdWrite, 9, 4096, 64}, bytes);
  const Bytes data = pattern(64, 1);
  bytes.insert(bytes.end(), data.begin(), data.end());
  for (const std::byte b : bytes) client.send(ByteView(&b, 1));
  EXPECT_EQ(client.reply()->cookie, 9u);
  EXPECT_EQ(client.read(4096, 64), data);
}

TEST(NbdSession, CommandsSentTogetherWithTheLastOptionAreServed) {
  TestServer server;
  TestClient client = server.connect();
  client.greet();
  Bytes out;
  append_option(out, kOptGo, encode_info_request({"vol", {}}));
  out.resize(out.size() + kCommandBytes);
  encode(Command{0, kCmdFlush, 5, 0, 0}, std::span(out).last(kCommandBytes));
  client.send(out);
  EXPECT_EQ(client.option_reply()->type(), kRepInfo);
  EXPECT_EQ(client.option_reply()->type(), kRepAck);
  EXPECT_EQ(client.reply()->cookie, 5u);
}

TEST(NbdSession, AFlushCoversWhatOtherConnectionsWereToldIsWritten) {
  TestServer server;
  TestClient one = server.client();
  TestClient two = server.client();
  for (int i = 0; i < 5; i++) EXPECT_EQ(one.write(4096 * static_cast<uint64_t>(i), Bytes(4096)), 0u);
  server.on_loop([&] { EXPECT_EQ(server.device().unflushed_writes, 5u); });
  EXPECT_EQ(two.call({0, kCmdFlush, 1, 0, 0}), 0u);
  server.on_loop([&] { EXPECT_EQ(server.device().unflushed_writes, 0u); });
  EXPECT_EQ(two.read(0, 4096), one.read(0, 4096));
}

TEST(NbdSession, OldSessionsReachTheGrownPartOfADevice) {
  TestServer server;
  server.on_loop([&] { server.device().info_.size = 1 << 20; });
  TestClient client = server.client();
  EXPECT_EQ(client.call({0, kCmdRead, 1, 1 << 20, 512}), kEinval);
  EXPECT_EQ(client.write(1 << 20, Bytes(512)), kEnospc);
  server.on_loop([&] { server.device().info_.size = 2 << 20; });
  EXPECT_EQ(client.write(1 << 20, pattern(512, 1)), 0u);
  EXPECT_EQ(client.read(1 << 20, 512), pattern(512, 1));
}

// With a device that does everything inside the call, with one that does nothing so, and with one that
// changes.
TEST(NbdSession, MixedLoadKeepsEveryByteInItsPlace) {
  TestServer server(8 * kMiB);
  Bytes shadow(8 * kMiB);
  TestClient client = server.client();
  SeededRng rng(11);
  for (int i = 0; i < 1200; i++) {
    if (i % 400 == 0) server.on_loop([&] { server.device().at_once = i == 400; });
    if (i >= 800 && rng.chance(1, 2))
      server.on_loop([&] { server.device().at_once = !server.device().at_once; });
    const auto length = static_cast<uint32_t>(1 + rng.below(rng.chance(1, 8) ? 1 << 20 : 20000));
    const uint64_t offset = rng.below(shadow.size() - length);
    const auto place = std::span(shadow).subspan(offset, length);
    if (rng.chance(1, 2)) {
      const Bytes data = pattern(length, rng.next());
      ASSERT_EQ(client.write(offset, data), 0u);
      std::copy(data.begin(), data.end(), place.begin());
    } else if (rng.chance(1, 4)) {
      ASSERT_EQ(client.call({0, kCmdWriteZeroes, 3, offset, length}), 0u);
      std::fill(place.begin(), place.end(), std::byte{0});
    } else {
      ASSERT_EQ(client.read(offset, length), Bytes(place.begin(), place.end()));
    }
  }
  server.on_loop([&] { EXPECT_GT(server.device().done_at_once, 100u); });
}

TEST(NbdSession, AWriteThatMustBeDurableIsNeverDoneAtOnce) {
  TestServer server;
  server.on_loop([&] { server.device().at_once = true; });
  TestClient client = server.client();
  const Bytes data = pattern(4096, 3);
  client.command({kCmdFlagFua, kCmdWrite, 1, 0, 4096}, data);
  ASSERT_EQ(client.reply()->error, 0u);
  server.on_loop([&] {
    EXPECT_EQ(server.device().durable_requests, 1u);
    EXPECT_EQ(server.device().done_at_once, 0u);
  });
  EXPECT_EQ(client.read(0, 4096), data);
}

}  // namespace
}  // namespace foreshadow::nbd
