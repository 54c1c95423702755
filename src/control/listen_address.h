#pragma once
// Where control listens: unix sockets and loopback TCP, nothing a stranger could reach.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace foreshadow::control {

struct ListenAddress {
  std::string unix_path;     // empty for TCP
  std::string host;          // numeric
  uint16_t port = 0;         // 0: the kernel picks one
  std::string grpc() const;  // as gRPC wants it
};

// "unix:/path", "127.0.0.1:port" (any of 127.0.0.0/8), "[::1]:port" or "localhost:port". kInvalidArgument
// names anything else.
Result<ListenAddress> parse_listen_address(std::string_view text);

// Makes way for a new socket: removes a stale socket file. kBusy if somebody answers there, kAlreadyExists if
// the path is something other than a socket. gRPC itself would take either away without asking.
Status clear_unix_path(const std::string& path);

}  // namespace foreshadow::control
