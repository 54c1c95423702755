#pragma once
#include <string>

namespace foreshadow::agent {

// Whether two paths lead to one directory, file or block device, by whatever names and mounts. Blocks.
bool is_same_file(const std::string& one, const std::string& other);

}  // namespace foreshadow::agent
