#include "control/state_lock.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "base/names.h"

namespace foreshadow::control {

Result<StateLock> StateLock::take(const std::string& directory) {
  if (directory.empty()) return fail(Code::kInvalidArgument, "state directory \"\": a path was expected");
  const std::filesystem::path path(directory);
  std::error_code ec;
  // Only a directory that we make gets our mode; one that exists is the administrator's affair.
  if (!std::filesystem::exists(path, ec)) {
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ec);
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
      return fail_errno(errno, fmt::format("state directory {}", foreshadow::quoted(directory)));
    }
  }
  ASSIGN_OR_RETURN(sqlite::Connection held, sqlite::Connection::open(directory + "/control.lock"));
  const Status locked = held.run_script("BEGIN EXCLUSIVE");
  if (locked) return StateLock(std::move(held));
  if (locked.error().code != Code::kBusy) return tl::unexpected<Error>(locked.error());
  return fail(Code::kBusy, fmt::format("state directory {} is in use by another control plane",
                                       foreshadow::quoted(directory)));
}

}  // namespace foreshadow::control
