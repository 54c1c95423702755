#pragma once
// For tests: a place for files.
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>

namespace foreshadow::control {

// A directory that is gone after the test.
class ScratchDirectory {
 public:
  ScratchDirectory(ScratchDirectory&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  ScratchDirectory& operator=(ScratchDirectory&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }
  ScratchDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "foreshadow-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~ScratchDirectory() {
    std::error_code ec;
    if (!path_.empty()) std::filesystem::remove_all(path_, ec);
  }
  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace foreshadow::control
