#pragma once
#include <map>

#include "block/pool.h"

namespace foreshadow::block {

// A pool in a directory: one file a backing, named `<backing>.seg`. Other files there are left alone.
// Thread-safe as far as its Directory is: two creates at once may both see room, so callers keep to one at a
// time (the executor's offload order).
class FilePool final : public Pool {
 public:
  // `capacity` in bytes; 0 means whatever the file system holds: its free space now plus what the pool uses
  // already.
  static Result<std::unique_ptr<Pool>> open(Name name, std::unique_ptr<io::Directory> directory,
                                            uint64_t capacity);

  const Name& name() const override { return name_; }
  Result<std::unique_ptr<io::File>> create(const std::string& backing, uint64_t size) override;
  Result<std::unique_ptr<io::File>> open(const std::string& backing, io::Directory::Mode mode) override;
  Status remove(const std::string& backing) override;
  Result<std::vector<std::string>> list() override;
  Result<PoolUsage> usage() override;
  Status set_aside(const std::string& backing, uint64_t size) override;
  void let_go(const std::string& backing) override { aside_.erase(backing); }

 private:
  FilePool(Name name, std::unique_ptr<io::Directory> directory, uint64_t capacity)
      : name_(std::move(name)), directory_(std::move(directory)), capacity_(capacity) {}
  Name name_;
  std::unique_ptr<io::Directory> directory_;
  Status check_room(uint64_t bytes, std::string_view what);

  uint64_t capacity_;
  std::map<std::string, uint64_t> aside_;  // what a backing is to be as large as
};

}  // namespace foreshadow::block
