#pragma once
// The mark of a pool: a file in its directory with an id that the agent's notes have as well. A directory
// without it is not the pool but, say, the empty place where its file system is not mounted yet.
//
// Crash points. The mark is durable before the notes have its id: a crash between leaves a mark that nobody
// noted, which the next attempt takes as it is. The notes forget a pool before its mark goes: a crash between
// leaves the same. A mark half made is a file of another name, which replaces nothing.
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

}  // namespace foreshadow::agent
