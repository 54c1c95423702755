#pragma once
// Sockets: byte streams and the listeners that make them.
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "io/op.h"

namespace foreshadow::io {

class Loop;

// One connected stream socket. At most one receive and one send in flight at a time.
class Stream {
 public:
  virtual ~Stream() = default;  // closes; no call may be in flight (shut_down() first, then wait for them)
  // Completes with the bytes received (1..into.size()), 0 at the peer's end, or a negative errno.
  virtual void receive(Op& op, std::span<std::byte> into) = 0;
  // The same, but with fewer bytes than into.size() only where the stream ends or fails behind them.
  virtual void receive_all(Op& op, std::span<std::byte> into) = 0;
  // Completes with 0 when all is sent, or a negative errno. `parts` and what it points to stay valid until
  // then and may be modified.
  virtual void send(Op& op, std::span<iovec> parts) = 0;
  // Tells the peer that nothing more will be sent, where the stream has a way to say so which nobody else can
  // forge; completes as a send does, of which none may be in flight. false: it has none, and `op` is left
  // alone.
  virtual bool say_end(Op&) { return false; }
  // Makes calls in flight complete soon, and the peer see the end.
  virtual void shut_down() = 0;
  // Whether the peer has not read all that was sent; false where that cannot be known.
  virtual bool has_unread() const { return false; }
};

class Listener {
 public:
  virtual ~Listener() = default;  // no accept may be in flight
  // Completes with 0 when take() will give a connection, or a negative errno (-ECANCELED after stop()).
  virtual void accept(Op& op) = 0;
  virtual std::unique_ptr<Stream> take() = 0;
  virtual void stop() = 0;
  virtual std::string address() const = 0;  // "unix:/path" or "127.0.0.1:10809"
};

// A listening unix socket at `path`, mode 0600. A stale socket file is replaced; kBusy if somebody answers
// there.
Result<std::unique_ptr<Listener>> listen_unix(Loop& loop, const std::string& path);
enum class Reach { kLoopback, kAnywhere };
// A listening TCP socket on an address of this machine, as a number or localhost; with kLoopback only one
// that no other machine can reach (kInvalidArgument for any other). Port 0 picks one.
Result<std::unique_ptr<Listener>> listen_tcp(Loop& loop, const std::string& host, uint16_t port,
                                             Reach reach = Reach::kLoopback);

}  // namespace foreshadow::io
