#include "control/listen_address.h"

#include <fmt/format.h>

#include <charconv>

#include "base/names.h"
#include "io/loop.h"
#include "io/stream.h"

namespace foreshadow::control {
namespace {

constexpr size_t kPathMax = 107;  // sockaddr_un, its final zero taken off

// 127.a.b.c in decimal, or ::1. Names other than localhost would have to be looked up, and could lead
// anywhere.
bool is_loopback(std::string_view host) {
  if (host == "::1") return true;
  constexpr std::string_view kNet = "127.";
  if (!host.starts_with(kNet)) return false;
  host.remove_prefix(kNet.size());
  for (int left = 3; left > 0; --left) {
    uint8_t part = 0;
    const auto [end, ec] = std::from_chars(host.data(), host.data() + host.size(), part);
    if (ec != std::errc()) return false;
    host.remove_prefix(static_cast<size_t>(end - host.data()));
    if (left > 1 && !host.starts_with('.')) return false;
    if (left > 1) host.remove_prefix(1);
  }
  return host.empty();
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
    if (out.unix_path.empty() || out.unix_path.front() != '/' || out.unix_path.size() > kPathMax) {
      return fail(Code::kInvalidArgument,
                  fmt::format("listen address {}: expected unix: and an absolute path of at most"
                              " {} bytes",
                              quoted(text), kPathMax));
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
  // Listening there for a moment takes away a stale socket and nothing else; the listener takes its own file
  // with it.
  ASSIGN_OR_RETURN(const auto loop, io::Loop::create());
  ASSIGN_OR_RETURN([[maybe_unused]] const auto probe, io::listen_unix(*loop, path));
  return {};
}

}  // namespace foreshadow::control
