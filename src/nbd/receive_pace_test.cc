#include "nbd/receive_pace.h"

#include <gtest/gtest.h>

namespace foreshadow::nbd {
namespace {

// What a session does around one receive that brings `commands`; `unread` is what the socket would say.
void receive(ReceivePace& pace, uint32_t commands, bool unread) {
  if (pace.asks(commands)) pace.note(unread);
  if (pace.pause() > Nanos::zero()) pace.note(unread);
}

TEST(ReceivePace, AClientThatReadsItsRepliesFirstIsNeverPausedFor) {
  ReceivePace pace;
  for (int i = 0; i < 10'000; i++) {
    receive(pace, 1, false);
    ASSERT_EQ(pace.pause(), Nanos::zero());
  }
}

TEST(ReceivePace, WhileRepliesStayUnreadThePauseGrowsToItsBound) {
  ReceivePace pace;
  Nanos before{};
  for (int i = 0; i < 100; i++) {
    receive(pace, 1, true);
    ASSERT_GE(pace.pause(), before);
    before = pace.pause();
  }
  EXPECT_EQ(pace.pause(), ReceivePace::kLongest);
}

TEST(ReceivePace, APauseThatEndsWithEverythingReadIsHalved) {
  ReceivePace pace;
  for (int i = 0; i < 100; i++) receive(pace, 1, true);
  pace.note(false);
  EXPECT_EQ(pace.pause(), ReceivePace::kLongest / 2);
  for (int i = 0; i < 10; i++) receive(pace, 1, false);
  EXPECT_EQ(pace.pause(), Nanos::zero());
}

TEST(ReceivePace, EnoughCommandsAtOnceNeedNoPause) {
  ReceivePace pace;
  for (int i = 0; i < 100; i++) receive(pace, 1, true);
  for (int i = 0; i < 100; i++) EXPECT_FALSE(pace.asks(ReceivePace::kBatch + 1));
  EXPECT_EQ(pace.pause(), Nanos::zero());
}

TEST(ReceivePace, TheMoreOftenAPauseWasWrongTheLessOftenItIsTried) {
  ReceivePace pace;
  uint32_t tries = 0;
  for (int i = 0; i < 100'000; i++) {
    if (!pace.asks(1)) continue;
    tries++;
    pace.note(true);   // something is unread: try a pause
    pace.note(false);  // but at its end everything was read
  }
  EXPECT_GT(tries, 1000u);
  EXPECT_LT(tries, 2000u);
}

}  // namespace
}  // namespace foreshadow::nbd
