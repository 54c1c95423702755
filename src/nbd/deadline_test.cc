// Deadlines of a session, on a clock that the test moves.
#include <gtest/gtest.h>

#include <cerrno>
#include <deque>
#include <vector>

#include "base/limits.h"
#include "nbd/ram_device.h"
#include "nbd/session.h"
#include "nbd/test_client.h"

namespace foreshadow::nbd {
namespace {

class ManualExecutor final : public io::Executor {
 public:
  MonoTime now() const override { return now_; }
  void post(io::Op& op) override { posted_.push_back(&op); }
  void defer(io::Op& op) override { deferred_.push_back(&op); }
  void arm(io::Timer& timer, MonoTime deadline) override {
    cancel(timer);
    timer.deadline = deadline;
    timer.sequence = ++sequence_;
    timers_.push_back(&timer);
  }
  void cancel(io::Timer& timer) override {
    std::erase(timers_, &timer);
    timer.sequence = 0;
  }
  void offload(std::function<void()> work, std::function<void()> done) override {
    work();
    done();
  }

  void run() {
    while (!posted_.empty() || !deferred_.empty()) {
      auto& queue = posted_.empty() ? deferred_ : posted_;
      io::Op* op = queue.front();
      queue.pop_front();
      op->done(op, 0);
    }
  }
  void advance(Nanos by) {
    now_ += by;
    for (io::Timer* timer : std::vector<io::Timer*>(timers_)) {
      if (timer->deadline > now_) continue;
      cancel(*timer);
      timer->op.done(&timer->op, 0);
    }
    run();
  }
  size_t armed() const { return timers_.size(); }

 private:
  MonoTime now_{};
  uint64_t sequence_ = 0;
  std::deque<io::Op*> posted_;
  std::deque<io::Op*> deferred_;
  std::vector<io::Timer*> timers_;
};

// The peer is the test: it gives bytes when it likes, and takes what is sent only while `reading`.
class ManualStream final : public io::Stream {
 public:
  struct Peer {
    ManualStream* stream = nullptr;
    Bytes got;
    bool reading = true;
    bool closed = false;
  };
  ManualStream(ManualExecutor& executor, Peer& peer) : executor_(executor), peer_(peer) {
    peer_.stream = this;
  }
  ~ManualStream() override {
    EXPECT_TRUE(receive_ == nullptr && send_ == nullptr);
    peer_.stream = nullptr;
  }
  void receive(io::Op& op, std::span<std::byte> into) override {
    ASSERT_EQ(receive_, nullptr);
    receive_ = &op;
    into_ = into;
  }
  void receive_all(io::Op& op, std::span<std::byte> into) override { receive(op, into); }
  void send(io::Op& op, std::span<iovec> parts) override {
    ASSERT_EQ(send_, nullptr);
    send_ = &op;
    for (const iovec& part : parts) {
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      peer_.got.insert(peer_.got.end(), from, from + part.iov_len);
    }
    if (peer_.reading) finish(send_, 0);
  }
  void shut_down() override {
    peer_.closed = true;
    if (receive_ != nullptr) finish(receive_, 0);
    if (send_ != nullptr) finish(send_, -EPIPE);
  }
  void give(ByteView bytes) {
    ASSERT_NE(receive_, nullptr);
    ASSERT_LE(bytes.size(), into_.size());
    std::copy(bytes.begin(), bytes.end(), into_.begin());
    finish(receive_, static_cast<int>(bytes.size()));
    executor_.run();
  }
  bool receiving() const { return receive_ != nullptr; }
  size_t room() const { return into_.size(); }  // of the receive in flight

 private:
  struct Completion : io::Op {
    ManualStream* stream;
    io::Op** which;
    int value;
  };
  void finish(io::Op*& which, int value) {
    Completion& c = &which == &receive_ ? receive_done_ : send_done_;
    const bool queued = c.stream != nullptr;
    c.stream = this;
    c.which = &which;
    c.value = value;
    c.done = [](io::Op* op, int) {
      auto* self = static_cast<Completion*>(op);
      self->stream = nullptr;
      io::Op* waiting = std::exchange(*self->which, nullptr);
      waiting->done(waiting, self->value);
    };
    if (!queued) executor_.post(c);
  }

  ManualExecutor& executor_;
  Peer& peer_;
  io::Op* receive_ = nullptr;
  io::Op* send_ = nullptr;
  std::span<std::byte> into_;
  Completion receive_done_{};
  Completion send_done_{};
};

class NbdDeadline : public ::testing::Test, public ExportTable, public Session::Host {
 protected:
  NbdDeadline() : device_(executor_, 1 << 20), pool_(1 << 20) {
    session_ = std::make_unique<Session>(executor_, pool_, *this, *this,
                                         std::make_unique<ManualStream>(executor_, peer_));
    session_->start();
    executor_.run();
  }
  ~NbdDeadline() override {
    if (session_ != nullptr) {
      peer_.reading = true;
      session_->drain();
      device_.release();
      executor_.run();
      executor_.advance(limits::kNbdHandshakeTime);
    }
    EXPECT_EQ(session_, nullptr);
    EXPECT_EQ(executor_.armed(), 0u);
  }
  block::BlockDevice* find(std::string_view name) override { return name == "vol" ? &device_ : nullptr; }
  std::vector<std::string> names() override { return {"vol"}; }
  void session_ended(Session& session) override {
    EXPECT_EQ(&session, session_.get());
    session_.reset();
  }
  void greet() {
    Bytes in;
    append_client_flags(in, kClientFixedNewstyle | kClientNoZeroes);
    peer_.stream->give(in);
  }
  void go() {
    greet();
    Bytes in;
    append_option(in, kOptGo, encode_info_request({"vol", {}}));
    peer_.stream->give(in);
    peer_.got.clear();
  }
  void give(const Command& command) {
    Bytes in(kCommandBytes);
    encode(command, in);
    peer_.stream->give(in);
  }

  ManualExecutor executor_;
  ManualStream::Peer peer_;
  RamDevice device_;
  io::BufferPool pool_;
  std::unique_ptr<Session> session_;
};

TEST_F(NbdDeadline, AClientThatSaysNothingIsDropped) {
  executor_.advance(limits::kNbdHandshakeTime - Nanos(1));
  EXPECT_FALSE(peer_.closed);
  executor_.advance(Nanos(1));
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, TalkingDoesNotExtendTheHandshake) {
  greet();
  Bytes in;
  append_option(in, kOptList, {});
  for (int i = 0; i < 9; i++) {
    executor_.advance(std::chrono::seconds(1));
    peer_.stream->give(in);
  }
  EXPECT_FALSE(peer_.closed);
  executor_.advance(std::chrono::seconds(1));
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, AServedClientMayBeIdleForever) {
  go();
  executor_.advance(std::chrono::hours(1000));
  EXPECT_FALSE(peer_.closed);
  give({0, kCmdFlush, 1, 0, 0});
  EXPECT_EQ(peer_.got.size(), kSimpleReplyBytes);
}

TEST_F(NbdDeadline, AClientThatNeverReadsItsLastRepliesIsDropped) {
  go();
  peer_.reading = false;
  give({0, kCmdRead, 1, 0, 4096});
  give({0, kCmdDisc, 2, 0, 0});
  EXPECT_FALSE(peer_.closed);
  executor_.advance(limits::kNbdHandshakeTime);
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, RepliesOfOneTurnLeaveInOneSend) {
  go();
  Bytes in(32 * kCommandBytes);
  for (uint64_t i = 0; i < 32; i++) {
    encode(Command{0, kCmdTrim, i, 0, 4096}, std::span(in).subspan(i * kCommandBytes));
  }
  device_.hold = true;
  peer_.stream->give(in);
  EXPECT_EQ(device_.waiting(), 32u) << "one receive is enough for all";
  peer_.reading = false;  // so that a second send would have to wait
  device_.release();
  executor_.run();
  EXPECT_EQ(peer_.got.size(), 32 * kSimpleReplyBytes);
}

// A large payload goes straight into its buffer; whatever else comes is received in large pieces.
TEST_F(NbdDeadline, PayloadsAreReceivedInAsFewPiecesAsThereCanBe) {
  constexpr uint32_t kLarge = 256 * kKiB;
  go();
  give({0, kCmdWrite, 1, 0, kLarge});
  EXPECT_EQ(peer_.stream->room(), kLarge);
  peer_.stream->give(Bytes(kLarge));
  EXPECT_EQ(peer_.stream->room(), kCommandBytes) << "the next payload is to be received by itself as well";
  give({0, kCmdWrite, 2, device_.info().size, kLarge});  // refused: past the end
  EXPECT_GE(peer_.stream->room(), 64 * kKiB);
  peer_.stream->give(Bytes(64 * kKiB));
  EXPECT_GE(peer_.stream->room(), 64 * kKiB);
  for (int i = 0; i < 3; ++i) peer_.stream->give(Bytes(64 * kKiB));
  give({0, kCmdWrite, 3, 0, kLarge});
  peer_.stream->give(Bytes(kLarge - 100));  // cut short: what is left is small
  EXPECT_GE(peer_.stream->room(), 64 * kKiB);
  peer_.stream->give(Bytes(100));
  EXPECT_EQ(peer_.got.size(), 3 * kSimpleReplyBytes);
  give({0, kCmdFlush, 4, 0, 0});
  EXPECT_GE(peer_.stream->room(), 64 * kKiB);
}

TEST_F(NbdDeadline, DrainAnswersNewCommandsWithShutdownAndOldOnesProperly) {
  go();
  device_.hold = true;
  give({0, kCmdTrim, 1, 0, 4096});
  session_->drain();
  executor_.run();
  EXPECT_FALSE(peer_.closed) << "a request is still at the device";
  give({0, kCmdTrim, 2, 0, 4096});
  device_.release();
  executor_.run();
  ASSERT_EQ(peer_.got.size(), 2 * kSimpleReplyBytes);
  EXPECT_EQ(*decode_simple_reply(ByteView(peer_.got).first(kSimpleReplyBytes)), (SimpleReply{kEshutdown, 2}));
  EXPECT_EQ(*decode_simple_reply(ByteView(peer_.got).last(kSimpleReplyBytes)), (SimpleReply{0, 1}));
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, ADrainWaitsForTheDeviceHoweverLongItTakes) {
  go();
  device_.hold = true;
  give({0, kCmdRead, 1, 0, 4096});
  session_->drain();
  executor_.advance(std::chrono::hours(1));
  EXPECT_TRUE(peer_.closed) << "the client was given its time";
  EXPECT_NE(session_, nullptr) << "the request's memory is still in use";
  device_.release();
  executor_.run();
  EXPECT_EQ(session_, nullptr);
}

}  // namespace
}  // namespace foreshadow::nbd
