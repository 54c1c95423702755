// One test per class of hole that other NBD servers, and clients, have had. Each sends what broke them.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/codec.h"
#include "base/limits.h"
#include "base/rng.h"
#include "nbd/test_tls_server.h"

namespace foreshadow::nbd {
namespace {

Bytes words(std::initializer_list<uint32_t> list) {
  Bytes out(list.size() * 4);
  WireWriter w(out);
  for (const uint32_t word : list) w.u32(word);
  return out;
}

// nbd-server added to a name length of 0xffffffff and copied into what the wrapped sum allocated.
TEST(NbdCve, Cve2022_26495_NameLengthThatWraps) {
  TestServer server;
  for (const uint32_t option : {kOptInfo, kOptGo, kOptListMetaContext, kOptSetMetaContext}) {
    for (const uint32_t length : {0xffffffffu, 0xfffffffeu, 0xfffffffau, 0x80000000u, 0x7fffffffu}) {
      TestClient client = server.connect();
      client.greet();
      client.option(kOptStructuredReply);
      EXPECT_EQ(client.option(option, words({length, 0, 0})).back().type(), kRepErrInvalid);
      EXPECT_EQ(client.option(kOptGo, encode_info_request({"vol", {}})).back().type(), kRepAck);
    }
  }
}

// nbd-server parsed GO into a fixed buffer on its stack.
TEST(NbdCve, Cve2022_26496_LongNamesAndManyItems) {
  TestServer server;
  TestClient client = server.connect();
  client.greet();
  InfoRequest request{std::string(4096, 'x'), std::vector<uint16_t>(2000, kInfoName)};
  EXPECT_EQ(client.option(kOptGo, encode_info_request(request)).back().type(), kRepErrUnknown);
  request.name = "vol";
  EXPECT_EQ(client.option(kOptInfo, encode_info_request(request)).back().type(), kRepAck);
}

// qemu's server kept an export name of 4096 bytes on the stack when it answered.
TEST(NbdCve, Cve2017_15118_NameOf4096Bytes) {
  TestServer server;
  const std::string name(4096, 'n');
  TestClient client = server.connect();
  client.greet();
  const auto refused = client.option(kOptInfo, encode_info_request({name, {}}));
  EXPECT_EQ(refused.back().type(), kRepErrUnknown);
  EXPECT_LT(refused.back().payload.size(), 400u);
  client.send_option(kOptExportName, bytes_of(name));
  EXPECT_TRUE(client.at_end());
  server.expect_alive();
}

// qemu: an answer that echoed a long name ran into an assertion; nbdkit: a client could reach one as well.
TEST(NbdCve, Cve2020_10761_AndCve2019_14851_NoAssertionIsInReach) {
  TestServer server;
  SeededRng rng(2020);
  for (int i = 0; i < 200; i++) {
    TestClient client = server.connect();
    client.greet();
    for (int k = 0; k < 4; k++) {
      Bytes payload(rng.below(200));
      for (std::byte& b : payload) b = static_cast<std::byte>(rng.chance(1, 2) ? 0 : rng.next());
      auto option = static_cast<uint32_t>(rng.below(13));
      if (option == kOptExportName || option == kOptAbort) option = kOptGo;
      EXPECT_FALSE(client.option(option, payload).empty());
    }
  }
  // The same in transmission: every command with every flag and odd ranges.
  TestClient client = server.client(true, true);
  for (uint16_t type = 0; type < 12; type++) {
    if (type == kCmdDisc || type == kCmdWrite) continue;
    for (uint32_t flags = 0; flags < 64; flags++) {
      for (const uint64_t offset : {uint64_t{0}, TestServer::kSize, ~uint64_t{0}}) {
        client.call({static_cast<uint16_t>(flags), type, 1, offset, flags == 63 ? 0xffffffff : 512});
      }
    }
  }
  server.expect_alive();
}

// qemu: clients that never negotiate took every connection; and stopping while they do crashed.
TEST(NbdCve, Cve2024_7409_SilentClientsAreBoundedAndStopIsSafe) {
  TestServer server;
  std::vector<TestClient> silent;
  for (uint32_t i = 0; i < limits::kNbdConnections + 20; i++) silent.push_back(server.connect());
  server.until_sessions(limits::kNbdConnections);
  for (size_t i = 0; i < 10; i++) silent[i].close();
  server.stop();
  server.on_loop([&] { EXPECT_EQ(server.server().session_count(), 0u); });
}

// The same where clients stop inside TLS's handshake, which takes longer than the plain one.
TEST(NbdCve, Cve2024_7409_ClientsThatStopInsideTlsAreBoundedToo) {
  TlsServerFixture server(keys());
  std::vector<std::unique_ptr<TlsTestClient>> stuck;
  for (uint32_t i = 0; i < limits::kNbdConnections; i++) {
    stuck.push_back(std::make_unique<TlsTestClient>(server.tls_path()));
    stuck.back()->greet();
    EXPECT_EQ(stuck.back()->option(kOptStartTls).back().type(), kRepAck);
  }
  EXPECT_TRUE(server.dial().at_end()) << "one past the limit";
  stuck.pop_back();
  server.until_sessions(limits::kNbdConnections - 1);
  server.expect_alive();
}

// And where clients keep coming while the server stops: the gate counts every one of them.
TEST(NbdCve, Cve2024_7409_ClientsThatComeDuringAStopAreCounted) {
  for (int round = 0; round < 10; round++) {
    TestServer server;
    std::atomic<bool> stopped{false};
    std::vector<std::thread> callers;
    for (int i = 0; i < 3; i++) {
      callers.emplace_back([&] {
        while (!stopped) {
          // Without waiting: whoever stands in a full queue when the listener is shut down would stay there.
          const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
          sockaddr_un address{};
          address.sun_family = AF_UNIX;
          std::memcpy(address.sun_path, server.path().data(), server.path().size());
          const void* generic = &address;
          (void)::connect(fd, static_cast<const sockaddr*>(generic), sizeof address);
          ::close(fd);
        }
      });
    }
    server.until([&] { return server.server().session_count() > 0; });
    server.stop();
    server.on_loop([&] { EXPECT_EQ(server.server().session_count(), 0u); });
    stopped = true;
    for (std::thread& caller : callers) caller.join();
  }
}

// nbdkit kept what was negotiated in plain text, so that an attacker on the wire could choose it for the
// client.
TEST(NbdCve, Cve2021_3716_NothingSaidInPlainTextSurvivesStartTls) {
  TlsServerFixture server(keys());
  TlsTestClient client = server.dial();
  client.greet();
  for (const uint32_t option : {kOptStructuredReply, kOptSetMetaContext, kOptInfo}) {
    const Bytes payload = option == kOptSetMetaContext ? encode_meta_request({"vol", {kBaseAllocation}})
                          : option == kOptInfo         ? encode_info_request({"vol", {}})
                                                       : Bytes();
    EXPECT_EQ(client.option(option, payload).back().type(), kRepErrTlsReqd);
  }
  ASSERT_EQ(client.start_tls(with_key()), 0);
  const auto replies = client.option(kOptGo, encode_info_request({"vol", {}}));
  ASSERT_EQ(replies.size(), 2u);
  EXPECT_EQ(decode_info_export(replies[0].payload)->flags & kSendDf, 0) << "no structured replies";
  client.command({0, kCmdRead, 1, 0, 512});
  EXPECT_FALSE(client.reply(512)->structured);
  EXPECT_EQ(client.call({0, kCmdBlockStatus, 1, 0, 512}), kEinval) << "no context";
}

// The other half of it: what an attacker sends behind STARTTLS, in the client's name, is never read as if it
// had come under TLS.
TEST(NbdCve, Cve2021_3716_BytesInjectedBehindStartTlsAreNotRead) {
  TlsServerFixture server(keys());
  TlsTestClient client = server.dial();
  client.greet();
  Bytes out;
  append_option(out, kOptStartTls, {});
  append_option(out, kOptGo, encode_info_request({"vol", {}}));
  client.send(out);
  EXPECT_TRUE(client.at_end());
  server.on_loop([&] { EXPECT_EQ(server.server().session_count(server.device()), 0u); });
}

// libnbd went on in plain text when an attacker had STARTTLS refused. Here a listener either requires TLS, to
// the end of the connection, or never heard of it.
TEST(NbdCve, Cve2019_14842_NoWayAroundTls) {
  TlsServerFixture server(both());
  const std::function<void(TlsTestClient&)> ways[] = {
      [](TlsTestClient& c) { c.send_option(kOptExportName, bytes_of("vol")); },
      [](TlsTestClient& c) {
        EXPECT_EQ(c.option(kOptStartTls, Bytes(1)).back().type(), kRepErrInvalid);
        EXPECT_EQ(c.option(kOptGo, encode_info_request({"vol", {}})).back().type(), kRepErrTlsReqd);
        EXPECT_EQ(c.option(kOptList).back().type(), kRepErrTlsReqd);
        c.option(kOptAbort);
      },
      [](TlsTestClient& c) {  // a handshake that fails is no way back to plain text
        EXPECT_EQ(c.option(kOptStartTls).back().type(), kRepAck);
        c.send(Bytes(5, std::byte{21}));
        c.send_option(kOptGo, encode_info_request({"vol", {}}));
      },
      [](TlsTestClient& c) {
        TlsWish old = with_key();
        old.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.1:+VERS-TLS1.0";
        EXPECT_FALSE(c.accepted(old));
      },
      [](TlsTestClient& c) { c.command({0, kCmdRead, 1, 0, 512}); },
  };
  for (const auto& way : ways) {
    TlsTestClient client = server.dial();
    client.greet();
    way(client);
    const Bytes rest = client.receive(4096);
    EXPECT_LT(rest.size(), 64u) << "an alert at most";
  }
  server.on_loop([&] { EXPECT_EQ(server.server().session_count(server.device()), 0u); });
}

// nbd-server compared addresses by their beginning. Identities and exports are compared whole.
TEST(NbdCve, Cve2013_6410_PartsOfNamesOpenNothing) {
  const auto rules = Authorization::parse("dns:db.example data\npsk:bob *\n");
  ASSERT_TRUE(rules.has_value());
  EXPECT_TRUE(rules->allows({"dns:db.example"}, "data"));
  for (const char* who :
       {"dns:db.example.evil", "dns:db.exampl", "dns:xdb.example", "dns:", "psk:bo", "psk:bobby"})
    EXPECT_FALSE(rules->allows({who}, "data")) << who;
  for (const char* what : {"dat", "data1", "d", "*", ""})
    EXPECT_FALSE(rules->allows({"dns:db.example"}, what)) << what;
}

// qemu's client, and libnbd, trusted lengths in a server's replies. Our own client's half is as strict.
TEST(NbdCve, Cve2017_2630_Cve2019Libnbd_AndCve2021_20286_RepliesThatLieAreRefused) {
  for (const uint32_t length : {5u, 0x7fffffffu, 0xfffffffcu, 0xffffffffu}) {
    EXPECT_FALSE(decode_server(words({length, 0})).has_value()) << length;
    EXPECT_FALSE(decode_error(words({1, length})).has_value()) << length;
  }
  EXPECT_FALSE(decode_status(words({1, 0, 0})).has_value()) << "an extent of nothing: no progress for ever";
  EXPECT_FALSE(decode_status(words({1, 4096})).has_value());
  EXPECT_FALSE(decode_info_export(words({0, 0})).has_value());
  EXPECT_FALSE(decode_info_block_size(words({0, 0, 0, 0, 0})).has_value());
}

// nbdcopy took no notice of a read that had failed and wrote what was in its buffer. A failed read carries an
// error in either kind of reply, and never data.
TEST(NbdCve, Cve2022_0485_AFailedReadIsNeverData) {
  for (const bool structured : {true, false}) {
    TestServer server;
    TestClient client = server.client(structured);
    server.on_loop([&] { server.device().fail_with = Code::kIo; });
    client.command({0, kCmdRead, 7, 0, 4096});
    const auto reply = client.reply(4096);
    EXPECT_EQ(reply->error, kEio);
    if (structured) {
      EXPECT_EQ(reply->chunk.type, kChunkError);
    } else {
      EXPECT_TRUE(reply->data.empty());
    }
  }
}

// nbdkit opened its back end for clients that had only connected. Here info() is all that is asked before GO.
TEST(NbdCve, Cve2019_14850_NothingIsDoneBeforeGo) {
  TestServer server;
  TestClient client = server.connect();
  client.greet();
  client.option(kOptStructuredReply);
  client.option(kOptList);
  client.option(kOptInfo, encode_info_request({"vol", {kInfoBlockSize, kInfoName}}));
  client.option(kOptSetMetaContext, encode_meta_request({"vol", {kBaseAllocation}}));
  server.on_loop([&] {
    EXPECT_EQ(server.device().submitted, 0u);
    EXPECT_EQ(server.server().session_count(server.device()), 0u);
  });
}

// nbd-server died, or ran unsafe code in a signal handler, when a client disconnected at the wrong moment.
TEST(NbdCve, Cve2013_7441_AndCve2015_0847_DisconnectInEveryState) {
  TestServer server;
  Bytes script;
  append_client_flags(script, kClientFixedNewstyle | kClientNoZeroes);
  append_option(script, kOptStructuredReply, {});
  append_option(script, kOptList, {});
  append_option(script, kOptGo, encode_info_request({"vol", {kInfoBlockSize}}));
  for (const auto& [type, length] :
       {std::pair<uint16_t, uint32_t>{kCmdRead, 65536}, {kCmdWrite, 40}, {kCmdFlush, 0}}) {
    const size_t at = script.size();
    script.resize(at + kCommandBytes + (type == kCmdWrite ? length : 0));
    encode(Command{0, type, 1, 0, length}, std::span(script).subspan(at));
  }
  for (size_t n = 0; n <= script.size(); n++) {
    TestClient client = server.connect();
    client.send(ByteView(script).first(n));
  }
  server.until_sessions(0);
  server.expect_alive();
}

// qemu: an option of gigabytes was read to its end; a query count can ask for as much.
TEST(NbdCve, Cve2017_15119_HugeOptionsAndCountsAllocateNothing) {
  TestServer server;
  TestClient client = server.connect();
  client.greet();
  client.option(kOptStructuredReply);
  EXPECT_EQ(client.option(kOptListMetaContext, words({0, 0xffffffff})).back().type(), kRepErrTooBig);
  EXPECT_EQ(client.option(kOptSetMetaContext, words({0, 1, 0xffffffff})).back().type(), kRepErrInvalid);
  Bytes huge;
  append_option(huge, kOptList, {});
  WireWriter(std::span(huge).subspan(12)).u32(0xffffffff);
  client.send(huge);
  EXPECT_TRUE(client.at_end());
  server.expect_alive();
}

// nbd-server copied requests longer than its buffer. An offset and a length whose sum wraps past 2^64 must
// not look like a small range either.
TEST(NbdCve, Cve2005_3534_AndCve2011_0530_RangesThatWrapOrAreTooLongAreRefused) {
  TestServer server;
  TestClient client = server.client(true, true);
  for (const uint16_t type : {kCmdRead, kCmdWrite, kCmdTrim, kCmdCache, kCmdWriteZeroes, kCmdBlockStatus}) {
    for (const uint64_t offset : {~uint64_t{0}, ~uint64_t{0} - 511, ~uint64_t{0} - 4095, uint64_t{1} << 63}) {
      EXPECT_NE(client.call({0, type, 1, offset, 512}, type == kCmdWrite ? Bytes(512) : Bytes()), 0u);
    }
  }
  for (const uint32_t length : {limits::kNbdRequestBytes + 1, 0x80000000u, 0xffffffffu}) {
    EXPECT_NE(client.call({0, kCmdRead, 1, 0, length}), 0u);
  }
  server.on_loop([&] { EXPECT_EQ(server.device().submitted, 0u); });
}

// A read that fails must not show what an earlier request left in the buffer.
TEST(NbdCve, FailedReadsLeakNoMemory) {
  for (const bool structured : {true, false}) {
    TestServer server;
    TestClient client = server.client(structured);
    EXPECT_EQ(client.write(0, Bytes(4096, std::byte{0xaa})), 0u);
    server.on_loop([&] { server.device().fail_with = Code::kIo; });
    client.command({0, kCmdRead, 1, 0, 4096});
    client.command({0, kCmdFlush, 2, 0, 0});
    const auto read = client.reply(4096);
    EXPECT_EQ(read->error, kEio);
    for (const std::byte b : read->data) EXPECT_NE(b, std::byte{0xaa});
    EXPECT_EQ(client.reply()->cookie, 2u) << "nothing between the two replies";
  }
}

}  // namespace
}  // namespace foreshadow::nbd
