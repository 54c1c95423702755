#pragma once
// Test support: a TestServer that asks for TLS, and who may come. Not part of the product.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>

#include "nbd/test_server.h"
#include "nbd/test_tls.h"
#include "nbd/tls.h"

namespace foreshadow::nbd {

inline constexpr char kAliceKey[] = "00112233445566778899aabbccddeeff";
inline constexpr char kBobKey[] = "ffeeddccbbaa99887766554433221100";

inline const TestCertificate& authority() {
  static const TestCertificate made({.common_name = "authority"});
  return made;
}
inline const TestCertificate& of_server() {
  static const TestCertificate made({.common_name = "server",
                                     .names = {{GNUTLS_SAN_DNSNAME, "localhost"}},
                                     .purpose = GNUTLS_KP_TLS_WWW_SERVER},
                                    &authority());
  return made;
}
inline const TestCertificate& of_client() {
  static const TestCertificate made({.common_name = "client one",
                                     .names = {{GNUTLS_SAN_DNSNAME, "one.example"},
                                               {GNUTLS_SAN_RFC822NAME, "one@example"},
                                               {GNUTLS_SAN_URI, "spiffe://example/one"}},
                                     .purpose = GNUTLS_KP_TLS_WWW_CLIENT},
                                    &authority());
  return made;
}
inline TlsMaterial certificates() {
  return {of_server().pem(), of_server().key_pem(), authority().pem(), ""};
}
inline TlsMaterial keys() {
  return {"", "", "", fmt::format("alice:{}\nbob:{}\n", kAliceKey, kBobKey)};
}
inline TlsMaterial both() {
  TlsMaterial out = certificates();
  out.psk = keys().psk;
  return out;
}
inline TlsWish with_certificate(const TestCertificate& certificate = of_client()) {
  return {.authorities = authority().pem(), .certificate = &certificate};
}
inline TlsWish with_key(const std::string& user = "alice", const std::string& key = kAliceKey) {
  return {.user = user, .key = key};
}

// Beside its plain socket the server listens on one that requires TLS.
class TlsServerFixture : public TestServer {
 public:
  explicit TlsServerFixture(const TlsMaterial& material, const std::string& rules = "") {
    on_loop([&] {
      Security security;
      auto tls = TlsServer::create(material);
      ASSERT_TRUE(tls.has_value()) << tls.error().message;
      security.tls = std::move(*tls);
      if (!rules.empty()) {
        auto parsed = Authorization::parse(rules);
        ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
        security.authorization = std::make_shared<const Authorization>(std::move(*parsed));
      }
      second_ = std::make_unique<RamDevice>(loop(), 1 << 20);
      EXPECT_TRUE(server().add_export(*Name::parse("second"), *second_).has_value());
      auto listener = io::listen_unix(loop(), tls_path());
      ASSERT_TRUE(listener.has_value()) << listener.error().message;
      server().add_listener(std::move(*listener), std::move(security));
    });
  }
  ~TlsServerFixture() {
    stop();
    on_loop([&] { second_.reset(); });
  }
  std::string tls_path() const { return path() + "-tls"; }
  TlsTestClient dial() const { return TlsTestClient(tls_path()); }

 private:
  std::unique_ptr<RamDevice> second_;
};

// The rest of a handshake, under TLS by now.
inline uint32_t go(TestClient& client, const std::string& name) {
  return client.option(kOptGo, encode_info_request({name, {}})).back().type();
}

inline void expect_good_session(TlsServerFixture& server, const TlsWish& wish) {
  TlsTestClient client = server.dial();
  client.greet();
  ASSERT_EQ(client.start_tls(wish), 0);
  EXPECT_EQ(go(client, "vol"), kRepAck);
  const Bytes data = pattern(300'000, 1);
  EXPECT_EQ(client.write(4096, data), 0u);
  EXPECT_EQ(client.read(4096, 300'000), data);
  client.command({0, kCmdDisc, 1, 0, 0});
  EXPECT_TRUE(client.at_secure_end());
}

}  // namespace foreshadow::nbd
