// What the protocol's text demands of every reply, whatever the command: docs/nbd-conformance.md says which
// sentence each test is for.
#include <gtest/gtest.h>

#include <bit>
#include <map>

#include "base/codec.h"
#include "base/limits.h"
#include "nbd/test_server.h"

namespace foreshadow::nbd {
namespace {

constexpr uint32_t kAnnounced = limits::kNbdAnnouncedBytes;

// Every kind of command, good and bad.
const std::vector<Command> kCommands = {
    {0, kCmdRead, 1, 0, 4096},
    {0, kCmdRead, 2, 1 << 20, 100},
    {0, kCmdRead, 3, 0, 0},
    {0, kCmdRead, 4, TestServer::kSize, 1},
    {1 << 9, kCmdRead, 5, 0, 4096},
    {0, kCmdRead, 6, 0, limits::kNbdRequestBytes + 1},
    {0, kCmdWrite, 7, 0, 512},
    {1 << 9, kCmdWrite, 8, 0, 512},
    {0, kCmdFlush, 9, 0, 0},
    {0, kCmdFlush, 10, 1, 0},
    {0, kCmdTrim, 11, 0, 4096},
    {0, kCmdTrim, 12, TestServer::kSize, 4096},
    {0, kCmdCache, 13, 0, 4096},
    {0, kCmdWriteZeroes, 14, 0, 4096},
    {0, kCmdWriteZeroes, 15, TestServer::kSize, 1},
    {0, kCmdBlockStatus, 16, 0, 0},
    {0, 1234, 17, 0, 0},
};

TEST(NbdConformance, WithoutStructuredRepliesEveryReplyIsSimple) {
  TestServer server;
  TestClient client = server.client(false);
  for (const Command& command : kCommands) {
    client.command(command, command.type == kCmdWrite ? Bytes(command.length) : Bytes());
    const auto reply = client.reply(command.type == kCmdRead ? command.length : 0);
    ASSERT_TRUE(reply.has_value()) << command.cookie;
    EXPECT_FALSE(reply->structured) << command.cookie;
    EXPECT_EQ(reply->cookie, command.cookie);
  }
}

TEST(NbdConformance, WithStructuredRepliesReadsAndWhateverHasAPayloadAreChunks) {
  TestServer server;
  TestClient client = server.client(true, true);
  std::vector<Command> commands = kCommands;
  commands.push_back({0, kCmdBlockStatus, 99, 0, 4096});
  for (const Command& command : commands) {
    client.command(command, command.type == kCmdWrite ? Bytes(command.length) : Bytes());
    const auto reply = client.reply();
    ASSERT_TRUE(reply.has_value()) << command.cookie;
    EXPECT_EQ(reply->cookie, command.cookie);
    if (command.type == kCmdRead || command.cookie == 99) {
      EXPECT_TRUE(reply->structured) << command.cookie;
    }
    if (!reply->structured) continue;
    EXPECT_EQ(reply->chunk.flags, kChunkFlagDone) << "the only chunk, and no flag that nobody negotiated";
    if (reply->error != 0) {
      EXPECT_EQ(reply->chunk.type, kChunkError);
      EXPECT_GE(reply->chunk.length, 6u);
      EXPECT_FALSE(reply->message.empty());
      EXPECT_LE(reply->message.size(), kStringBytes);
    }
  }
}

// All chunks of one READ. Their bounds, and that together they are the range once, are checked here.
std::vector<Reply> chunks_of(TestClient& client, const Command& command) {
  std::vector<Reply> out;
  client.command(command);
  std::map<uint64_t, uint64_t> covered;
  for (;;) {
    auto reply = client.reply();
    if (!reply || !reply->structured) {
      ADD_FAILURE() << "no chunk";
      return out;
    }
    EXPECT_EQ(reply->cookie, command.cookie);
    const uint16_t type = reply->chunk.type;
    if (type == kChunkOffsetData || type == kChunkOffsetHole) {
      WireReader r(reply->data);
      const uint64_t offset = r.u64();
      const uint64_t length = type == kChunkOffsetHole ? r.u32() : reply->data.size() - 8;
      EXPECT_GT(length, 0u);
      EXPECT_TRUE(offset >= command.offset && offset + length <= command.offset + command.length);
      EXPECT_TRUE(covered.emplace(offset, length).second);
      if (type == kChunkOffsetHole) {
        EXPECT_EQ(reply->chunk.length, 12u);
      }
    } else if (type == kChunkNone) {
      EXPECT_EQ(reply->chunk.length, 0u);
      EXPECT_EQ(reply->chunk.flags, kChunkFlagDone);
    }
    out.push_back(std::move(*reply));
    if ((out.back().chunk.flags & kChunkFlagDone) != 0) break;
  }
  uint64_t at = command.offset;
  for (const auto& [offset, length] : covered) {
    EXPECT_EQ(offset, at) << "a gap or an overlap";
    at = offset + length;
  }
  if (out.back().error == 0) {
    EXPECT_EQ(at, command.offset + command.length) << "not all of it";
  }
  return out;
}

TEST(NbdConformance, TheChunksOfAReadCoverItOnceAndTheLastSaysSo) {
  TestServer server(2 * kAnnounced);
  TestClient client = server.client();
  EXPECT_EQ(client.write(100, pattern(500'000, 1)), 0u);
  EXPECT_EQ(client.write(kAnnounced - 512, pattern(1024, 2)), 0u);
  for (const Command& command :
       {Command{0, kCmdRead, 1, 0, 0}, Command{0, kCmdRead, 2, 50, 1}, Command{0, kCmdRead, 3, 0, 4 << 20},
        Command{0, kCmdRead, 4, 8 << 20, 1 << 20}, Command{kCmdFlagDf, kCmdRead, 5, 3, 499'999},
        Command{0, kCmdRead, 6, 0, 2 * kAnnounced}, Command{0, kCmdRead, 7, 1, kAnnounced + 1}}) {
    chunks_of(client, command);
  }
}

TEST(NbdConformance, NoChunkCarriesMoreThanTheAnnouncedMaximum) {
  TestServer server(2 * kAnnounced);
  TestClient client = server.client();
  EXPECT_EQ(client.write(0, pattern(512, 1)), 0u);
  for (const uint32_t length : {kAnnounced - 1, kAnnounced, kAnnounced + 1, 2 * kAnnounced}) {
    const auto chunks = chunks_of(client, {0, kCmdRead, 1, 0, length});
    EXPECT_EQ(chunks.size(), length > kAnnounced ? 2u : 1u);
    for (const Reply& chunk : chunks) EXPECT_LE(chunk.data.size(), kAnnounced + 8);
  }
}

TEST(NbdConformance, AReadThatMustNotBeSplitIsWholeOrRefused) {
  TestServer server(2 * kAnnounced);
  TestClient client = server.client();
  EXPECT_EQ(client.write(4096, pattern(4096, 1)), 0u);
  for (const uint32_t length : {1u, 512u, 65'535u, 65'536u, 1u << 20, kAnnounced}) {
    const auto chunks = chunks_of(client, {kCmdFlagDf, kCmdRead, 1, 4000, length});
    ASSERT_EQ(chunks.size(), 1u);
    EXPECT_TRUE(chunks[0].chunk.type == kChunkOffsetData || length == 1) << "data and holes: zeros are there";
  }
  const auto refused = chunks_of(client, {kCmdFlagDf, kCmdRead, 1, 0, kAnnounced + 1});
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].error, kEoverflow);
}

TEST(NbdConformance, AFailedReadIsOneErrorAndNoContent) {
  TestServer server;
  TestClient client = server.client();
  server.on_loop([&] { server.device().fail_with = Code::kIo; });
  const auto chunks = chunks_of(client, {0, kCmdRead, 1, 0, 1 << 20});
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].error, kEio);
}

TEST(NbdConformance, BlockStatusIsOneChunkForTheOneContext) {
  TestServer server;
  TestClient client = server.client(true, true);
  server.on_loop([&] {
    for (uint64_t block = 0; block < 64; block += 2) server.device().allocate(block);
  });
  for (const uint16_t flags : {uint16_t{0}, kCmdFlagReqOne}) {
    for (const uint32_t length : {1u, 512u, 4096u, 10'000u, 64u * 4096u, static_cast<uint32_t>(64 * kMiB)}) {
      client.command({flags, kCmdBlockStatus, 5, 0, length});
      const auto reply = client.reply();
      ASSERT_TRUE(reply && reply->structured);
      EXPECT_EQ(reply->chunk.type, kChunkBlockStatus);
      EXPECT_EQ(reply->chunk.flags, kChunkFlagDone);
      EXPECT_TRUE(reply->chunk.length > 4 && (reply->chunk.length - 4) % 8 == 0);
      const auto status = decode_status(reply->data);
      ASSERT_TRUE(status.has_value());
      EXPECT_EQ(status->context, kAllocationContext);
      if (flags == kCmdFlagReqOne) {
        EXPECT_EQ(status->descriptors.size(), 1u);
      }
      uint64_t told = 0;
      for (const StatusDescriptor& run : status->descriptors) {
        EXPECT_LT(told, length) << "nothing is told behind the range";
        EXPECT_GT(run.length, 0u);
        EXPECT_EQ(run.flags & ~(kStateHole | kStateZero), 0u);
        told += run.length;
      }
      EXPECT_LE(told, length);
    }
  }
}

TEST(NbdConformance, TransmissionFlagsAreWhatIsServed) {
  for (const bool structured : {false, true}) {
    TestServer server;
    TestClient client = server.connect();
    const uint16_t flags = client.go("vol", structured).flags;
    EXPECT_NE(flags & kHasFlags, 0);
    EXPECT_EQ((flags & kSendDf) != 0, structured);
    EXPECT_TRUE((flags & kSendFastZero) == 0 || (flags & kSendWriteZeroes) != 0);
    // Rotational, resize and whatever later texts add: not served, so not set.
    EXPECT_EQ(flags & ~(kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kSendDf |
                        kCanMultiConn | kSendCache | kSendFastZero),
              0);
    const std::pair<uint16_t, Command> served[] = {
        {kSendFlush, {0, kCmdFlush, 1, 0, 0}},
        {kSendFua, {kCmdFlagFua, kCmdWrite, 1, 0, 512}},
        {kSendTrim, {0, kCmdTrim, 1, 0, 4096}},
        {kSendWriteZeroes, {kCmdFlagNoHole, kCmdWriteZeroes, 1, 0, 4096}},
        {kSendFastZero, {kCmdFlagFastZero, kCmdWriteZeroes, 1, 0, 4096}},
        {kSendCache, {0, kCmdCache, 1, 0, 4096}},
    };
    for (const auto& [flag, command] : served) {
      EXPECT_NE(flags & flag, 0);
      EXPECT_EQ(client.call(command, command.type == kCmdWrite ? Bytes(512) : Bytes()), 0u) << flag;
    }
    EXPECT_EQ(client.call({kCmdFlagDf, kCmdRead, 1, 0, 512}), structured ? 0u : kEinval);
  }
}

TEST(NbdConformance, HandshakeFlagsAreTheTwoThatAreSpokenAndNoOther) {
  TestServer server;
  TestClient client = server.connect();
  EXPECT_EQ(decode_greeting(client.receive(kGreetingBytes)).value(), kFlagFixedNewstyle | kFlagNoZeroes);
}

TEST(NbdConformance, InformationHasItsLengthAndComesBeforeTheAnswer) {
  TestServer server;
  for (const uint32_t option : {kOptInfo, kOptGo}) {
    TestClient client = server.connect();
    client.greet(kClientFixedNewstyle);  // with the zeroes, of which none may follow GO
    const auto replies = client.option(
        option,
        encode_info_request({"vol", {kInfoName, 77, kInfoBlockSize, kInfoDescription, 0xffff, kInfoName}}));
    ASSERT_GE(replies.size(), 2u);
    EXPECT_EQ(replies.back().type(), kRepAck);
    EXPECT_TRUE(replies.back().payload.empty());
    int exports = 0;
    for (size_t i = 0; i + 1 < replies.size(); i++) {
      ASSERT_EQ(replies[i].type(), kRepInfo);
      WireReader r(replies[i].payload);
      const uint16_t type = r.u16();
      const size_t length = replies[i].payload.size();
      if (type == kInfoExport) {
        exports++;
        EXPECT_EQ(length, 12u);
      } else if (type == kInfoBlockSize) {
        EXPECT_EQ(length, 14u);
        const auto sizes = decode_info_block_size(replies[i].payload).value();
        EXPECT_TRUE(std::has_single_bit(sizes.minimum) && sizes.minimum <= 65536);
        EXPECT_TRUE(std::has_single_bit(sizes.preferred) && sizes.preferred >= 512);
        EXPECT_GE(sizes.maximum, sizes.preferred);
        EXPECT_GE(sizes.maximum, 1u << 20);
      } else {
        EXPECT_TRUE(type == kInfoName || type == kInfoDescription) << "only what is in the text: " << type;
        EXPECT_GE(length, 2u);
      }
    }
    EXPECT_EQ(exports, 1);
    if (option == kOptGo) {
      EXPECT_EQ(client.call({0, kCmdFlush, 7, 0, 0}), 0u) << "nothing lies between GO and this reply";
    }
  }
}

TEST(NbdConformance, ServerEntriesHoldTheNameAndNothingPastIt) {
  TestServer server;
  TestClient client = server.connect();
  client.greet();
  const auto replies = client.option(kOptList);
  ASSERT_EQ(replies.size(), 2u);
  EXPECT_EQ(WireReader(replies[0].payload).u32(), replies[0].payload.size() - 4);
}

TEST(NbdConformance, OptionsThatAreNotKnownAreToldSoAndTheNextIsRead) {
  TestServer server;
  TestClient client = server.connect();
  client.greet();
  Bytes all;
  for (const uint32_t option : {0u, 4u, 11u, 99u, 0xffffffffu})
    append_option(all, option, Bytes(option % 50));
  append_option(all, kOptList, {});
  client.send(all);
  for (int i = 0; i < 5; i++) EXPECT_EQ(client.option_reply()->type(), kRepErrUnsup);
  EXPECT_EQ(client.option_reply()->type(), kRepServer);
  EXPECT_EQ(client.option_reply()->type(), kRepAck);
}

TEST(NbdConformance, ZeroesReadBackAsZeroesAndCacheChangesNothing) {
  TestServer server;
  TestClient client = server.client();
  for (const uint16_t flags : {uint16_t{0}, kCmdFlagNoHole, kCmdFlagFua}) {
    const Bytes data = pattern(65'536, flags + 1u);
    EXPECT_EQ(client.write(0, data), 0u);
    EXPECT_EQ(client.call({0, kCmdCache, 1, 0, 65'536}), 0u);
    EXPECT_EQ(client.read(0, 65'536), data);
    EXPECT_EQ(client.call({flags, kCmdWriteZeroes, 1, 100, 60'000}), 0u);
    Bytes expected = data;
    std::fill(expected.begin() + 100, expected.begin() + 60'100, std::byte{0});
    EXPECT_EQ(client.read(0, 65'536), expected);
  }
}

TEST(NbdConformance, CacheRejectsFlagsThatItDoesNotKnow) {
  TestServer server;
  TestClient client = server.client();
  for (uint32_t bit = 1; bit < 16; bit++) {
    EXPECT_EQ(client.call({static_cast<uint16_t>(1u << bit), kCmdCache, 1, 0, 512}), kEinval) << bit;
  }
}

TEST(NbdConformance, AFastZeroThatIsNotFastFailsAndASlowOneNeverSaysSo) {
  TestServer server;
  TestClient client = server.client();
  const Bytes data = pattern(4096, 1);
  EXPECT_EQ(client.write(0, data), 0u);
  EXPECT_EQ(client.call({kCmdFlagFastZero, kCmdWriteZeroes, 1, 1, 5}), kEnotsup);
  EXPECT_EQ(client.read(0, 4096), data) << "refused means untouched";
  EXPECT_EQ(client.call({0, kCmdWriteZeroes, 1, 1, 5}), 0u);
  server.on_loop([&] { server.device().fail_with = Code::kUnsupported; });
  EXPECT_EQ(client.call({0, kCmdWriteZeroes, 1, 0, 4096}), kEinval) << "ENOTSUP is for FAST_ZERO only";
}

TEST(NbdConformance, WritesToAReadOnlyExportFail) {
  TestServer server;
  server.on_loop([&] { server.device().info_.read_only = true; });
  TestClient client = server.connect();
  EXPECT_NE(client.go("vol").flags & kReadOnly, 0);
  EXPECT_EQ(client.write(0, Bytes(512)), kEperm);
  EXPECT_EQ(client.call({0, kCmdTrim, 1, 0, 4096}), kEperm);
  EXPECT_EQ(client.call({0, kCmdWriteZeroes, 1, 0, 4096}), kEperm);
}

}  // namespace
}  // namespace foreshadow::nbd
