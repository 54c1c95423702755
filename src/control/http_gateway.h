#pragma once
// The control API as JSON over HTTP, for programs without gRPC: POST /foreshadow.v1.ControlService/METHOD
// with the request as a JSON object answers with the response as one. Transcoded from the descriptors, so
// that a new method is there by itself.
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "control/listen_address.h"

namespace foreshadow::control {

// Errors are {"code": "NOT_FOUND", "message": ...} with the HTTP status that google.rpc.Code assigns. A
// method that streams is UNIMPLEMENTED here. Nobody proves who he is, as on control's other loopback
// addresses; so that no web page can call through its reader's browser, a request needs `Content-Type:
// application/json` and a `Host` that is a loopback address or localhost.
//
// One request a connection. kHttpConnections clients that trickle may keep others waiting, here and nowhere
// else.
//
// Thread-safe. Serves on threads of its own from start() until stop() or destruction.
class HttpGateway {
 public:
  // `channel` is control's own. kBusy if the address is taken.
  static Result<std::unique_ptr<HttpGateway>> start(const ListenAddress& address,
                                                    std::shared_ptr<grpc::Channel> channel);
  virtual ~HttpGateway() = default;
  // Closes every connection; returns once no call is in progress. May be repeated.
  virtual void stop() = 0;
  virtual const std::string& address() const = 0;  // "http://127.0.0.1:8080", the port filled in
};

}  // namespace foreshadow::control
