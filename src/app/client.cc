#include "app/client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "app/output.h"
#include "base/limits.h"

namespace foreshadow::app {

std::string control_socket(const std::string& state_dir) {
  return state_dir + "/control.sock";
}

Status check_socket_path(const std::string& path) {
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() <= kLongest) return {};
  return fail(
      Code::kInvalidArgument,
      fmt::format(
          "socket {}: its path has {} bytes, a unix socket's has at most {}; choose a shorter --state", path,
          path.size(), kLongest));
}

bool answers(const std::string& socket) {
  if (!check_socket_path(socket)) return false;
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket.c_str(), socket.size() + 1);
  const void* plain = &address;
  const bool connected = ::connect(fd, static_cast<const sockaddr*>(plain), sizeof address) == 0;
  ::close(fd);
  return connected;
}

Error to_error(const grpc::Status& status) {
  return Error{code_from_grpc(static_cast<int>(status.error_code())), printable(status.error_message())};
}

Result<Client> Client::connect(const std::string& state_dir) {
  const std::string socket = control_socket(state_dir);
  TRY(check_socket_path(socket));
  if (!answers(socket)) {
    return fail(Code::kUnavailable,
                fmt::format("no server at {}; start one with `foreshadow up --state {}`", socket, state_dir));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(limits::kRpcMessageBytes));
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  return Client(v1::ControlService::NewStub(channel));
}

}  // namespace foreshadow::app
