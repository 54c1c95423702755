#pragma once
// TLS on a stream, server side. The library behind it is seen by tls.cc only.
#include <memory>
#include <string>

#include "base/error.h"
#include "io/executor.h"
#include "io/stream.h"
#include "nbd/authorization.h"

namespace foreshadow::nbd {

// The contents of an administrator's files: PEM, and the text of psk.h. Certificates are on when
// `certificate`, `key` and `authorities` are given (all or none), keys when `psk` is; one of them must be.
struct TlsMaterial {
  std::string certificate;  // the server's, with the chain above it
  std::string key;          // of the certificate
  std::string authorities;  // who may have signed a client's certificate
  std::string psk;
};

// One connection under TLS. A Stream as any other once the handshake is done; before it, only handshake() and
// shut_down() may be called. It makes no call that blocks: what TLS has to say waits for the inner stream.
//
// Ends: a peer that closes in order is a receive of 0; one that vanishes without saying so, or whose bytes do
// not verify, is an error. A renegotiation is refused: the connection ends.
class TlsStream : public io::Stream {
 public:
  // Completes with 0, or with a negative errno when no secure connection came about; then why() says what was
  // wrong, for the log, and the peer has been sent an alert.
  virtual void handshake(io::Op& op) = 0;
  virtual const Identity& identity() const = 0;  // after the handshake
  virtual const std::string& why() const = 0;
};

// What all connections share: the server's certificate, the authorities, the keys. TLS 1.3 or 1.2, forward
// secrecy always; a client has to prove who it is, by a certificate of an authority or by a key. Lives on its
// connections' executor and outlives them.
class TlsServer {
 public:
  // kInvalidArgument: what is wrong with which of the four; a key is never quoted.
  static Result<std::shared_ptr<TlsServer>> create(const TlsMaterial& material);
  virtual ~TlsServer() = default;
  // Takes over `inner`, on which nothing may be in flight.
  virtual std::unique_ptr<TlsStream> accept(io::Executor& executor, std::unique_ptr<io::Stream> inner) = 0;
};

// What the clients of one listener have to show.
struct Security {
  std::shared_ptr<TlsServer> tls;                      // nullptr: plain text, no questions
  std::shared_ptr<const Authorization> authorization;  // with TLS; nullptr: any client, any export
};

}  // namespace foreshadow::nbd
