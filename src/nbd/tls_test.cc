// TLS from a client's side: who gets in, who does not, and what an attacker on the wire can do.
#include "nbd/tls.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>

#include "base/rng.h"
#include "nbd/test_tls_server.h"

namespace foreshadow::nbd {
namespace {

TEST(NbdTls, ClientsWithACertificateOrAKeyAreServed) {
  TlsServerFixture server(both());
  expect_good_session(server, with_certificate());
  expect_good_session(server, with_key());
  expect_good_session(server, with_key("bob", kBobKey));
  TlsServerFixture only_keys(keys());
  expect_good_session(only_keys, with_key());
  TlsServerFixture only_certificates(certificates());
  expect_good_session(only_certificates, with_certificate());
}

TEST(NbdTls, Versions12And13AreSpokenAndNoOlderOne) {
  TlsServerFixture server(both());
  for (const char* version : {"1.2", "1.3"}) {
    for (TlsWish wish : {with_certificate(), with_key()}) {
      wish.priority = fmt::format("NORMAL:-VERS-ALL:+VERS-TLS{}", version);
      expect_good_session(server, wish);
    }
  }
  TlsWish newest = with_certificate();
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(newest), 0);
  EXPECT_EQ(gnutls_protocol_get_version(client.session()), GNUTLS_TLS1_3);
  for (const char* version : {"1.0", "1.1"}) {
    TlsWish old = with_certificate();
    old.priority = fmt::format("NORMAL:-VERS-ALL:+VERS-TLS{}", version);
    TlsTestClient refused = server.dial();
    refused.greet();
    EXPECT_FALSE(refused.accepted(old)) << version;
  }
}

TEST(NbdTls, WhoCannotProveWhoItIsIsRefused) {
  const TestCertificate other_authority({.common_name = "authority"});
  const TestCertificate forged({.common_name = "client one"}, &other_authority);
  const TestCertificate self_signed({.common_name = "client one"});
  const TestCertificate expired({.common_name = "client one", .from = 1'000'000'000, .to = 1'100'000'000},
                                &authority());
  const TestCertificate early({.common_name = "client one", .from = 4'000'000'000, .to = 4'100'000'000},
                              &authority());
  const TestCertificate for_servers({.common_name = "client one", .purpose = GNUTLS_KP_TLS_WWW_SERVER},
                                    &authority());
  TlsWish nothing{.authorities = authority().pem()};
  TlsWish no_secrecy = with_certificate();
  no_secrecy.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA";
  const std::pair<const char*, TlsWish> cases[] = {
      {"no certificate", nothing},
      {"of another authority", with_certificate(forged)},
      {"signed by itself", with_certificate(self_signed)},
      {"expired", with_certificate(expired)},
      {"not valid yet", with_certificate(early)},
      {"for servers", with_certificate(for_servers)},
      {"wrong key", with_key("alice", kBobKey)},
      {"unknown user", with_key("carol", kAliceKey)},
      {"user in other letters", with_key("Alice", kAliceKey)},
      {"key exchange without forward secrecy", no_secrecy},
  };
  TlsServerFixture server(both());
  std::vector<std::string> log;
  server.on_loop(
      [&] { server.server().report_refusals([&](const std::string& why) { log.push_back(why); }); });
  for (const auto& [what, wish] : cases) {
    for (const char* version : {"1.2", "1.3"}) {
      TlsWish one = wish;
      if (one.priority == "NORMAL") one.priority = fmt::format("NORMAL:-VERS-ALL:+VERS-TLS{}", version);
      TlsTestClient client = server.dial();
      client.greet();
      EXPECT_FALSE(client.accepted(one)) << what << ", TLS " << version;
    }
  }
  server.until_sessions(0);
  expect_good_session(server, with_certificate());
  server.on_loop([&] {
    EXPECT_GE(log.size(), std::size(cases));
    const auto says = [&](std::string_view what) {
      return std::any_of(log.begin(), log.end(),
                         [&](const std::string& why) { return why.find(what) != std::string::npos; });
    };
    EXPECT_TRUE(says("expired"));
    EXPECT_FALSE(says(kAliceKey) || says(kBobKey));
  });
}

TEST(NbdTls, AKeyIsNoUseWhereOnlyCertificatesAreAccepted) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  EXPECT_FALSE(client.accepted(with_key()));
}

// The server's own certificate is checked by clients: it is the one that was configured.
TEST(NbdTls, AClientThatTrustsAnotherAuthorityGoesAway) {
  const TestCertificate other({.common_name = "other"});
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  TlsWish wish = with_certificate();
  wish.authorities = other.pem();
  EXPECT_NE(client.start_tls(wish), 0);
  client.close();
  server.until_sessions(0);
}

TEST(NbdTls, BeforeTlsEveryOptionIsToldThatItIsRequired) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  for (const uint32_t option : {kOptList, kOptInfo, kOptGo, kOptStructuredReply, kOptListMetaContext,
                                kOptSetMetaContext, 4u, 11u, 99u, 0xffffffffu}) {
    for (const Bytes& payload : {Bytes(), encode_info_request({"vol", {}})}) {
      const auto replies = client.option(option, payload);
      ASSERT_EQ(replies.size(), 1u);
      EXPECT_EQ(replies.back().type(), kRepErrTlsReqd);
    }
  }
  EXPECT_EQ(client.option(kOptStartTls, Bytes(1)).back().type(), kRepErrInvalid);
  EXPECT_EQ(client.start_tls(with_certificate()), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
}

TEST(NbdTls, ExportNameBeforeTlsEndsTheConnection) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  client.send_option(kOptExportName, bytes_of("vol"));
  EXPECT_TRUE(client.at_end());
}

TEST(NbdTls, AbortBeforeTlsIsAcknowledged) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  EXPECT_EQ(client.option(kOptAbort).back().type(), kRepAck);
  EXPECT_TRUE(client.at_end());
}

TEST(NbdTls, ClientsThatCannotAskForTlsAreDropped) {
  TlsServerFixture server(certificates());
  for (const uint32_t flags : {0u, kClientNoZeroes}) {
    TlsTestClient client = server.dial();
    client.greet(flags);
    EXPECT_TRUE(client.at_end());
  }
}

TEST(NbdTls, ASecondStartTlsIsInvalidAndNothingIsToldToNeedTls) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_certificate()), 0);
  EXPECT_EQ(client.option(kOptStartTls).back().type(), kRepErrInvalid);
  EXPECT_EQ(client.option(kOptStartTls, Bytes(3)).back().type(), kRepErrInvalid);
  for (const uint32_t option : {0u, kOptList, 4u, kOptInfo, kOptStructuredReply, kOptListMetaContext, 99u}) {
    for (const OptionReply& reply : client.option(option)) EXPECT_NE(reply.type(), kRepErrTlsReqd);
  }
  EXPECT_EQ(go(client, "vol"), kRepAck);
}

TEST(NbdTls, ExportNameWorksUnderTls) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_certificate()), 0);
  client.send_option(kOptExportName, bytes_of("vol"));
  EXPECT_EQ(client.receive(10).size(), 10u);
  EXPECT_EQ(client.write(0, pattern(512, 1)), 0u);
}

// --- an attacker on the wire

TEST(NbdTls, PlainBytesBehindStartTlsEndTheConnectionUnread) {
  TlsServerFixture server(certificates());
  Bytes behind[3];
  append_option(behind[0], kOptGo, encode_info_request({"vol", {}}));
  append_option(behind[1], kOptStructuredReply, {});
  behind[2] = Bytes(1);
  for (const Bytes& bytes : behind) {
    TlsTestClient client = server.dial();
    client.greet();
    Bytes out;
    append_option(out, kOptStartTls, {});
    out.insert(out.end(), bytes.begin(), bytes.end());
    client.send(out);
    EXPECT_TRUE(client.at_end()) << "not even STARTTLS is answered";
  }
  server.until_sessions(0);
}

TEST(NbdTls, PlainBytesInPlaceOfTheHandshakeEndTheConnection) {
  TlsServerFixture server(certificates());
  SeededRng rng(4);
  for (int i = 0; i < 20; i++) {
    TlsTestClient client = server.dial();
    client.greet();
    EXPECT_EQ(client.option(kOptStartTls).back().type(), kRepAck);
    Bytes junk;
    if (i == 0) {
      append_option(junk, kOptGo, encode_info_request({"vol", {}}));
    } else {
      junk.resize(1 + rng.below(3000));
      for (std::byte& b : junk) b = static_cast<std::byte>(rng.next());
      if (i % 2 == 0) junk[0] = std::byte{22};  // the beginning of a TLS record
    }
    client.send(junk);
    client.close_sending();
    // An alert may come; no answer to an option does.
    const Bytes said = client.receive(kOptionReplyBytes);
    EXPECT_LT(said.size(), kOptionReplyBytes);
  }
  server.until_sessions(0);
  expect_good_session(server, with_certificate());
}

TEST(NbdTls, PlainBytesInsideASessionEndIt) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_certificate()), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  EXPECT_EQ(client.write(0, pattern(4096, 1)), 0u);
  client.stop_tls();
  client.command({0, kCmdWriteZeroes, 1, 0, 4096});
  server.until_sessions(0);
  EXPECT_EQ(server.client().read(0, 4096), pattern(4096, 1)) << "the forged command was not carried out";
}

TEST(NbdTls, ARenegotiationIsRefused) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  TlsWish wish = with_certificate();
  wish.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2";
  ASSERT_EQ(client.start_tls(wish), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  EXPECT_LT(gnutls_handshake(client.session()), 0);
  server.until_sessions(0);
}

TEST(NbdTls, NewKeysWithinTls13AreTaken) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  TlsWish wish = with_certificate();
  wish.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3";
  ASSERT_EQ(client.start_tls(wish), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  for (const unsigned flags : {0u, unsigned{GNUTLS_KU_PEER}, unsigned{GNUTLS_KU_PEER}}) {
    ASSERT_EQ(gnutls_session_key_update(client.session(), flags), 0);
    EXPECT_EQ(client.write(0, pattern(100'000, flags)), 0u);
    EXPECT_EQ(client.read(0, 100'000), pattern(100'000, flags));
  }
}

TEST(NbdTls, AClientMayVanishAtEveryByteOfTheHandshake) {
  TlsServerFixture server(certificates());
  // What a client says first, taken from a real one by way of a socket pair.
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  gnutls_session_t session = nullptr;
  gnutls_certificate_credentials_t none = nullptr;
  gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
  gnutls_certificate_allocate_credentials(&none);
  gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, none);
  gnutls_set_default_priority(session);
  gnutls_transport_set_int(session, ends[0]);
  const timeval soon{0, 1000};
  ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
  EXPECT_EQ(gnutls_handshake(session), GNUTLS_E_AGAIN);
  Bytes hello(4096);
  const ssize_t n = ::recv(ends[1], hello.data(), hello.size(), 0);
  ASSERT_GT(n, 0);
  gnutls_deinit(session);
  gnutls_certificate_free_credentials(none);
  ::close(ends[0]);
  ::close(ends[1]);
  for (size_t upto = 0; upto <= static_cast<size_t>(n); upto += 3) {
    TlsTestClient client = server.dial();
    client.greet();
    client.option(kOptStartTls);
    client.send(ByteView(hello).first(upto));
  }
  server.until_sessions(0);
  expect_good_session(server, with_certificate());
}

// --- the end

TEST(NbdTls, AClientThatEndsInOrderGetsItsRepliesAndTheServersEnd) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_certificate()), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  for (uint64_t i = 0; i < 10; i++) client.command({0, kCmdTrim, i, 0, 4096});
  ASSERT_EQ(gnutls_bye(client.session(), GNUTLS_SHUT_WR), 0);
  for (uint64_t i = 0; i < 10; i++) EXPECT_EQ(client.reply()->cookie, i);
  EXPECT_TRUE(client.at_secure_end());
}

TEST(NbdTls, AConnectionCutShortIsNoEndInOrder) {
  TlsServerFixture server(certificates());
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_certificate()), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  server.on_loop([&] { server.device().hold = true; });
  client.command({0, kCmdTrim, 1, 0, 4096});
  server.until([&] { return server.device().waiting() == 1; });
  client.close_sending();
  server.on_loop([&] { server.device().release(); });
  server.until_sessions(0);
}

TEST(NbdTls, AStopEndsSessionsInOrderAndHandshakesAtOnce) {
  TlsServerFixture server(certificates());
  TlsTestClient idle = server.dial();
  idle.greet();
  ASSERT_EQ(idle.start_tls(with_certificate()), 0);
  EXPECT_EQ(go(idle, "vol"), kRepAck);
  TlsTestClient shaking = server.dial();
  shaking.greet();
  EXPECT_EQ(shaking.option(kOptStartTls).back().type(), kRepAck);
  server.stop();
  EXPECT_TRUE(idle.at_secure_end());
  EXPECT_TRUE(shaking.at_end());
}

TEST(NbdTls, AnyMixOfSizesComesThroughWhole) {
  TlsServerFixture server(keys());
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_key()), 0);
  EXPECT_EQ(client.option(kOptStructuredReply).back().type(), kRepAck);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  SeededRng rng(5);
  for (int i = 0; i < 60; i++) {
    const auto length = static_cast<uint32_t>(1 + rng.below(i % 4 == 0 ? 3 << 20 : 40'000));
    const uint64_t offset = rng.below(TestServer::kSize - length);
    const Bytes data = pattern(length, rng.next());
    ASSERT_EQ(client.write(offset, data), 0u);
    client.command({0, kCmdRead, 9, offset, length});
    const auto reply = client.reply();
    ASSERT_TRUE(reply && reply->data.size() == length + 8);
    ASSERT_TRUE(std::equal(data.begin(), data.end(), reply->data.begin() + 8));
  }
}

// --- what administrators give

TEST(NbdTls, MaterialThatCannotWorkIsRefusedByName) {
  const TlsMaterial good = certificates();
  const TestCertificate other({.common_name = "other"});
  struct Case {
    TlsMaterial material;
    const char* says;
  };
  const Case cases[] = {
      {{}, "neither a certificate nor keys"},
      {{good.certificate, "", "", ""}, "all three"},
      {{good.certificate, good.key, "", ""}, "all three"},
      {{"", "", good.authorities, ""}, "all three"},
      {{"junk", good.key, good.authorities, ""}, "the certificate and its key"},
      {{good.certificate, "junk", good.authorities, ""}, "the certificate and its key"},
      {{good.certificate, other.key_pem(), good.authorities, ""}, "the certificate and its key"},
      {{good.certificate, good.key, "junk", ""}, "the authorities"},
      {{"", "", "", "alice\n"}, "the pre-shared keys: line 1"},
      {{"", "", "", "# none\n"}, "the pre-shared keys: no USER:HEX"},
  };
  for (const Case& c : cases) {
    const auto made = TlsServer::create(c.material);
    ASSERT_FALSE(made.has_value()) << c.says;
    EXPECT_EQ(made.error().code, Code::kInvalidArgument);
    EXPECT_NE(made.error().message.find(c.says), std::string::npos) << made.error().message;
  }
}

}  // namespace
}  // namespace foreshadow::nbd
