#pragma once
// Where segments come from.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/names.h"
#include "io/file.h"

namespace foreshadow::block {

struct PoolUsage {
  uint64_t capacity = 0;  // bytes this pool may hand out in total
  uint64_t used = 0;      // bytes handed out
};

// A store of named, fixed-size, space-reserved backings. Every call may block: use Executor::offload once
// serving. Creating past the capacity fails with kNoSpace and changes nothing: a pool never promises what it
// does not have.
class Pool {
 public:
  virtual ~Pool() = default;
  virtual const Name& name() const = 0;
  virtual Result<std::unique_ptr<io::File>> create(const std::string& backing, uint64_t size) = 0;
  virtual Result<std::unique_ptr<io::File>> open(const std::string& backing, io::Directory::Mode mode) = 0;
  virtual Status remove(const std::string& backing) = 0;
  virtual Result<std::vector<std::string>> list() = 0;
  virtual Result<PoolUsage> usage() = 0;
  // For a backing that is about to grow to `size`, at once or in steps: until let_go() it counts as that
  // large, so that nobody else is promised what it lacks. kNoSpace changes nothing. One size a backing.
  virtual Status set_aside(const std::string& backing, uint64_t size) = 0;
  virtual void let_go(const std::string& backing) = 0;
};

}  // namespace foreshadow::block
