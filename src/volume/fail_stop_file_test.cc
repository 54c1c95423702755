// What shares a flush, what waits for the next one, and who is told of a failure.
#include "volume/fail_stop_file.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <string>

namespace foreshadow::volume {
namespace {

// Notes each call and completes it when the test says so.
class ScriptedFile final : public io::File {
 public:
  struct Call {
    std::string what;
    io::Op* op;
  };
  explicit ScriptedFile(std::vector<Call>& calls) : calls_(calls) {}
  void read(io::Op& op, uint64_t, std::span<std::byte>) override { calls_.push_back({"read", &op}); }
  void write(io::Op& op, uint64_t, std::span<const std::byte>) override { calls_.push_back({"write", &op}); }
  void write_durable(io::Op& op, uint64_t, std::span<const std::byte>) override {
    calls_.push_back({"durable", &op});
  }
  void sync(io::Op& op) override { calls_.push_back({"sync", &op}); }
  uint64_t size() const override { return 1 << 20; }
  uint32_t alignment() const override { return 512; }
  Status resize(uint64_t) override { return {}; }

 private:
  std::vector<Call>& calls_;
};

struct Caller : io::Op {
  Caller() {
    done = [](io::Op* op, int given) { static_cast<Caller*>(op)->result = given; };
  }
  std::optional<int> result;
};

class FailStop : public ::testing::Test {
 protected:
  void write(Caller& caller) { file_.write_durable(caller, 0, block_); }
  void end(size_t call, int result = 0) { calls_.at(call).op->done(calls_.at(call).op, result); }
  std::string called() const {
    std::string out;
    for (const auto& call : calls_) out += (out.empty() ? "" : " ") + call.what;
    return out;
  }

  std::vector<ScriptedFile::Call> calls_;
  FailStopFile file_{std::make_unique<ScriptedFile>(calls_)};
  std::array<std::byte, 512> block_{};
  Caller a_, b_, c_, d_;
};

TEST_F(FailStop, OneDurableWriteIsOneCall) {
  write(a_);
  EXPECT_EQ(called(), "durable");
  EXPECT_FALSE(a_.result);
  end(0);
  EXPECT_EQ(a_.result, 0);
  write(b_);
  EXPECT_EQ(called(), "durable durable");
}

TEST_F(FailStop, ThoseBesideItShareTheNextFlush) {
  write(a_);
  write(b_);
  write(c_);
  EXPECT_EQ(called(), "durable write write");
  end(1);
  EXPECT_FALSE(b_.result) << "written, but in the cache";
  end(0);
  EXPECT_EQ(a_.result, 0);
  EXPECT_EQ(called(), "durable write write sync") << "for b alone: c is not written yet";
  end(2);
  end(3);
  EXPECT_EQ(b_.result, 0);
  EXPECT_FALSE(c_.result) << "the sync that ended was started before c was written";
  EXPECT_EQ(called(), "durable write write sync sync");
  end(4);
  EXPECT_EQ(c_.result, 0);
}

TEST_F(FailStop, AFlushWaitsUntilHalfAsManyAreWrittenAsAreBeingWritten) {
  std::array<Caller, 6> others;
  write(a_);
  for (Caller& other : others) write(other);
  end(0);
  end(1);
  EXPECT_EQ(called(), "durable write write write write write write") << "1 is written, 5 are not";
  write(b_);
  EXPECT_EQ(calls_.back().what, "write") << "nobody is alone beside those that wait";
  end(2);
  EXPECT_EQ(calls_.back().what, "write") << "2 are written, 5 are not";
  end(3);
  EXPECT_EQ(calls_.back().what, "sync");
  end(8);
  for (size_t i = 0; i < others.size(); ++i) EXPECT_EQ(others[i].result.has_value(), i < 3) << i;
}

TEST_F(FailStop, WhoAsksForASyncNeedNotWaitForOthersWrites) {
  write(a_);
  for (Caller* other : {&b_, &c_}) write(*other);
  end(0);
  file_.sync(d_);
  EXPECT_EQ(called(), "durable write write sync");
  end(3);
  EXPECT_EQ(d_.result, 0);
  EXPECT_FALSE(b_.result || c_.result);
}

TEST_F(FailStop, WritesThatFailKeepNobodyWaiting) {
  std::array<Caller, 3> others;
  write(a_);
  for (Caller& other : others) write(other);
  end(0);
  end(1, -EIO);
  end(2, -EIO);
  EXPECT_EQ(calls_.back().what, "write") << "none is written";
  end(3);
  end(4);
  EXPECT_EQ(others[2].result, 0);
}

TEST_F(FailStop, ASyncAndADurableWriteWaitForEachOther) {
  write(a_);
  file_.sync(b_);
  EXPECT_EQ(called(), "durable");
  end(0);
  EXPECT_EQ(called(), "durable sync");
  write(c_);
  end(2);
  file_.sync(d_);
  EXPECT_EQ(called(), "durable sync write");
  end(1);
  EXPECT_EQ(b_.result, 0);
  EXPECT_EQ(called(), "durable sync write sync") << "one for both";
  end(3);
  EXPECT_EQ(c_.result, 0);
  EXPECT_EQ(d_.result, 0);
}

TEST_F(FailStop, AFailedSyncFailsAllWhoSharedItAndAllLater) {
  write(a_);
  write(b_);
  write(c_);
  end(1);
  end(2);
  end(0);
  end(3, -EIO);
  EXPECT_EQ(a_.result, 0);
  EXPECT_EQ(b_.result, -EIO);
  EXPECT_EQ(c_.result, -EIO);
  file_.sync(d_);
  end(4);
  EXPECT_EQ(d_.result, -EIO) << "the kernel has forgotten the loss; this must not";
}

TEST_F(FailStop, AFailedDurableWriteFailsTheSyncBehindIt) {
  write(a_);
  file_.sync(b_);
  write(c_);
  end(1);
  end(0, -EIO);
  end(2);
  EXPECT_EQ(a_.result, -EIO);
  EXPECT_EQ(b_.result, -EIO) << "the durable write may have taken the error that was for it";
  EXPECT_EQ(c_.result, -EIO);
}

TEST_F(FailStop, APlainWriteThatFailsIsItsCallersAlone) {
  write(a_);
  write(b_);
  end(1, -EIO);
  EXPECT_EQ(b_.result, -EIO);
  end(0);
  EXPECT_EQ(a_.result, 0);
  EXPECT_EQ(called(), "durable write") << "nobody waits for a flush";
  file_.sync(c_);
  end(2);
  EXPECT_EQ(c_.result, 0);
}

}  // namespace
}  // namespace foreshadow::volume
