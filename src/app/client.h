#pragma once
// The command line's side of the control API.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "base/error.h"
#include "foreshadow/v1/control.grpc.pb.h"

namespace foreshadow::app {

inline constexpr std::chrono::minutes kCallTime{5};

Error to_error(const grpc::Status& status);

// One connection to the control of a state directory. Every call blocks.
class Client {
 public:
  using Stub = v1::ControlService::Stub;
  // kUnavailable, with what to do, if nobody answers at the directory's control.sock.
  static Result<Client> connect(const std::string& state_dir);

  template <typename Request, typename Response>
  Result<Response> call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request, std::chrono::minutes longest = kCallTime) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + longest);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return tl::unexpected<Error>(to_error(status));
    return response;
  }
  Stub& stub() { return *stub_; }

 private:
  explicit Client(std::unique_ptr<Stub> stub) : stub_(std::move(stub)) {}
  std::unique_ptr<Stub> stub_;
};

std::string control_socket(const std::string& state_dir);
// Whether somebody listens at this unix socket.
bool answers(const std::string& socket);
// kInvalidArgument, naming it, if the path is too long for a unix socket.
Status check_socket_path(const std::string& path);

}  // namespace foreshadow::app
