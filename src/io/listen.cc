// listen_unix and listen_tcp: from an address as people write it to a listening socket.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "base/names.h"
#include "io/loop.h"
#include "io/socket.h"

namespace foreshadow::io {
namespace {

// bind(), connect() and getsockname() take every kind of address through this one type.
template <typename Address>
sockaddr* generic(Address& address) {
  return static_cast<sockaddr*>(static_cast<void*>(&address));
}

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.find('\0') != std::string::npos) {
    return fail(Code::kInvalidArgument,
                fmt::format("unix socket path {}: expected a path in the file system", quoted(path)));
  }
  if (path.size() >= sizeof address.sun_path) {
    return fail(Code::kInvalidArgument,
                fmt::format("unix socket path {} has {} bytes: expected at most {}, the limit of the kernel",
                            path, path.size(), sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Removes the socket file that a listener which died left at `path`. Anything else that is there stays.
Status remove_stale(sockaddr_un& address, const std::string& path) {
  struct stat facts{};
  if (::lstat(path.c_str(), &facts) != 0) return fail_errno(errno, path + ": looking at what is there");
  if (!S_ISSOCK(facts.st_mode)) {
    return fail(Code::kAlreadyExists, path + ": is there already and is not a socket; it is not replaced");
  }
  // Without waiting: a listener whose queue is full is alive too.
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return fail_errno(errno, "making a unix socket");
  if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN) {
    return fail(Code::kBusy, path + ": somebody listens there already");
  }
  if (errno == ENOENT) return {};
  if (errno != ECONNREFUSED) return fail_errno(errno, path + ": asking whether somebody listens there");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(errno, path + ": removing a stale socket");
  return {};
}

struct TcpAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family() const { return storage.ss_family; }
};

Result<TcpAddress> tcp_address(const std::string& host, uint16_t port, Reach reach) {
  const bool any = reach == Reach::kAnywhere;
  TcpAddress out;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  const std::string numeric = host == "localhost" ? "127.0.0.1" : host;
  if (::inet_pton(AF_INET, numeric.c_str(), &v4.sin_addr) == 1 &&
      (any || (ntohl(v4.sin_addr.s_addr) >> 24) == 127)) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    out.length = sizeof v4;
    std::memcpy(&out.storage, &v4, sizeof v4);
    return out;
  }
  if (::inet_pton(AF_INET6, numeric.c_str(), &v6.sin6_addr) == 1 &&
      (any || IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr))) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    out.length = sizeof v6;
    std::memcpy(&out.storage, &v6, sizeof v6);
    return out;
  }
  return fail(Code::kInvalidArgument,
              fmt::format("TCP address {}: expected {}", quoted(host),
                          any ? "a numeric address or localhost"
                              : "a loopback address (127.0.0.0/8, ::1 or localhost)"));
}

// Where the socket is bound by now, with the port the kernel picked.
Result<std::string> bound_address(int fd) {
  TcpAddress bound;
  bound.length = sizeof bound.storage;
  if (::getsockname(fd, generic(bound.storage), &bound.length) != 0) {
    return fail_errno(errno, "asking for the address of a socket");
  }
  char text[INET6_ADDRSTRLEN] = {};
  if (bound.family() == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &bound.storage, sizeof v4);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return fmt::format("{}:{}", text, ntohs(v4.sin_port));
  }
  sockaddr_in6 v6{};
  std::memcpy(&v6, &bound.storage, sizeof v6);
  ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  return fmt::format("[{}]:{}", text, ntohs(v6.sin6_port));
}

}  // namespace

Result<std::unique_ptr<Listener>> listen_unix(Loop& loop, const std::string& path) {
  ASSIGN_OR_RETURN(sockaddr_un address, unix_address(path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "making a unix socket");
  // Linux gives the name the mode of the socket. Set before bind(), there is no moment at which others could
  // connect.
  if (::fchmod(fd.get(), 0600) != 0) return fail_errno(errno, path + ": setting the mode of the socket");
  int bound = ::bind(fd.get(), generic(address), sizeof address);
  if (bound != 0 && errno == EADDRINUSE) {
    TRY(remove_stale(address, path));
    bound = ::bind(fd.get(), generic(address), sizeof address);
  }
  if (bound != 0 && errno == EADDRINUSE)
    return fail(Code::kBusy, path + ": somebody else is listening there now");
  if (bound != 0) return fail_errno(errno, path + ": binding a unix socket");
  auto listener =
      std::make_unique<SocketListener>(static_cast<UringLoop&>(loop), std::move(fd), "unix:" + path, path);
  TRY(listener->listen());
  return listener;
}

Result<std::unique_ptr<Listener>> listen_tcp(Loop& loop, const std::string& host, uint16_t port,
                                             Reach reach) {
  ASSIGN_OR_RETURN(TcpAddress address, tcp_address(host, port, reach));
  UniqueFd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "making a TCP socket");
  // A server that restarts takes its port back while old connections linger in TIME_WAIT.
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
    return fail_errno(errno, "setting SO_REUSEADDR");
  }
  const std::string wanted = fmt::format("{}:{}", host, port);
  if (::bind(fd.get(), generic(address.storage), address.length) != 0) {
    if (errno == EADDRINUSE) return fail(Code::kBusy, wanted + ": the port is in use");
    return fail_errno(errno, wanted + ": binding a TCP socket");
  }
  ASSIGN_OR_RETURN(std::string bound, bound_address(fd.get()));
  auto listener =
      std::make_unique<SocketListener>(static_cast<UringLoop&>(loop), std::move(fd), std::move(bound), "");
  TRY(listener->listen());
  return listener;
}

}  // namespace foreshadow::io
