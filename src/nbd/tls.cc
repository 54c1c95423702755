#include "nbd/tls.h"

#include <fmt/format.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "io/buffer.h"
#include "nbd/psk.h"

namespace foreshadow::nbd {
namespace {

constexpr size_t kRecordBytes = 16 * kKiB;    // the most that one TLS record carries
constexpr size_t kReceiveBytes = 128 * kKiB;  // ciphertext taken by one receive
constexpr size_t kGatherBytes = 256 * kKiB;   // ciphertext given to one send, about
constexpr size_t kNameBytes = 256;            // of a certificate; longer names are nobody's

gnutls_datum_t datum_of(const std::string& text) {
  // The library takes a pointer to non-const and only reads.
  void* data = const_cast<char*>(text.data());
  return {static_cast<unsigned char*>(data), static_cast<unsigned>(text.size())};
}

Error failure(const char* what, int result) {
  return Error{Code::kInvalidArgument, fmt::format("{}: {}", what, gnutls_strerror(result))};
}

// What a rule could name: one word of printable ASCII.
bool is_plain(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

void add_name(Identity& out, std::string_view kind, std::string_view name) {
  if (is_plain(name)) out.push_back(fmt::format("{}{}", kind, name));
}

// The names in a client's certificate, which was verified before.
Identity names_in(const gnutls_datum_t& der) {
  Identity out;
  gnutls_x509_crt_t certificate = nullptr;
  if (gnutls_x509_crt_init(&certificate) < 0) return out;
  if (gnutls_x509_crt_import(certificate, &der, GNUTLS_X509_FMT_DER) >= 0) {
    std::array<char, kNameBytes> text;
    size_t bytes = text.size();
    if (gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, text.data(), &bytes) >=
        0)
      add_name(out, "cn:", {text.data(), bytes});
    for (unsigned i = 0;; i++) {
      bytes = text.size();
      unsigned type = 0;
      const int got =
          gnutls_x509_crt_get_subject_alt_name2(certificate, i, text.data(), &bytes, &type, nullptr);
      if (got == GNUTLS_E_SHORT_MEMORY_BUFFER) continue;
      if (got < 0) break;
      const std::string_view name(text.data(), bytes);
      if (type == GNUTLS_SAN_DNSNAME) add_name(out, "dns:", name);
      if (type == GNUTLS_SAN_RFC822NAME) add_name(out, "email:", name);
      if (type == GNUTLS_SAN_URI) add_name(out, "uri:", name);
    }
  }
  gnutls_x509_crt_deinit(certificate);
  return out;
}

class GnuTlsServer;

class GnuTlsStream final : public TlsStream {
 public:
  GnuTlsStream(GnuTlsServer& server, io::Executor& executor, std::unique_ptr<io::Stream> inner);
  ~GnuTlsStream() override;

  void handshake(io::Op& op) override;
  const Identity& identity() const override { return identity_; }
  const std::string& why() const override { return why_; }
  void receive(io::Op& op, std::span<std::byte> into) override { begin_receive(op, into, false); }
  void receive_all(io::Op& op, std::span<std::byte> into) override { begin_receive(op, into, true); }
  void send(io::Op& op, std::span<iovec> parts) override;
  bool say_end(io::Op& op) override;
  void shut_down() override;

  GnuTlsServer& server() { return server_; }
  void note(std::string why) { why_ = std::move(why); }

 private:
  static ssize_t pull(gnutls_transport_ptr_t self, void* into, size_t bytes);
  static ssize_t push(gnutls_transport_ptr_t self, const void* from, size_t bytes);
  static int pull_timeout(gnutls_transport_ptr_t self, unsigned ms);

  void begin_receive(io::Op& op, std::span<std::byte> into, bool all);
  void on_read(int result);
  void shake();
  void take();
  void want_input();
  void on_received(int result);
  void finish_read(int result);
  void encrypt();
  int encrypt_some(const std::byte* from, size_t bytes);
  void flush();
  void on_sent(int result);
  void finish_write(int result);

  GnuTlsServer& server_;
  io::Executor& executor_;
  std::unique_ptr<io::Stream> inner_;
  gnutls_session_t session_ = nullptr;
  Identity identity_;
  std::string why_;
  bool shaking_ = false;  // handshake() is under way
  bool secure_ = false;   // and came to a good end
  bool failed_ = false;   // or to a bad one, of which the alert is on its way
  bool shut_ = false;

  // Reading: what the caller waits for, and ciphertext [head_, tail_) that TLS has not taken yet.
  io::Op* reader_ = nullptr;
  std::span<std::byte> into_;
  size_t got_ = 0;
  bool all_ = false;
  bool at_end_ = false;  // the inner stream ended
  io::Buffer input_{kReceiveBytes};
  size_t head_ = 0;
  size_t tail_ = 0;

  // Writing: what is left to encrypt, ciphertext that gathers, and the one that the inner stream sends.
  io::Op* writer_ = nullptr;
  std::span<iovec> parts_;
  std::array<std::byte, kRecordBytes> record_;
  Bytes gathered_;
  Bytes flying_;
  iovec part_{};
  bool sending_ = false;

  io::MemberOp<GnuTlsStream, &GnuTlsStream::on_read> read_op_{this};
  io::MemberOp<GnuTlsStream, &GnuTlsStream::on_received> receive_op_{this};
  io::MemberOp<GnuTlsStream, &GnuTlsStream::on_sent> send_op_{this};
};

class GnuTlsServer final : public TlsServer {
 public:
  ~GnuTlsServer() override {
    if (certificates_ != nullptr) gnutls_certificate_free_credentials(certificates_);
    if (psk_ != nullptr) gnutls_psk_free_server_credentials(psk_);
    if (priorities_ != nullptr) gnutls_priority_deinit(priorities_);
  }

  Status load(const TlsMaterial& material) {
    const bool x509 = !material.certificate.empty() || !material.key.empty() || !material.authorities.empty();
    if (x509) TRY(load_certificates(material));
    if (!material.psk.empty()) TRY(load_keys(material.psk));
    if (!x509 && material.psk.empty()) return fail(Code::kInvalidArgument, "neither a certificate nor keys");
    std::string wanted = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE";
    // No key exchange without forward secrecy, and none for which there is nothing to prove it with.
    wanted += x509 ? ":-RSA" : ":-KX-ALL";
    if (!material.psk.empty()) wanted += ":+ECDHE-PSK:+DHE-PSK";
    const int set = gnutls_priority_init(&priorities_, wanted.c_str(), nullptr);
    if (set < 0) return tl::unexpected(failure("the choice of TLS algorithms", set));
    return {};
  }

  std::unique_ptr<TlsStream> accept(io::Executor& executor, std::unique_ptr<io::Stream> inner) override {
    return std::make_unique<GnuTlsStream>(*this, executor, std::move(inner));
  }

  // Session tickets and resumption stay off: every connection proves anew who it is.
  void prepare(gnutls_session_t session) const {
    ASSERT(gnutls_priority_set(session, priorities_) >= 0);
    if (certificates_ != nullptr) {
      ASSERT(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificates_) >= 0);
      gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
    }
    if (psk_ != nullptr) ASSERT(gnutls_credentials_set(session, GNUTLS_CRD_PSK, psk_) >= 0);
  }

 private:
  Status load_certificates(const TlsMaterial& material) {
    if (material.certificate.empty() || material.key.empty() || material.authorities.empty()) {
      return fail(Code::kInvalidArgument,
                  "expected a certificate, its key and the authorities of clients, all three");
    }
    ASSERT(gnutls_certificate_allocate_credentials(&certificates_) >= 0);
    const gnutls_datum_t authorities = datum_of(material.authorities);
    const int trusted =
        gnutls_certificate_set_x509_trust_mem(certificates_, &authorities, GNUTLS_X509_FMT_PEM);
    if (trusted < 0) return tl::unexpected(failure("the authorities", trusted));
    if (trusted == 0) return fail(Code::kInvalidArgument, "the authorities: no certificate in there");
    const gnutls_datum_t certificate = datum_of(material.certificate);
    const gnutls_datum_t key = datum_of(material.key);
    const int set = gnutls_certificate_set_x509_key_mem2(certificates_, &certificate, &key,
                                                         GNUTLS_X509_FMT_PEM, nullptr, 0);
    if (set < 0) return tl::unexpected(failure("the certificate and its key", set));
    gnutls_certificate_set_known_dh_params(certificates_, GNUTLS_SEC_PARAM_HIGH);
    gnutls_certificate_set_verify_function(certificates_, verify);
    return {};
  }

  Status load_keys(const std::string& text) {
    auto keys = parse_psk(text);
    if (!keys) return fail(keys.error().code, "the pre-shared keys: " + keys.error().message);
    if (keys->empty()) return fail(Code::kInvalidArgument, "the pre-shared keys: no USER:HEX in there");
    keys_ = std::move(*keys);
    ASSERT(gnutls_psk_allocate_server_credentials(&psk_) >= 0);
    gnutls_psk_set_server_known_dh_params(psk_, GNUTLS_SEC_PARAM_HIGH);
    gnutls_psk_set_server_credentials_function2(psk_, find_key);
    return {};
  }

  // Of a client's certificate: signed by an authority, in its time, and for clients.
  static int verify(gnutls_session_t session) {
    char purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
    gnutls_typed_vdata_st wanted{};
    wanted.type = GNUTLS_DT_KEY_PURPOSE_OID;
    wanted.data = static_cast<unsigned char*>(static_cast<void*>(purpose));
    unsigned status = 0;
    const int checked = gnutls_certificate_verify_peers(session, &wanted, 1, &status);
    if (checked >= 0 && status == 0) return 0;
    auto* stream = static_cast<GnuTlsStream*>(gnutls_session_get_ptr(session));
    gnutls_datum_t text{};
    if (checked < 0) {
      stream->note(gnutls_strerror(checked));
    } else if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) >= 0) {
      const void* data = text.data;
      stream->note(static_cast<const char*>(data));
      gnutls_free(text.data);
    }
    return GNUTLS_E_CERTIFICATE_ERROR;
  }

  // 1 is for an unknown user: the library goes on with a random key, so that who exists is not to be learnt.
  static int find_key(gnutls_session_t session, const gnutls_datum_t* user, gnutls_datum_t* key) {
    const void* data = user->data;
    const std::string_view name(static_cast<const char*>(data), user->size);
    const GnuTlsServer& self = static_cast<GnuTlsStream*>(gnutls_session_get_ptr(session))->server();
    const auto found = self.keys_.find(name);
    if (found == self.keys_.end()) return 1;
    key->size = static_cast<unsigned>(found->second.size());
    key->data = static_cast<unsigned char*>(gnutls_malloc(key->size));
    if (key->data == nullptr) return -1;
    std::memcpy(key->data, found->second.data(), key->size);
    return 0;
  }

  gnutls_certificate_credentials_t certificates_ = nullptr;
  gnutls_psk_server_credentials_t psk_ = nullptr;
  gnutls_priority_t priorities_ = nullptr;
  PskKeys keys_;
};

GnuTlsStream::GnuTlsStream(GnuTlsServer& server, io::Executor& executor, std::unique_ptr<io::Stream> inner)
    : server_(server), executor_(executor), inner_(std::move(inner)) {
  ASSERT(gnutls_init(&session_, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) >= 0);
  server_.prepare(session_);
  gnutls_session_set_ptr(session_, this);
  gnutls_handshake_set_timeout(session_, GNUTLS_INDEFINITE_TIMEOUT);  // the caller has the deadline
  gnutls_transport_set_ptr(session_, this);
  gnutls_transport_set_pull_function(session_, pull);
  gnutls_transport_set_push_function(session_, push);
  gnutls_transport_set_pull_timeout_function(session_, pull_timeout);
}

GnuTlsStream::~GnuTlsStream() {
  ASSERT(reader_ == nullptr && writer_ == nullptr && !sending_);
  gnutls_deinit(session_);
}

// --- what the library calls
// ------------------------------------------------------------------------------------------------------

ssize_t GnuTlsStream::pull(gnutls_transport_ptr_t self, void* into, size_t bytes) {
  auto& stream = *static_cast<GnuTlsStream*>(self);
  const size_t n = std::min(bytes, stream.tail_ - stream.head_);
  if (n == 0 && !stream.at_end_) {
    gnutls_transport_set_errno(stream.session_, EAGAIN);
    return -1;
  }
  std::memcpy(into, stream.input_.data() + stream.head_, n);
  stream.head_ += n;
  return static_cast<ssize_t>(n);
}

ssize_t GnuTlsStream::push(gnutls_transport_ptr_t self, const void* from, size_t bytes) {
  auto& gathered = static_cast<GnuTlsStream*>(self)->gathered_;
  const auto* first = static_cast<const std::byte*>(from);
  gathered.insert(gathered.end(), first, first + bytes);
  return static_cast<ssize_t>(bytes);
}

int GnuTlsStream::pull_timeout(gnutls_transport_ptr_t self, unsigned) {
  const auto& stream = *static_cast<GnuTlsStream*>(self);
  return stream.head_ < stream.tail_ || stream.at_end_ ? 1 : 0;
}

// --- reading
// ------------------------------------------------------------------------------------------------------

void GnuTlsStream::handshake(io::Op& op) {
  ASSERT(reader_ == nullptr && !shaking_ && !secure_);
  reader_ = &op;
  shaking_ = true;
  executor_.post(read_op_);
}

void GnuTlsStream::begin_receive(io::Op& op, std::span<std::byte> into, bool all) {
  ASSERT(reader_ == nullptr && secure_ && !into.empty());
  reader_ = &op;
  into_ = into;
  got_ = 0;
  all_ = all;
  executor_.post(read_op_);
}

void GnuTlsStream::on_read(int) {
  if (shut_) return finish_read(-ECANCELED);
  shaking_ ? shake() : take();
}

// One step of the handshake, and on as far as what has arrived allows. What TLS has to say leaves before the
// peer is waited for, and also before the caller learns of a failure: it is the alert.
void GnuTlsStream::shake() {
  while (!secure_ && !failed_) {
    const int result = gnutls_handshake(session_);
    if (result == GNUTLS_E_SUCCESS) {
      secure_ = true;
      if (const char* user = gnutls_psk_server_get_username(session_)) add_name(identity_, "psk:", user);
      unsigned count = 0;
      const gnutls_datum_t* peers = gnutls_certificate_get_peers(session_, &count);
      if (identity_.empty() && peers != nullptr && count > 0) identity_ = names_in(peers[0]);
    } else if (result == GNUTLS_E_AGAIN) {
      if (gathered_.empty()) return want_input();
      break;
    } else if (gnutls_error_is_fatal(result) != 0) {
      failed_ = true;
      why_ = why_.empty() ? gnutls_strerror(result) : fmt::format("{}: {}", gnutls_strerror(result), why_);
      gnutls_alert_send_appropriate(session_, result);
    }
  }
  if (!gathered_.empty()) return flush();
  shaking_ = false;
  finish_read(secure_ ? 0 : -EPROTO);
}

// Decrypts into the caller's memory: all there is, or until it is full.
void GnuTlsStream::take() {
  while (got_ < into_.size()) {
    const ssize_t n = gnutls_record_recv(session_, into_.data() + got_, into_.size() - got_);
    if (n > 0) {
      got_ += static_cast<size_t>(n);
    } else if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) {
      // With input left it was a message of TLS itself that was taken.
      if (head_ < tail_) continue;
      if (got_ > 0 && !all_) break;
      return want_input();
    } else if (n == 0) {
      break;
    } else {
      // Also a renegotiation, which TLS 1.2 has and nobody here needs.
      return finish_read(n == GNUTLS_E_PREMATURE_TERMINATION ? -ECONNRESET : -EPROTO);
    }
  }
  finish_read(static_cast<int>(got_));
}

void GnuTlsStream::want_input() {
  if (shut_) return finish_read(-ECANCELED);
  std::memmove(input_.data(), input_.data() + head_, tail_ - head_);
  tail_ -= std::exchange(head_, 0);
  // The library wants more than the longest record, or than the peer had to say.
  if (at_end_ || tail_ == input_.size()) return finish_read(-ECONNRESET);
  inner_->receive(receive_op_, input_.span().subspan(tail_));
}

void GnuTlsStream::on_received(int result) {
  if (result < 0) return finish_read(result);
  if (result == 0) at_end_ = true;
  tail_ += static_cast<size_t>(result);
  on_read(0);
}

void GnuTlsStream::finish_read(int result) {
  io::Op* op = std::exchange(reader_, nullptr);
  into_ = {};
  op->done(op, result);
}

// --- writing
// ------------------------------------------------------------------------------------------------------

void GnuTlsStream::send(io::Op& op, std::span<iovec> parts) {
  ASSERT(writer_ == nullptr && secure_);
  writer_ = &op;
  parts_ = parts;
  encrypt();
}

// Encrypts the next parts, small ones together, and sends what came of them.
void GnuTlsStream::encrypt() {
  int result = 0;
  while (result >= 0 && !parts_.empty() && gathered_.size() < kGatherBytes) {
    size_t filled = 0;
    while (!parts_.empty() && filled < record_.size()) {
      iovec& part = parts_.front();
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      const size_t n = std::min(part.iov_len, record_.size() - filled);
      if (filled == 0 && n == record_.size()) {
        result = encrypt_some(from, n);
      } else {
        std::memcpy(record_.data() + filled, from, n);
        filled += n;
      }
      part.iov_base = static_cast<std::byte*>(part.iov_base) + n;
      part.iov_len -= n;
      if (part.iov_len == 0) parts_ = parts_.subspan(1);
      if (filled == 0 && n > 0) break;
    }
    if (filled > 0) result = encrypt_some(record_.data(), filled);
  }
  // A failure to encrypt leaves nothing to go on with; the caller hears of it through the stream's end.
  if (result < 0) shut_down();
  flush();
}

int GnuTlsStream::encrypt_some(const std::byte* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = gnutls_record_send(session_, from, bytes);
    if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) continue;
    if (n < 0) return static_cast<int>(n);
    from += n;
    bytes -= static_cast<size_t>(n);
  }
  return 0;
}

void GnuTlsStream::flush() {
  ASSERT(!sending_);
  sending_ = true;
  flying_.swap(gathered_);
  gathered_.clear();
  part_ = {flying_.data(), flying_.size()};
  inner_->send(send_op_, std::span(&part_, 1));
}

void GnuTlsStream::on_sent(int result) {
  sending_ = false;
  if (shaking_) return result < 0 || shut_ ? finish_read(result < 0 ? result : -ECANCELED) : shake();
  if (result >= 0 && shut_) result = -ECANCELED;
  if (result < 0 || parts_.empty()) return finish_write(result);
  encrypt();
}

void GnuTlsStream::finish_write(int result) {
  io::Op* op = std::exchange(writer_, nullptr);
  parts_ = {};
  op->done(op, result);
}

bool GnuTlsStream::say_end(io::Op& op) {
  if (!secure_ || shut_) return false;
  ASSERT(writer_ == nullptr);
  writer_ = &op;
  gnutls_bye(session_, GNUTLS_SHUT_WR);
  flush();
  return true;
}

void GnuTlsStream::shut_down() {
  shut_ = true;
  inner_->shut_down();
}

}  // namespace

Result<std::shared_ptr<TlsServer>> TlsServer::create(const TlsMaterial& material) {
  auto server = std::make_shared<GnuTlsServer>();
  TRY(server->load(material));
  return std::shared_ptr<TlsServer>(std::move(server));
}

}  // namespace foreshadow::nbd
