// What connections may hold, each alone and all together, and what becomes of those that hold it for nothing.
#include "nbd/allowance.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "nbd/ram_device.h"
#include "nbd/session.h"
#include "nbd/test_client.h"
#include "nbd/test_manual.h"
#include "nbd/test_server.h"

namespace foreshadow::nbd {
namespace {

constexpr uint64_t kShare = limits::kNbdShareBytes;

class NbdAllowance : public ::testing::Test {
 protected:
  explicit NbdAllowance(Allowance::Bounds bounds = {}) : all_(executor_, [this] { stalls_++; }, bounds) {}
  ~NbdAllowance() override {
    for (const auto& account : accounts_) {
      account->leave_queue();
      account->drop_bytes(account->bytes());
      while (account->requests() > 0) account->drop_request();
    }
    executor_.run();
    EXPECT_EQ(executor_.armed(), 0u);
  }
  Allowance::Account& account() {
    const size_t index = accounts_.size();
    accounts_.push_back(std::make_unique<Allowance::Account>(all_, [this, index] {
      called_.push_back(index);
      if (accounts_[index]->admit(wanted_)) accounts_[index]->add_bytes(wanted_);
    }));
    return *accounts_.back();
  }

  ManualExecutor executor_;
  int stalls_ = 0;
  Allowance all_;
  std::vector<std::unique_ptr<Allowance::Account>> accounts_;
  std::vector<size_t> called_;
  uint64_t wanted_ = 0;  // what an account that is called asks for
};

TEST_F(NbdAllowance, AConnectionHasItsLimitOfRequestsAndOfBytes) {
  Allowance::Account& one = account();
  for (uint32_t i = 0; i < limits::kNbdInFlightRequests; i++) {
    ASSERT_TRUE(one.admit(0));
    one.add_request();
  }
  EXPECT_FALSE(one.admit(0));
  EXPECT_FALSE(one.waits()) << "its own replies are what it waits for";
  one.drop_request();
  EXPECT_TRUE(one.admit(limits::kNbdInFlightBytes));
  EXPECT_FALSE(one.admit(limits::kNbdInFlightBytes + 1));
  EXPECT_FALSE(one.waits());
}

TEST_F(NbdAllowance, AllTogetherHoldAsManyBytesAsTheLimitAndNotOneMore) {
  // As much as each may have, until what is common is gone.
  const uint64_t each = limits::kNbdInFlightBytes;
  while (all_.bytes() + each - kShare <= limits::kNbdSharedBytes) {
    Allowance::Account& next = account();
    ASSERT_TRUE(next.admit(each));
    next.add_bytes(each);
  }
  const uint64_t left = limits::kNbdSharedBytes - all_.bytes();
  Allowance::Account& last = account();
  EXPECT_TRUE(last.admit(left + kShare));
  last.add_bytes(left + kShare);
  EXPECT_EQ(all_.bytes(), limits::kNbdSharedBytes);
  EXPECT_FALSE(last.admit(1));
  EXPECT_TRUE(last.waits());
}

TEST_F(NbdAllowance, AllTogetherHaveAsManyRequestsAsTheLimitAndNotOneMore) {
  while (all_.requests() < limits::kNbdSharedRequests) {
    Allowance::Account& next = account();
    while (all_.requests() < limits::kNbdSharedRequests && next.requests() < limits::kNbdInFlightRequests) {
      ASSERT_TRUE(next.admit(0));
      next.add_request();
    }
  }
  Allowance::Account& late = account();
  for (uint32_t i = 0; i < limits::kNbdShareRequests; i++) {
    EXPECT_TRUE(late.admit(4096)) << "its share is its own";
    late.add_request();
  }
  EXPECT_FALSE(late.admit(4096));
  EXPECT_TRUE(late.waits());
}

TEST_F(NbdAllowance, TheShareOfAConnectionIsThereWhateverOthersHold) {
  while (limits::kNbdSharedBytes - all_.bytes() >= limits::kNbdInFlightBytes - kShare) {
    account().add_bytes(limits::kNbdInFlightBytes);
  }
  account().add_bytes(limits::kNbdSharedBytes - all_.bytes() + kShare);
  Allowance::Account& waiting = account();
  EXPECT_FALSE(waiting.admit(kShare + 1));
  Allowance::Account& late = account();
  EXPECT_TRUE(late.admit(kShare));
  late.add_bytes(kShare);
  EXPECT_FALSE(late.admit(1));
}

class NbdAllowanceOfOne : public NbdAllowance {
 protected:
  NbdAllowanceOfOne() : NbdAllowance({limits::kNbdRequestBytes, 10}) {}
};

TEST_F(NbdAllowanceOfOne, WhoWaitsLongestIsNextAndNobodyOvertakes) {
  Allowance::Account& holder = account();
  holder.add_bytes(kShare + limits::kNbdRequestBytes);
  Allowance::Account& first = account();
  Allowance::Account& second = account();
  Allowance::Account& third = account();
  wanted_ = kShare + limits::kNbdRequestBytes / 2;
  EXPECT_FALSE(first.admit(wanted_));
  EXPECT_FALSE(second.admit(wanted_));
  EXPECT_FALSE(third.admit(wanted_));
  holder.drop_bytes(1);
  executor_.run();
  EXPECT_EQ(called_, (std::vector<size_t>{1})) << "too little for it; the others are not asked";
  holder.drop_bytes(limits::kNbdRequestBytes);
  EXPECT_FALSE(holder.admit(2 * kShare)) << "who comes now comes last";
  called_.clear();
  executor_.run();
  EXPECT_EQ(called_, (std::vector<size_t>{1, 2, 3}));
  EXPECT_EQ(first.bytes(), wanted_);
  EXPECT_EQ(second.bytes(), wanted_);
  EXPECT_EQ(third.bytes(), 0u);
  third.leave_queue();
  wanted_ = 2 * kShare;
  first.drop_bytes(first.bytes());
  executor_.run();
  EXPECT_EQ(called_.back(), 0u);
  EXPECT_FALSE(holder.waits());
}

TEST_F(NbdAllowanceOfOne, AWaiterThatLeavesLetsTheNextTry) {
  account().add_bytes(kShare + limits::kNbdRequestBytes - 100);
  Allowance::Account& large = account();
  Allowance::Account& small = account();
  EXPECT_FALSE(large.admit(2 * kShare));
  EXPECT_FALSE(small.admit(kShare + 50)) << "behind the large one";
  wanted_ = kShare + 50;
  large.leave_queue();
  executor_.run();
  EXPECT_EQ(small.bytes(), kShare + 50);
}

TEST_F(NbdAllowanceOfOne, StallsAreLookedForWhileSomebodyWaits) {
  executor_.advance(10 * limits::kNbdStallTime);
  EXPECT_EQ(stalls_, 0);
  account().add_bytes(kShare + limits::kNbdRequestBytes);
  EXPECT_FALSE(account().admit(2 * kShare));
  executor_.advance(limits::kNbdStallTime - Nanos(1));
  EXPECT_EQ(stalls_, 0);
  executor_.advance(Nanos(1));
  EXPECT_EQ(stalls_, 1);
  executor_.advance(limits::kNbdStallTime);
  EXPECT_EQ(stalls_, 2);
  accounts_[1]->leave_queue();
  executor_.advance(10 * limits::kNbdStallTime);
  EXPECT_EQ(stalls_, 2);
}

// --- with sessions

constexpr uint32_t kLarge = limits::kNbdRequestBytes;

TEST(NbdMemory, ALargeRequestWaitsForOthersAndASmallOneDoesNot) {
  TestServer server(kLarge, {kLarge, 1000});
  server.on_loop([&] { server.device().hold = true; });
  TestClient holder = server.client();
  holder.command({0, kCmdRead, 1, 0, kLarge});
  server.until([&] { return server.device().waiting() == 1; });
  TestClient waiting = server.client();
  waiting.command({0, kCmdRead, 2, 0, 4 << 20});
  TestClient small = server.client();
  small.command({0, kCmdRead, 3, 0, 64 << 10});
  server.until([&] { return server.device().waiting() == 2; });
  server.on_loop([] {});
  server.on_loop([&] {
    EXPECT_EQ(server.device().waiting(), 2u);
    server.device().release();
  });
  EXPECT_EQ(holder.reply()->cookie, 1u);
  EXPECT_EQ(waiting.reply()->cookie, 2u);
  EXPECT_EQ(small.reply()->cookie, 3u);
}

TEST(NbdMemory, AWaitingClientMayVanish) {
  TestServer server(kLarge, {kLarge, 1000});
  server.on_loop([&] { server.device().hold = true; });
  TestClient holder = server.client();
  holder.command({0, kCmdRead, 1, 0, kLarge});
  server.until([&] { return server.device().waiting() == 1; });
  TestClient next = server.client();
  {
    TestClient waiting = server.client();
    waiting.command({0, kCmdRead, 2, 0, kLarge});
    next.command({0, kCmdRead, 3, 0, kLarge});
  }
  server.on_loop([&] { server.device().release(); });
  EXPECT_EQ(holder.reply()->cookie, 1u);
  EXPECT_EQ(next.reply()->cookie, 3u);
  server.until([&] { return server.server().allowance().bytes() == 0; });
}

TEST(NbdMemory, AStopDoesNotWaitForMemory) {
  TestServer server(kLarge, {kLarge, 1000});
  server.on_loop([&] { server.device().hold = true; });
  TestClient holder = server.client();
  holder.command({0, kCmdRead, 1, 0, kLarge});
  server.until([&] { return server.device().waiting() == 1; });
  TestClient waiting = server.client();
  waiting.command({0, kCmdRead, 2, 0, kLarge});
  server.on_loop([&] { server.device().release(); });
  server.stop();
}

// Sessions whose clients the test plays, on a clock that it moves.
class NbdStall : public ::testing::Test, public ExportTable, public Session::Host {
 protected:
  NbdStall() : device_(executor_, kLarge), pool_(1 << 20) {}
  ~NbdStall() override {
    for (auto& [session, peer] : peers_) session->drain();
    device_.release();
    executor_.run();
    executor_.advance(limits::kNbdHandshakeTime);
    EXPECT_TRUE(sessions_.empty());
  }
  block::BlockDevice* find(std::string_view) override { return &device_; }
  std::vector<std::string> names() override { return {"vol"}; }
  void session_ended(Session& session) override {
    std::erase_if(peers_, [&](const auto& entry) { return entry.first == &session; });
    std::erase_if(sessions_, [&](const auto& owned) { return owned.get() == &session; });
  }
  ManualStream::Peer& connect() {
    ManualStream::Peer& peer = *states_.emplace_back(std::make_unique<ManualStream::Peer>());
    sessions_.push_back(std::make_unique<Session>(Session::Commons{executor_, pool_, allowance_}, *this,
                                                  *this, std::make_unique<ManualStream>(executor_, peer)));
    peers_.push_back({sessions_.back().get(), &peer});
    sessions_.back()->start();
    executor_.run();
    Bytes in;
    append_client_flags(in, kClientFixedNewstyle | kClientNoZeroes);
    append_option(in, kOptGo, encode_info_request({"vol", {}}));
    peer.stream->give(in);
    return peer;
  }
  void give(ManualStream::Peer& peer, const Command& command) {
    Bytes in(kCommandBytes);
    encode(command, in);
    peer.stream->give(in);
  }

  ManualExecutor executor_;
  RamDevice device_;
  io::BufferPool pool_;
  Allowance allowance_{executor_,
                       [this] {
                         for (const auto& [session, peer] : peers_) session->drop_if_stalled();
                       },
                       {kLarge, 1000}};
  std::vector<std::unique_ptr<ManualStream::Peer>> states_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<std::pair<Session*, ManualStream::Peer*>> peers_;
};

TEST_F(NbdStall, AReaderThatTakesNothingIsKeptUntilOthersNeedItsMemory) {
  ManualStream::Peer& slow = connect();
  slow.reading = false;
  give(slow, {0, kCmdRead, 1, 0, kLarge});
  executor_.advance(std::chrono::hours(1));
  EXPECT_FALSE(slow.closed) << "nobody minds";
  ManualStream::Peer& idle = connect();
  ManualStream::Peer& other = connect();
  const size_t before = other.got.size();
  give(other, {0, kCmdRead, 2, 0, kLarge});
  executor_.advance(limits::kNbdStallTime);
  EXPECT_FALSE(slow.closed) << "it is given the time";
  executor_.advance(limits::kNbdStallTime);
  EXPECT_TRUE(slow.closed);
  EXPECT_FALSE(idle.closed);
  EXPECT_EQ(other.got.size(), before + kSimpleReplyBytes + kLarge);
}

TEST_F(NbdStall, APayloadThatNeverComesIsTreatedAlike) {
  ManualStream::Peer& slow = connect();
  give(slow, {0, kCmdWrite, 1, 0, kLarge});
  ManualStream::Peer& other = connect();
  const size_t before = other.got.size();
  give(other, {0, kCmdRead, 2, 0, kLarge});
  executor_.advance(limits::kNbdStallTime);
  executor_.advance(limits::kNbdStallTime);
  EXPECT_TRUE(slow.closed);
  EXPECT_EQ(other.got.size(), before + kSimpleReplyBytes + kLarge);
}

TEST_F(NbdStall, WhoWaitsForTheDeviceIsNotToBlame) {
  device_.hold = true;
  ManualStream::Peer& busy = connect();
  give(busy, {0, kCmdRead, 1, 0, kLarge});
  ManualStream::Peer& other = connect();
  give(other, {0, kCmdRead, 2, 0, kLarge});
  for (int i = 0; i < 10; i++) executor_.advance(limits::kNbdStallTime);
  EXPECT_FALSE(busy.closed);
  EXPECT_FALSE(other.closed);
  device_.release();
  executor_.run();
  EXPECT_GT(busy.got.size(), kLarge);
  EXPECT_GT(other.got.size(), kLarge);
}

}  // namespace
}  // namespace foreshadow::nbd
