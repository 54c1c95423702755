#pragma once
// Errors on the gRPC wire.
#include <grpcpp/grpcpp.h>

#include "base/error.h"

namespace foreshadow::control {

inline grpc::Status to_grpc(const Error& error) {
  return {static_cast<grpc::StatusCode>(row_of(error.code).grpc_status), error.message};
}

}  // namespace foreshadow::control
