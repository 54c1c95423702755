#include "io/socket.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/assert.h"

namespace foreshadow::io {
namespace {

constexpr int kUnixSendBuffer = 4 << 20;

// The most parts one sendmsg takes (UIO_MAXIOV of the kernel).
constexpr size_t kPartsPerSend = 1024;

}  // namespace

SocketStream::~SocketStream() {
  ASSERT(in_flight() == 0);
}

void SocketStream::receive(Op& op, std::span<std::byte> into) {
  submit_receive(op, into, 0);
}

void SocketStream::receive_all(Op& op, std::span<std::byte> into) {
  submit_receive(op, into, MSG_WAITALL);
}

void SocketStream::submit_receive(Op& op, std::span<std::byte> into, int flags) {
  ASSERT(!into.empty());  // its 0 could not be told from the peer's end
  io_uring_sqe& entry = loop_.next_entry();
  io_uring_prep_recv(&entry, fd_.get(), into.data(), into.size(), flags);
  loop_.start(entry, op, OpKind::kPlain, *this);
}

void SocketStream::send(Op& op, std::span<iovec> parts) {
  ASSERT(unsent_.empty());
  unsent_ = parts;
  skip_sent(0);
  if (unsent_.empty()) {
    loop_.finish_soon(op, 0);
  } else {
    submit_send(op);
  }
}

void SocketStream::shut_down() {
  // An error only says that the connection is gone already.
  ::shutdown(fd_.get(), SHUT_RDWR);
}

bool SocketStream::has_unread() const {
  int bytes = 0;
  return local_ && ::ioctl(fd_.get(), SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

// Moves past `bytes` bytes, and past parts that are empty.
void SocketStream::skip_sent(size_t bytes) {
  while (!unsent_.empty()) {
    iovec& part = unsent_.front();
    const size_t gone = std::min(bytes, part.iov_len);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + gone;
    part.iov_len -= gone;
    bytes -= gone;
    if (part.iov_len > 0) return;
    unsent_ = unsent_.subspan(1);
  }
  ASSERT(bytes == 0);
}

void SocketStream::submit_send(Op& op) {
  message_.msg_iov = unsent_.data();
  message_.msg_iovlen = std::min(unsent_.size(), kPartsPerSend);
  io_uring_sqe& entry = loop_.next_entry();
  // MSG_WAITALL makes the kernel carry on after a part was sent, so that one submission usually sends all.
  io_uring_prep_sendmsg(&entry, fd_.get(), &message_, MSG_WAITALL | MSG_NOSIGNAL);
  loop_.start(entry, op, OpKind::kSteps, *this);
}

// Of a send; a receive is finished by the loop.
void SocketStream::completed(Op& op, int result) {
  if (result == -EINTR || result == -EAGAIN) {
    submit_send(op);
    return;
  }
  if (result > 0) {
    skip_sent(static_cast<size_t>(result));
    if (!unsent_.empty()) {
      submit_send(op);
      return;
    }
  }
  unsent_ = {};
  // Nothing was sent of something: the kernel never does that on a stream that is alive.
  const int outcome = result > 0 ? 0 : result == 0 ? -EPIPE : result;
  op.done(&op, outcome);
}

SocketListener::SocketListener(UringLoop& loop, UniqueFd fd, std::string address, std::string unix_path)
    : loop_(loop), fd_(std::move(fd)), address_(std::move(address)), unix_path_(std::move(unix_path)) {}

SocketListener::~SocketListener() {
  ASSERT(in_flight() == 0);
  if (!stopped_ && !unix_path_.empty()) ::unlink(unix_path_.c_str());
}

Status SocketListener::listen() {
  if (::listen(fd_.get(), SOMAXCONN) == 0) return {};
  if (errno == EADDRINUSE) return fail(Code::kBusy, address_ + ": the port is in use");
  return fail_errno(errno, address_ + ": listening");
}

void SocketListener::accept(Op& op) {
  ASSERT(accepting_ == nullptr && !accepted_);
  if (stopped_) {
    loop_.finish_soon(op, -ECANCELED);
    return;
  }
  submit_accept(op);
}

void SocketListener::submit_accept(Op& op) {
  accepting_ = &op;
  io_uring_sqe& entry = loop_.next_entry();
  io_uring_prep_accept(&entry, fd_.get(), nullptr, nullptr, SOCK_CLOEXEC);
  loop_.start(entry, op, OpKind::kSteps, *this);
}

void SocketListener::completed(Op& op, int result) {
  accepting_ = nullptr;
  UniqueFd connection(result);  // an error is negative, and owns nothing
  if (stopped_) {
    op.done(&op, -ECANCELED);
    return;
  }
  // A peer that was gone before we took it is no reason to stop listening.
  if (result == -ECONNABORTED || result == -EINTR || result == -EAGAIN) {
    submit_accept(op);
    return;
  }
  if (result < 0) {
    op.done(&op, result);
    return;
  }
  if (unix_path_.empty()) {
    // Replies are sent whole; waiting for more to send with them only adds latency. Failing costs just that.
    const int on = 1;
    ::setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  } else {
    // A large reply goes out in one piece while it is in the processor's cache; by default a unix socket
    // takes 208 KiB at a time. More than the system's maximum needs a privilege: without it, as much as there
    // is.
    const int bytes = kUnixSendBuffer;
    if (::setsockopt(connection.get(), SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
      ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
  }
  accepted_ = std::move(connection);
  op.done(&op, 0);
}

std::unique_ptr<Stream> SocketListener::take() {
  ASSERT(static_cast<bool>(accepted_));
  return std::make_unique<SocketStream>(loop_, std::move(accepted_), !unix_path_.empty());
}

void SocketListener::stop() {
  if (stopped_) return;
  stopped_ = true;
  // The name goes while we still answer: later, a successor may have taken it for stale, and it would be its
  // own.
  if (!unix_path_.empty()) ::unlink(unix_path_.c_str());
  // Peers are refused from here on, instead of waiting in a queue that nobody serves.
  ::shutdown(fd_.get(), SHUT_RDWR);
  if (accepting_ != nullptr) loop_.cancel_started(*accepting_);
}

}  // namespace foreshadow::io
