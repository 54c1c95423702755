// Accepting, with a listener that the test plays: what cannot be taken, and what comes too late.
#include <gtest/gtest.h>

#include <cerrno>

#include "nbd/server.h"
#include "nbd/test_manual.h"

namespace foreshadow::nbd {
namespace {

// Completes an accept when the test says so.
class ManualListener final : public io::Listener {
 public:
  struct State {
    ManualListener* listener = nullptr;
    bool stopped = false;
  };
  ManualListener(ManualExecutor& executor, State& state) : executor_(executor), state_(state) {
    state_.listener = this;
  }
  ~ManualListener() override { EXPECT_EQ(accepting_, nullptr); }
  void accept(io::Op& op) override {
    ASSERT_EQ(accepting_, nullptr);
    accepting_ = &op;
  }
  std::unique_ptr<io::Stream> take() override { return std::make_unique<ManualStream>(executor_, peer_); }
  void stop() override { state_.stopped = true; }
  std::string address() const override { return "manual"; }

  bool accepting() const { return accepting_ != nullptr; }
  void complete(int result) {
    ASSERT_NE(accepting_, nullptr);
    io::Op* op = std::exchange(accepting_, nullptr);
    op->done(op, result);
    executor_.run();
  }
  ManualStream::Peer& peer() { return peer_; }

 private:
  ManualExecutor& executor_;
  State& state_;
  io::Op* accepting_ = nullptr;
  ManualStream::Peer peer_;
};

class NbdAccept : public ::testing::Test {
 protected:
  NbdAccept() : server_(executor_) {
    server_.add_listener(std::make_unique<ManualListener>(executor_, state_));
  }
  ManualListener& listener() { return *state_.listener; }
  void stop() {
    server_.stop([this] { stopped_ = true; });
    executor_.run();
  }

  ManualExecutor executor_;
  ManualListener::State state_;
  Server server_;
  bool stopped_ = false;
};

TEST_F(NbdAccept, AFailureIsRetriedSoonAndNotAtOnce) {
  listener().complete(-EMFILE);
  EXPECT_FALSE(listener().accepting()) << "no loop around a failure that lasts";
  executor_.advance(std::chrono::seconds(1));
  ASSERT_TRUE(listener().accepting());
  listener().complete(0);
  EXPECT_EQ(server_.session_count(), 1u);
  EXPECT_EQ(listener().peer().got.size(), kGreetingBytes);
  stop();
  listener().complete(-ECANCELED);
  EXPECT_TRUE(stopped_);
}

TEST_F(NbdAccept, AStopDoesNotWaitForARetry) {
  listener().complete(-EMFILE);
  stop();
  EXPECT_TRUE(stopped_);
  EXPECT_EQ(executor_.armed(), 0u);
}

TEST_F(NbdAccept, AConnectionThatComesDuringTheStopIsClosedUnserved) {
  stop();
  EXPECT_FALSE(stopped_) << "an accept is still in flight";
  listener().complete(0);
  EXPECT_EQ(server_.session_count(), 0u);
  EXPECT_TRUE(listener().peer().got.empty());
  EXPECT_TRUE(stopped_);
}

}  // namespace
}  // namespace foreshadow::nbd
