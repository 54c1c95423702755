#include "control/listen_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/names.h"

namespace foreshadow::control {
namespace {

bool is_loopback(const std::string& host) {
  in_addr v4{};
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  return host == "::1";
}

}  // namespace

std::string ListenAddress::grpc() const {
  if (!unix_path.empty()) return "unix:" + unix_path;
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

Result<ListenAddress> parse_listen_address(std::string_view text) {
  ListenAddress out;
  constexpr std::string_view kUnix = "unix:";
  if (text.starts_with(kUnix)) {
    out.unix_path = text.substr(kUnix.size());
    // The path has to fit the kernel's structure, with its final zero.
    if (out.unix_path.empty() || out.unix_path.front() != '/' ||
        out.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return fail(Code::kInvalidArgument,
                  fmt::format("listen address {}: expected unix: and an absolute path of at most"
                              " {} bytes",
                              quoted(text), sizeof(sockaddr_un::sun_path) - 1));
    }
    return out;
  }
  const size_t colon = text.rfind(':');
  if (colon != std::string_view::npos) {
    out.host = text.substr(0, colon);
    if (out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']') {
      out.host = out.host.substr(1, out.host.size() - 2);
    }
    if (out.host == "localhost") out.host = "127.0.0.1";
    const std::string_view port = text.substr(colon + 1);
    const auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), out.port);
    if (ec == std::errc() && end == port.data() + port.size() && !port.empty() && is_loopback(out.host))
      return out;
  }
  return fail(Code::kInvalidArgument,
              fmt::format("listen address {}: expected unix:/path, or a loopback address and a port"
                          " (127.0.0.1:7070, [::1]:7070)",
                          quoted(text)));
}

Status clear_unix_path(const std::string& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(errno, fmt::format("socket {}", quoted(path)));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return fail(Code::kAlreadyExists,
                fmt::format("socket {}: the path is there and is no socket", quoted(path)));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail(Code::kInvalidArgument, fmt::format("socket {}: the path is too long", quoted(path)));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fail_errno(errno, "socket");
  // Through void*, as the socket interface predates const and inheritance; no bytes are read through the
  // other type.
  const void* generic = &address;
  const int connected = ::connect(fd, static_cast<const sockaddr*>(generic), sizeof(address));
  const int err = connected == 0 ? 0 : errno;
  ::close(fd);
  // A full backlog (EAGAIN) is a living listener too; only a refusal proves that nobody listens.
  if (err == ECONNREFUSED) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
      return fail_errno(errno, fmt::format("socket {}", quoted(path)));
    return {};
  }
  if (err == 0 || err == EAGAIN) {
    return fail(Code::kBusy, fmt::format("socket {}: somebody answers there already", quoted(path)));
  }
  return fail_errno(err, fmt::format("socket {}", quoted(path)));
}

}  // namespace foreshadow::control
