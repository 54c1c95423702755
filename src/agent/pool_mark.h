#pragma once
// The mark of a pool: a file in its directory with an id that the agent's notes have as well. A directory
// without it is not the pool but, say, the empty place where its file system is not mounted yet.
#include <optional>
#include <string>

#include "base/error.h"

namespace foreshadow::agent {

inline constexpr const char* kPoolMark = ".foreshadow-pool";

// All of these block. Nothing if there is no mark.
Result<std::optional<std::string>> read_pool_mark(const std::string& directory);
// Durable when it returns. kAlreadyExists if there is one.
Status write_pool_mark(const std::string& directory, const std::string& id);
// Succeeds if there is none.
Status remove_pool_mark(const std::string& directory);

// Whether two paths lead to one directory, file or device, by whatever names and mounts.
bool is_same_file(const std::string& one, const std::string& other);

}  // namespace foreshadow::agent
