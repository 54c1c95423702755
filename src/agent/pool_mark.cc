#include "agent/pool_mark.h"

#include <filesystem>

#include "base/uuid.h"
#include "io/state_directory.h"

namespace foreshadow::agent {
namespace {

constexpr size_t kMarkBytes = 128;
constexpr const char* kLock = ".foreshadow-pool.lock";

std::string path_of(const std::string& directory) {
  return directory + "/" + kPoolMark;
}

}  // namespace

Result<std::optional<std::string>> read_pool_mark(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text,
                   io::read_small_file(path_of(directory), kMarkBytes));
  if (!text) return std::nullopt;
  const auto id = Uuid::parse(text->substr(0, text->find('\n')));
  if (!id) return fail(Code::kCorrupt, path_of(directory) + ": expected the id of a pool");
  return id->str();
}

Status write_pool_mark(const std::string& directory, const std::string& id) {
  {
    ASSIGN_OR_RETURN(const io::StateDirectory held, io::StateDirectory::open(directory, kLock));
    ASSIGN_OR_RETURN(const std::optional<std::string> there, read_pool_mark(directory));
    if (there) return fail(Code::kAlreadyExists, path_of(directory) + ": it is there already");
    TRY(held.replace(kPoolMark, id + "\n"));
  }
  std::error_code ignored;  // an empty file, in nobody's way
  std::filesystem::remove(directory + "/" + kLock, ignored);
  return {};
}

Status remove_pool_mark(const std::string& directory) {
  std::error_code error;
  std::filesystem::remove(path_of(directory), error);
  if (!error) return {};
  return fail_errno(error.value(), path_of(directory) + ": removing it");
}

}  // namespace foreshadow::agent
