#pragma once
// Stream and Listener on sockets.
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/stream.h"
#include "io/unique_fd.h"
#include "io/uring_loop.h"

namespace foreshadow::io {

// Owns a connected socket, which is blocking: the ring does the waiting.
class SocketStream final : public Stream, private Endpoint {
 public:
  // `local`: of a unix socket, which knows what the peer has read.
  SocketStream(UringLoop& loop, UniqueFd fd, bool local) : loop_(loop), fd_(std::move(fd)), local_(local) {}
  ~SocketStream() override;

  void receive(Op& op, std::span<std::byte> into) override;
  void receive_all(Op& op, std::span<std::byte> into) override;
  void send(Op& op, std::span<iovec> parts) override;
  void shut_down() override;
  bool has_unread() const override;

 private:
  void completed(Op& op, int result) override;
  void skip_sent(size_t bytes);
  void submit_receive(Op& op, std::span<std::byte> into, int flags);
  void submit_send(Op& op);

  UringLoop& loop_;
  UniqueFd fd_;
  const bool local_;
  std::span<iovec> unsent_;  // of the send in flight; the first part is never empty
  msghdr message_{};         // what the kernel reads of it
};

// Owns a listening socket and, for a unix socket, its name in the file system.
class SocketListener final : public Listener, private Endpoint {
 public:
  // `unix_path` is empty for TCP.
  SocketListener(UringLoop& loop, UniqueFd fd, std::string address, std::string unix_path);
  ~SocketListener() override;
  // Starts listening on the bound socket: once, first.
  Status listen();

  void accept(Op& op) override;
  std::unique_ptr<Stream> take() override;
  void stop() override;
  std::string address() const override { return address_; }

 private:
  void completed(Op& op, int result) override;
  void submit_accept(Op& op);

  UringLoop& loop_;
  UniqueFd fd_;
  const std::string address_;
  const std::string unix_path_;
  UniqueFd accepted_;        // waits for take()
  Op* accepting_ = nullptr;  // the accept in flight
  bool stopped_ = false;
};

}  // namespace foreshadow::io
