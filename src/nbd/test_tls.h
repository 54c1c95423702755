#pragma once
// Test support: certificates made on the spot, and a blocking NBD client under TLS. Not part of the product.
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "nbd/test_client.h"

namespace foreshadow::nbd {

// A key and a certificate, in PEM. `issuer` nullptr: signs itself, and may sign others.
class TestCertificate {
 public:
  struct Wish {
    std::string common_name = {};
    std::vector<std::pair<gnutls_x509_subject_alt_name_t, std::string>> names = {};
    const char* purpose = nullptr;  // a GNUTLS_KP_...; nullptr: any
    time_t from = 1'500'000'000;    // valid from 2017
    time_t to = 4'000'000'000;      // until 2096
  };

  explicit TestCertificate(const Wish& wish, const TestCertificate* issuer = nullptr) {
    gnutls_x509_privkey_init(&key_);
    EXPECT_GE(gnutls_x509_privkey_generate(key_, GNUTLS_PK_ECDSA,
                                           GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
              0);
    gnutls_x509_crt_init(&certificate_);
    gnutls_x509_crt_set_version(certificate_, 3);
    gnutls_x509_crt_set_key(certificate_, key_);
    static unsigned char serial = 0;
    serial++;
    gnutls_x509_crt_set_serial(certificate_, &serial, 1);
    gnutls_x509_crt_set_activation_time(certificate_, wish.from);
    gnutls_x509_crt_set_expiration_time(certificate_, wish.to);
    if (!wish.common_name.empty()) {
      gnutls_x509_crt_set_dn_by_oid(certificate_, GNUTLS_OID_X520_COMMON_NAME, 0, wish.common_name.data(),
                                    static_cast<unsigned>(wish.common_name.size()));
    }
    for (const auto& [type, name] : wish.names) {
      gnutls_x509_crt_set_subject_alt_name(certificate_, type, name.data(),
                                           static_cast<unsigned>(name.size()), GNUTLS_FSAN_APPEND);
    }
    if (wish.purpose != nullptr) gnutls_x509_crt_set_key_purpose_oid(certificate_, wish.purpose, 0);
    gnutls_x509_crt_set_basic_constraints(certificate_, issuer == nullptr ? 1 : 0, -1);
    const TestCertificate& by = issuer == nullptr ? *this : *issuer;
    EXPECT_GE(gnutls_x509_crt_sign2(certificate_, by.certificate_, by.key_, GNUTLS_DIG_SHA256, 0), 0);
  }
  ~TestCertificate() {
    gnutls_x509_crt_deinit(certificate_);
    gnutls_x509_privkey_deinit(key_);
  }
  TestCertificate(const TestCertificate&) = delete;
  TestCertificate& operator=(const TestCertificate&) = delete;

  std::string pem() const {
    std::array<char, 8192> text;
    size_t bytes = text.size();
    EXPECT_GE(gnutls_x509_crt_export(certificate_, GNUTLS_X509_FMT_PEM, text.data(), &bytes), 0);
    return {text.data(), bytes};
  }
  std::string key_pem() const {
    std::array<char, 8192> text;
    size_t bytes = text.size();
    EXPECT_GE(gnutls_x509_privkey_export(key_, GNUTLS_X509_FMT_PEM, text.data(), &bytes), 0);
    return {text.data(), bytes};
  }

 private:
  gnutls_x509_crt_t certificate_ = nullptr;
  gnutls_x509_privkey_t key_ = nullptr;
};

// What a client shows and believes.
struct TlsWish {
  std::string authorities = {};                  // PEM; empty: believes any server
  const TestCertificate* certificate = nullptr;  // with its key
  std::string user = {};                         // with a pre-shared key
  std::string key = {};                          // in hexadecimal
  std::string priority = "NORMAL";
};

// A TestClient that can go under TLS.
class TlsTestClient : public TestClient {
 public:
  explicit TlsTestClient(const std::string& unix_path) : TestClient(unix_path) {}
  ~TlsTestClient() override { drop(); }

  // STARTTLS, then the handshake: 0, or the library's error.
  int start_tls(const TlsWish& wish) {
    EXPECT_EQ(option(kOptStartTls).back().type(), kRepAck);
    return shake(wish);
  }
  int shake(const TlsWish& wish) {
    gnutls_init(&session_, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    std::string priority = wish.priority;
    gnutls_certificate_allocate_credentials(&x509_);
    if (wish.user.empty()) {
      gnutls_datum_t trusted = datum(wish.authorities);
      if (!wish.authorities.empty())
        gnutls_certificate_set_x509_trust_mem(x509_, &trusted, GNUTLS_X509_FMT_PEM);
      if (wish.certificate != nullptr) {
        const std::string pem = wish.certificate->pem();
        const std::string key = wish.certificate->key_pem();
        gnutls_datum_t pem_datum = datum(pem);
        gnutls_datum_t key_datum = datum(key);
        gnutls_certificate_set_x509_key_mem(x509_, &pem_datum, &key_datum, GNUTLS_X509_FMT_PEM);
        gnutls_certificate_set_flags(x509_, GNUTLS_CERTIFICATE_SKIP_KEY_CERT_MATCH);
      }
      gnutls_credentials_set(session_, GNUTLS_CRD_CERTIFICATE, x509_);
      if (!wish.authorities.empty()) gnutls_session_set_verify_cert(session_, nullptr, 0);
    } else {
      priority += ":-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK";
      gnutls_psk_allocate_client_credentials(&psk_);
      gnutls_datum_t key = datum(wish.key);
      gnutls_psk_set_client_credentials(psk_, wish.user.c_str(), &key, GNUTLS_PSK_KEY_HEX);
      gnutls_credentials_set(session_, GNUTLS_CRD_PSK, psk_);
    }
    const char* wrong = nullptr;
    EXPECT_EQ(gnutls_priority_set_direct(session_, priority.c_str(), &wrong), 0) << wrong;
    gnutls_transport_set_int(session_, fd());
    gnutls_handshake_set_timeout(session_, 10'000);
    int result = 0;
    do {
      result = gnutls_handshake(session_);
    } while (result < 0 && gnutls_error_is_fatal(result) == 0);
    secure_ = result == 0;
    return result;
  }
  // Whether the server takes this client. Under TLS 1.3 a client is done before the server has judged it.
  bool accepted(const TlsWish& wish) {
    if (start_tls(wish) != 0) return false;
    send_option(kOptList);
    std::byte first;
    return raw_receive(&first, 1) == 1;
  }
  // The next thing that the server says is that it says no more: true if it does so by TLS's own means.
  bool at_secure_end() {
    std::byte more;
    return gnutls_record_recv(session_, &more, 1) == 0;
  }
  gnutls_session_t session() { return session_; }
  void stop_tls() { secure_ = false; }  // from here on plain bytes, as an attacker would put in

 protected:
  ssize_t raw_send(const void* from, size_t n) override {
    return secure_ ? gnutls_record_send(session_, from, n) : TestClient::raw_send(from, n);
  }
  ssize_t raw_receive(void* into, size_t n) override {
    if (!secure_) return TestClient::raw_receive(into, n);
    ssize_t got = 0;
    do {
      got = gnutls_record_recv(session_, into, n);
    } while (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED);
    if (got < 0) errno = ECONNRESET;
    return got;
  }

 private:
  static gnutls_datum_t datum(const std::string& text) {
    void* data = const_cast<char*>(text.data());
    return {static_cast<unsigned char*>(data), static_cast<unsigned>(text.size())};
  }
  void drop() {
    if (session_ != nullptr) gnutls_deinit(session_);
    if (x509_ != nullptr) gnutls_certificate_free_credentials(x509_);
    if (psk_ != nullptr) gnutls_psk_free_client_credentials(psk_);
  }

  gnutls_session_t session_ = nullptr;
  gnutls_certificate_credentials_t x509_ = nullptr;
  gnutls_psk_client_credentials_t psk_ = nullptr;
  bool secure_ = false;
};

}  // namespace foreshadow::nbd
