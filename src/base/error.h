#pragma once
// The one list of error codes and the one type that carries an error across a rank. Nothing throws across a
// rank; nothing from a peer or a disk is asserted on: it becomes a Result.
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace foreshadow {

enum class Code : uint8_t {
  kOk = 0,
  kInvalidArgument,     // the caller's value is malformed or out of range
  kNotFound,            // no such volume, segment, pool, export
  kAlreadyExists,       // the name is taken
  kFailedPrecondition,  // right request, wrong state
  kPermissionDenied,    // not allowed for this caller
  kReadOnly,            // the volume was poisoned by a failed flush or metadata write
  kNoSpace,             // past the wall, or a pool is full
  kLimit,               // a limit of base/limits.h was reached
  kIo,                  // the backing returned an error
  kCorrupt,             // a checksum, address, epoch or sequence does not fit
  kBusy,                // somebody else holds it; try again
  kUnavailable,         // the other side cannot be reached now
  kShutdown,            // this side is going away
  kUnsupported,         // not offered here
  kOverflow,            // the request is larger than what is allowed
  kTimeout,             // the deadline passed
  kInternal,            // a defect of ours
};

// One row per code: its name, and what it becomes on each wire.
struct CodeRow {
  Code code;
  std::string_view name;
  int nbd_errno;    // NBD protocol, "Error values" (Linux numbers)
  int grpc_status;  // grpc::StatusCode
  int http_status;
};
const CodeRow& row_of(Code code);
inline std::string_view name_of(Code code) {
  return row_of(code).name;
}

// The nearest code for a Linux errno (positive or negative).
Code code_from_errno(int err);
// The code whose gRPC status this is; kInternal if none.
Code code_from_grpc(int grpc_status);

struct Error {
  Code code = Code::kInternal;
  std::string message;  // names the value and what was expected
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> fail(Code code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}
// fail(code_from_errno(err), "<what>: <strerror>").
tl::unexpected<Error> fail_errno(int err, std::string_view what);

}  // namespace foreshadow

#define FORESHADOW_CONCAT_(a, b) a##b
#define FORESHADOW_CONCAT(a, b) FORESHADOW_CONCAT_(a, b)
// TRY(expr): leave the function with the error if `expr` (a Status or Result) holds one.
#define TRY(expr)                                                                      \
  do {                                                                                 \
    auto&& try_result = (expr);                                                        \
    if (!try_result) return ::tl::unexpected<::foreshadow::Error>(try_result.error()); \
  } while (false)
// ASSIGN_OR_RETURN(decl, expr): declare `decl` from the value of `expr`, or leave with its error.
#define ASSIGN_OR_RETURN(decl, expr) ASSIGN_OR_RETURN_(FORESHADOW_CONCAT(result_, __LINE__), decl, expr)
#define ASSIGN_OR_RETURN_(tmp, decl, expr)                             \
  auto tmp = (expr);                                                   \
  if (!tmp) return ::tl::unexpected<::foreshadow::Error>(tmp.error()); \
  decl = std::move(*tmp)
