#include "base/error.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace foreshadow {
namespace {

constexpr int kNbdEperm = 1, kNbdEio = 5, kNbdEnomem = 12, kNbdEinval = 22, kNbdEnospc = 28,
              kNbdEoverflow = 75, kNbdEnotsup = 95, kNbdEshutdown = 108;

constexpr std::array<CodeRow, 18> kRows = {{
    {Code::kOk, "OK", 0, 0, 200},
    {Code::kInvalidArgument, "INVALID_ARGUMENT", kNbdEinval, 3, 400},
    {Code::kNotFound, "NOT_FOUND", kNbdEinval, 5, 404},
    {Code::kAlreadyExists, "ALREADY_EXISTS", kNbdEinval, 6, 409},
    {Code::kFailedPrecondition, "FAILED_PRECONDITION", kNbdEinval, 9, 412},
    {Code::kPermissionDenied, "PERMISSION_DENIED", kNbdEperm, 7, 403},
    {Code::kReadOnly, "READ_ONLY", kNbdEio, 9, 409},
    {Code::kNoSpace, "NO_SPACE", kNbdEnospc, 8, 507},
    {Code::kLimit, "LIMIT", kNbdEnomem, 8, 429},
    {Code::kIo, "IO", kNbdEio, 13, 500},
    {Code::kCorrupt, "CORRUPT", kNbdEio, 15, 500},
    {Code::kBusy, "BUSY", kNbdEio, 10, 409},
    {Code::kUnavailable, "UNAVAILABLE", kNbdEshutdown, 14, 503},
    {Code::kShutdown, "SHUTDOWN", kNbdEshutdown, 14, 503},
    {Code::kUnsupported, "UNSUPPORTED", kNbdEnotsup, 12, 501},
    {Code::kOverflow, "OVERFLOW", kNbdEoverflow, 11, 416},
    {Code::kTimeout, "TIMEOUT", kNbdEio, 4, 504},
    {Code::kInternal, "INTERNAL", kNbdEio, 13, 500},
}};

}  // namespace

const CodeRow& row_of(Code code) {
  const auto index = static_cast<size_t>(code);
  if (index >= kRows.size() || kRows[index].code != code) std::abort();
  return kRows[index];
}

Code code_from_errno(int err) {
  switch (err < 0 ? -err : err) {
    case 0:
      return Code::kOk;
    case EINVAL:
      return Code::kInvalidArgument;
    case ENOENT:
      return Code::kNotFound;
    case EEXIST:
      return Code::kAlreadyExists;
    case EPERM:
    case EACCES:
      return Code::kPermissionDenied;
    case EROFS:
      return Code::kReadOnly;
    case ENOSPC:
    case EDQUOT:
      return Code::kNoSpace;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return Code::kLimit;
    case EAGAIN:
    case EBUSY:
      return Code::kBusy;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
      return Code::kUnavailable;
    case ECANCELED:
    case ESHUTDOWN:
      return Code::kShutdown;
    case EOPNOTSUPP:
    case ENOSYS:
      return Code::kUnsupported;
    case EOVERFLOW:
      return Code::kOverflow;
    case ETIMEDOUT:
      return Code::kTimeout;
    default:
      return Code::kIo;
  }
}

Code code_from_grpc(int grpc_status) {
  for (const CodeRow& row : kRows) {
    if (row.grpc_status == grpc_status) return row.code;
  }
  return Code::kInternal;
}

tl::unexpected<Error> fail_errno(int err, std::string_view what) {
  const int positive = err < 0 ? -err : err;
  return fail(code_from_errno(positive), fmt::format("{}: {}", what, std::strerror(positive)));
}

}  // namespace foreshadow
