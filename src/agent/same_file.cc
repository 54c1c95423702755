#include "agent/same_file.h"

#include <sys/stat.h>

namespace foreshadow::agent {

bool is_same_file(const std::string& one, const std::string& other) {
  if (one == other) return true;
  struct stat a {};
  struct stat b {};
  if (::stat(one.c_str(), &a) != 0 || ::stat(other.c_str(), &b) != 0) return false;
  if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace foreshadow::agent
