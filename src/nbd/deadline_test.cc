// Deadlines of a session, on a clock that the test moves.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "nbd/ram_device.h"
#include "nbd/session.h"
#include "nbd/test_client.h"
#include "nbd/test_manual.h"
#include "nbd/test_tls_server.h"

namespace foreshadow::nbd {
namespace {

class NbdDeadline : public ::testing::Test, public ExportTable, public Session::Host {
 protected:
  explicit NbdDeadline(Security security = {}) : device_(executor_, 1 << 20), pool_(1 << 20) {
    session_ = std::make_unique<Session>(Session::Commons{executor_, pool_, allowance_}, *this, *this,
                                         std::make_unique<ManualStream>(executor_, peer_), security);
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
  void client_refused(const std::string& why) override { refused_.push_back(why); }
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
  Allowance allowance_{executor_, [] {}};
  std::vector<std::string> refused_;
  std::unique_ptr<Session> session_;
};

class NbdTlsDeadline : public NbdDeadline {
 protected:
  NbdTlsDeadline() : NbdDeadline(Security{*TlsServer::create(keys()), nullptr}) {}
  void start_tls() {
    greet();
    Bytes in;
    append_option(in, kOptStartTls, {});
    peer_.got.clear();
    peer_.stream->give(in);
    EXPECT_EQ(decode_option_reply(peer_.got)->type, kRepAck);
    peer_.got.clear();
  }
};

TEST_F(NbdTlsDeadline, AClientThatSaysNothingAfterStartTlsIsDropped) {
  start_tls();
  executor_.advance(limits::kNbdHandshakeTime - Nanos(1));
  EXPECT_FALSE(peer_.closed);
  executor_.advance(Nanos(1));
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

// One deadline for all that comes before the first command: each step in time is not enough.
TEST_F(NbdTlsDeadline, ATrickleOfTlsDoesNotExtendTheHandshake) {
  executor_.advance(std::chrono::seconds(4));
  start_tls();
  const Bytes record = {std::byte{22}, std::byte{3}, std::byte{1}, std::byte{1}, std::byte{0}};
  for (const std::byte b : record) {
    executor_.advance(std::chrono::seconds(1));
    peer_.stream->give(ByteView(&b, 1));
  }
  EXPECT_FALSE(peer_.closed);
  executor_.advance(std::chrono::seconds(1));
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdTlsDeadline, AFailedHandshakeSendsAnAlertAndEnds) {
  start_tls();
  peer_.stream->give(bytes_of("GET / HTTP/1.1"));
  EXPECT_GT(peer_.got.size(), 0u);
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
  ASSERT_EQ(refused_.size(), 1u);
  EXPECT_TRUE(refused_[0].starts_with("TLS: "));
}

// The alert of a handshake that failed is sent to a peer that does not read: the deadline ends that too.
TEST_F(NbdTlsDeadline, AnAlertThatNobodyReadsIsGivenUp) {
  start_tls();
  peer_.reading = false;
  peer_.stream->give(bytes_of("GET / HTTP/1.1"));
  EXPECT_FALSE(peer_.closed);
  executor_.advance(limits::kNbdHandshakeTime);
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdTlsDeadline, AnEndOfTheStreamInsideTheHandshakeEndsTheSession) {
  start_tls();
  peer_.stream->give({});
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdTlsDeadline, StartTlsDuringADrainIsToldOfTheShutdown) {
  greet();
  session_->drain();
  for (const uint32_t option : {kOptStartTls, kOptList}) {
    peer_.got.clear();
    Bytes in;
    append_option(in, option, {});
    peer_.stream->give(in);
    const auto reply = decode_option_reply(ByteView(peer_.got).first(kOptionReplyBytes));
    EXPECT_EQ(reply->type, option == kOptStartTls ? kRepErrShutdown : kRepErrTlsReqd);
  }
}

TEST_F(NbdTlsDeadline, ADrainEndsAHandshakeAtOnce) {
  start_tls();
  session_->drain();
  executor_.run();
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

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

TEST_F(NbdDeadline, AClientThatIsRefusedIsToldToTheHostOnce) {
  Bytes in;
  append_client_flags(in, 1u << 31);
  peer_.stream->give(in);
  EXPECT_EQ(refused_, (std::vector<std::string>{"unknown client flags 0x80000000"}));
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, AnAbortIsNoRefusal) {
  greet();
  Bytes in;
  append_option(in, kOptAbort, {});
  peer_.stream->give(in);
  EXPECT_EQ(session_, nullptr);
  EXPECT_TRUE(refused_.empty());
}

// Commands wait in the receive buffer while replies are not taken; their rest finds room all the same.
TEST_F(NbdDeadline, ABufferFullOfWaitingCommandsIsMovedToItsFront) {
  go();
  device_.hold = true;
  constexpr size_t kCount = 10'000;  // more than the buffer holds, and than may be in flight
  Bytes in(kCount * kCommandBytes);
  for (uint64_t i = 0; i < kCount; i++)
    encode(Command{0, kCmdTrim, i, 0, 4096}, std::span(in).subspan(i * kCommandBytes));
  ByteView rest = in;
  while (!rest.empty()) {
    if (!peer_.stream->receiving()) {
      device_.release();
      executor_.run();
      device_.hold = true;
      continue;
    }
    const size_t n = std::min(rest.size(), peer_.stream->room() - peer_.stream->room() % 7);
    peer_.stream->give(rest.first(n));
    rest = rest.subspan(n);
  }
  device_.release();
  executor_.run();
  EXPECT_EQ(peer_.got.size(), kCount * kSimpleReplyBytes);
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

TEST_F(NbdDeadline, OptionsDuringADrainAreToldOfTheShutdown) {
  greet();
  session_->drain();
  executor_.run();
  EXPECT_FALSE(peer_.closed);
  for (const uint32_t option : {kOptList, kOptStructuredReply, kOptGo, kOptStartTls, 99u}) {
    peer_.got.clear();
    Bytes in;
    append_option(in, option, option == kOptGo ? encode_info_request({"vol", {}}) : Bytes());
    peer_.stream->give(in);
    const auto reply = decode_option_reply(ByteView(peer_.got).first(kOptionReplyBytes));
    EXPECT_EQ(reply->type, kRepErrShutdown);
  }
  peer_.got.clear();
  Bytes in;
  append_option(in, kOptAbort, {});
  peer_.stream->give(in);
  EXPECT_EQ(decode_option_reply(peer_.got)->type, kRepAck);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, AClientThatAsksNothingDuringADrainIsClosedSoon) {
  greet();
  session_->drain();
  executor_.advance(limits::kNbdGoodbyeTime - Nanos(1));
  EXPECT_FALSE(peer_.closed);
  session_->drain();
  executor_.advance(Nanos(1));
  EXPECT_TRUE(peer_.closed);
  EXPECT_EQ(session_, nullptr);
}

TEST_F(NbdDeadline, ExportNameDuringADrainEndsTheConnection) {
  greet();
  session_->drain();
  peer_.got.clear();
  Bytes in;
  append_option(in, kOptExportName, bytes_of("vol"));
  peer_.stream->give(in);
  EXPECT_EQ(peer_.got.size(), 0u);
  EXPECT_EQ(session_, nullptr);
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
