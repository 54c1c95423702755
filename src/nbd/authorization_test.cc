// Who may use which export: the rules, and that what is not allowed is not there.
#include "nbd/authorization.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/limits.h"
#include "nbd/psk.h"
#include "nbd/test_tls_server.h"

namespace foreshadow::nbd {
namespace {

TEST(NbdAuthorization, RulesAddUpAndAllowNothingElse) {
  const auto rules = Authorization::parse(
      "\n"
      "# a comment\n"
      "  cn:backup   *\r\n"
      "dns:db1.example db1-data\tdb1-log\n"
      "dns:db1.example spare\n"
      "psk:alice a");
  ASSERT_TRUE(rules.has_value()) << rules.error().message;
  const std::tuple<Identity, const char*, bool> cases[] = {
      {{"cn:backup"}, "anything", true},
      {{"dns:db1.example"}, "db1-data", true},
      {{"dns:db1.example"}, "db1-log", true},
      {{"dns:db1.example"}, "spare", true},
      {{"dns:db1.example"}, "a", false},
      {{"dns:db1.example", "psk:alice"}, "a", true},
      {{"psk:alice"}, "a", true},
      {{"psk:alice"}, "ab", false},
      {{"psk:alice"}, "", false},
      {{"psk:backup"}, "a", false},
      {{"cn:alice"}, "a", false},
      {{"dns:DB1.example"}, "spare", false},
      {{}, "a", false},
  };
  for (const auto& [identity, name, allowed] : cases)
    EXPECT_EQ(rules->allows(identity, name), allowed) << name;
}

TEST(NbdAuthorization, ARuleThatMakesNoSenseIsRefusedWithItsLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"alice a\n", "line 1: identity \"alice\""}, {"cn: a\n", "line 1: identity"},
      {"# x\n\ncn:alice\n", "line 3: no export"},  {"cn:a Not-A-Name\n", "line 1: "},
      {"cn:a b\nCN:b c\n", "line 2: identity"},    {"cn:a b*\n", "line 1: "}};
  for (const auto& [text, says] : cases) {
    const auto rules = Authorization::parse(text);
    ASSERT_FALSE(rules.has_value()) << text;
    EXPECT_EQ(rules.error().code, Code::kInvalidArgument);
    EXPECT_NE(rules.error().message.find(says), std::string::npos) << rules.error().message;
  }
}

TEST(NbdAuthorization, RulesAreCountedAgainstTheLimit) {
  std::string text;
  for (size_t i = 0; i < limits::kNbdAuthorizationRules; i++) text += "cn:a b\n";
  EXPECT_TRUE(Authorization::parse(text).has_value());
  EXPECT_EQ(Authorization::parse(text + "cn:a b").error().code, Code::kLimit);
}

TEST(NbdPsk, KeysAreReadAsPsktoolWritesThem) {
  const auto keys = parse_psk("# made by hand\nalice:00112233445566778899AABBCCDDEEFF\r\n\n b@h:" +
                              std::string(2 * limits::kNbdPskKeyBytesMax, 'f'));
  ASSERT_TRUE(keys.has_value()) << keys.error().message;
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ(keys->at("alice").size(), 16u);
  EXPECT_EQ(keys->at("alice")[15], std::byte{0xff});
  EXPECT_EQ(keys->at("b@h").size(), limits::kNbdPskKeyBytesMax);
}

TEST(NbdPsk, WhatIsNoKeyIsRefusedAndNotShown) {
  const std::string key(32, 'a');
  const std::string longest(limits::kNbdPskUserBytes, 'u');
  EXPECT_TRUE(parse_psk(longest + ":" + key).has_value());
  const std::string cases[] = {
      "alice",
      "alice " + key,
      ":" + key,
      "al ice:" + key,
      longest + "u:" + key,
      "alice:",
      "alice:" + key.substr(1),
      "alice:" + key.substr(2),
      "alice:" + std::string(2 * limits::kNbdPskKeyBytesMax + 2, 'a'),
      "alice:" + key.substr(1) + "g",
      "alice:" + key + ":" + key,
      "alice:" + key + "\nalice:" + key,
      key + ":alice",
  };
  for (const std::string& text : cases) {
    const auto keys = parse_psk(text);
    ASSERT_FALSE(keys.has_value()) << text;
    EXPECT_EQ(keys.error().code, Code::kInvalidArgument);
    EXPECT_EQ(keys.error().message.find("aaaa"), std::string::npos) << keys.error().message;
  }
}

TEST(NbdPsk, UsersAreCountedAgainstTheLimit) {
  std::string text;
  for (size_t i = 0; i < limits::kNbdPskUsers; i++) text += fmt::format("u{}:{}\n", i, std::string(32, '0'));
  EXPECT_TRUE(parse_psk(text).has_value());
  EXPECT_EQ(parse_psk(text + "one-more:" + std::string(32, '0')).error().code, Code::kLimit);
}

TEST(NbdAuthorization, AnExportThatIsNotForAClientIsNotThere) {
  const char* rules =
      "# who              what\n"
      "dns:one.example    second\n"
      "psk:alice          vol\n"
      "psk:bob            *\n";
  TlsServerFixture server(both(), rules);
  struct Case {
    TlsWish who;
    std::vector<std::string> sees;
  };
  const TestCertificate nobody({.common_name = "psk:bob"}, &authority());
  const Case cases[] = {{with_certificate(), {"second"}},
                        {with_key(), {"vol"}},
                        {with_key("bob", kBobKey), {"second", "vol"}},
                        {with_certificate(nobody), {}}};
  for (const Case& c : cases) {
    TlsTestClient client = server.dial();
    client.greet();
    ASSERT_EQ(client.start_tls(c.who), 0);
    std::vector<std::string> listed;
    for (const OptionReply& reply : client.option(kOptList)) {
      if (reply.type() == kRepServer) listed.push_back(decode_server(reply.payload).value());
    }
    EXPECT_EQ(listed, c.sees);
    client.option(kOptStructuredReply);
    for (const std::string name : {"second", "vol"}) {
      const bool sees = std::find(c.sees.begin(), c.sees.end(), name) != c.sees.end();
      const auto info = client.option(kOptInfo, encode_info_request({name, {kInfoName}}));
      const auto meta = client.option(kOptSetMetaContext, encode_meta_request({name, {kBaseAllocation}}));
      if (sees) {
        EXPECT_EQ(info.back().type(), kRepAck);
        EXPECT_EQ(meta.back().type(), kRepAck);
        continue;
      }
      // Letter for letter what an export gets that is nowhere.
      std::string absent = name;
      absent.back() = 'x';
      const auto no_info = client.option(kOptInfo, encode_info_request({absent, {kInfoName}}));
      const auto no_meta =
          client.option(kOptSetMetaContext, encode_meta_request({absent, {kBaseAllocation}}));
      ASSERT_EQ(info.size(), no_info.size());
      EXPECT_EQ(info.back().type(), no_info.back().type());
      EXPECT_EQ(info.back().payload.size(), no_info.back().payload.size());
      EXPECT_EQ(meta.back().type(), no_meta.back().type());
      EXPECT_EQ(meta.back().payload.size(), no_meta.back().payload.size());
    }
    // The only export that a client may see is its default.
    const auto unnamed = client.option(kOptInfo, encode_info_request({"", {kInfoName}}));
    EXPECT_EQ(unnamed.back().type(), c.sees.size() == 1 ? kRepAck : kRepErrUnknown);
    if (c.sees.empty()) {
      client.send_option(kOptExportName, bytes_of("vol"));
      EXPECT_TRUE(client.at_secure_end());
    }
  }
}

TEST(NbdAuthorization, ACertificateIsKnownByAllItsNames) {
  const char* names[] = {"dns:one.example", "email:one@example", "uri:spiffe://example/one", "cn:plain"};
  const TestCertificate plain({.common_name = "plain"}, &authority());
  for (const char* name : names) {
    TlsServerFixture server(certificates(), fmt::format("{} vol\n", name));
    TlsTestClient client = server.dial();
    client.greet();
    const bool by_cn = std::string_view(name).starts_with("cn:");
    ASSERT_EQ(client.start_tls(by_cn ? with_certificate(plain) : with_certificate()), 0);
    EXPECT_EQ(go(client, "vol"), kRepAck) << name;
  }
}

// A name that is cut at a NUL by one reader and not by another has fooled others.
TEST(NbdAuthorization, NamesThatNoRuleCanSayAreNobodys) {
  const TestCertificate tricky(
      {.common_name = std::string("plain\0.evil", 11),
       .names = {{GNUTLS_SAN_DNSNAME, "one.example "}, {GNUTLS_SAN_URI, std::string(300, 'u')}}},
      &authority());
  TlsServerFixture server(certificates(), "dns:one.example vol\ncn:plain vol\n");
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(with_certificate(tricky)), 0);
  EXPECT_EQ(go(client, "vol"), kRepErrUnknown);
}

}  // namespace
}  // namespace foreshadow::nbd
