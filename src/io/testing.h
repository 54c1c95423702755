#pragma once
// What tests of files and sockets share. Only for *_test.cc.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "io/loop.h"

namespace foreshadow::io {

// An empty directory below `parent`, gone at the end of the test with all that is in it.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& parent) : path_(parent + "/foreshadow-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "no scratch directory in " << parent;
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string at(const std::string& name) const { return path_ + "/" + name; }

  // A place on a disk (the build directory, where ctest runs tests), and one in memory.
  static std::string disk() {
    const char* wanted = ::getenv("TMPDIR");
    return wanted != nullptr ? wanted : std::filesystem::current_path().string();
  }
  static std::string memory() { return "/dev/shm"; }

 private:
  std::string path_;
};

// An op that stops the loop when it is done, and remembers what came of it.
struct WaitOp : Op {
  explicit WaitOp(Loop& l) : loop(l) {
    done = [](Op* op, int given) {
      auto* self = static_cast<WaitOp*>(op);
      ++self->calls;
      self->outcome = given;
      self->loop.stop();
    };
  }
  Loop& loop;
  int calls = 0;
  int outcome = 0;
};

// Starts something with an op and runs the loop until it is done.
inline int wait_for(Loop& loop, const std::function<void(Op&)>& start) {
  WaitOp op(loop);
  start(op);
  EXPECT_EQ(op.calls, 0) << "completed from inside the call";
  loop.run();
  EXPECT_EQ(op.calls, 1);
  return op.outcome;
}

inline std::unique_ptr<Loop> make_test_loop() {
  auto loop = Loop::create();
  EXPECT_TRUE(loop) << loop.error().message;
  return std::move(*loop);
}

}  // namespace foreshadow::io
