#include "io/loop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "io/timer_heap.h"
#include "io/uring_loop.h"

namespace foreshadow::io {
namespace {

std::unique_ptr<UringLoop> make_loop() {
  auto loop = UringLoop::create();
  EXPECT_TRUE(loop) << loop.error().message;
  return std::move(*loop);
}

// An op that runs a function; the tests may allocate.
struct CallOp : Op {
  explicit CallOp(std::function<void(int)> f) : call(std::move(f)) {
    done = [](Op* op, int outcome) { static_cast<CallOp*>(op)->call(outcome); };
  }
  std::function<void(int)> call;
};

// A timer that writes its name to a log.
struct LogTimer : Timer {
  LogTimer(std::string n, std::string& l) : name(std::move(n)), log(l) {
    op.done = [](Op* fired, int outcome) {
      EXPECT_EQ(outcome, 0);
      // `op` is a member of Timer; its owner is found through the scratch pointer that a timer does not use.
      auto* self = static_cast<LogTimer*>(fired->target);
      self->log += self->name;
      if (self->then) self->then();
    };
    op.target = this;
  }
  std::string name;
  std::string& log;
  std::function<void()> then;
};

TEST(Loop, StopBeforeRunReturnsAtOnceAndRunCanBeRepeated) {
  auto loop = make_loop();
  for (int i = 0; i < 3; ++i) {
    loop->stop();
    loop->run();
  }
}

TEST(Loop, PostNeverCallsFromInsideAndKeepsOrder) {
  auto loop = make_loop();
  std::string log;
  CallOp c([&](int r) {
    EXPECT_EQ(r, 0);
    log += "c";
    loop->stop();
  });
  CallOp a([&](int r) {
    EXPECT_EQ(r, 0);
    log += "a";
    loop->post(c);
    log += "A";
  });
  CallOp b([&](int) { log += "b"; });
  loop->post(a);
  loop->post(b);
  EXPECT_EQ(log, "");
  loop->run();
  EXPECT_EQ(log, "aAbc");
}

TEST(Loop, DeferredRunOnceAllThatIsReadyHasRun) {
  auto loop = make_loop();
  std::string log;
  CallOp last([&](int) {
    log += "L";
    loop->stop();
  });
  CallOp third([&](int) { log += "3"; });
  CallOp deferred([&](int) {
    log += "D";
    loop->post(third);  // runs before the op that is deferred next
    loop->defer(last);
  });
  CallOp second([&](int) { log += "2"; });
  CallOp first([&](int) {
    log += "1";
    loop->post(second);
  });
  loop->defer(deferred);
  loop->post(first);
  loop->run();
  EXPECT_EQ(log, "12D3L");
}

TEST(Loop, OpsThatPostThemselvesDoNotStarveTheRest) {
  auto loop = make_loop();
  bool enough = false;
  uint64_t turns = 0;
  CallOp* again = nullptr;
  CallOp spinner([&](int) {
    ++turns;
    if (!enough) loop->post(*again);
  });
  again = &spinner;
  loop->post(spinner);
  // Arrives through the kernel, and is the only thing that ends the spinning.
  loop->run_on_loop([&] {
    enough = true;
    loop->stop();
  });
  loop->run();
  EXPECT_GT(turns, 0u);
}

TEST(Loop, TimersFireByDeadlineThenByOrderOfArming) {
  auto loop = make_loop();
  std::string log;
  LogTimer a("a", log), b("b", log), c("c", log), d("d", log);
  const MonoTime start = loop->now();
  d.then = [&] { loop->stop(); };
  loop->arm(d, start + std::chrono::milliseconds(3));
  loop->arm(b, start + std::chrono::milliseconds(2));
  loop->arm(c, start + std::chrono::milliseconds(2));
  loop->arm(a, start + std::chrono::milliseconds(1));
  EXPECT_TRUE(a.armed());
  loop->run();
  EXPECT_EQ(log, "abcd");
  EXPECT_FALSE(a.armed());
  EXPECT_GE(loop->now(), start + std::chrono::milliseconds(3));
}

TEST(Loop, CancelledTimersNeverFireAndRearmedOnesFireOnce) {
  auto loop = make_loop();
  std::string log;
  LogTimer killer("k", log), victim("v", log), moved("m", log), end("e", log);
  const MonoTime start = loop->now();
  killer.then = [&] { loop->cancel(victim); };  // due in the same pass, behind the killer
  end.then = [&] { loop->stop(); };
  loop->arm(killer, start);
  loop->arm(victim, start);
  loop->arm(moved, start);
  loop->arm(moved, start + std::chrono::milliseconds(1));
  loop->arm(end, start + std::chrono::milliseconds(2));
  loop->run();
  EXPECT_EQ(log, "kme");
  loop->cancel(victim);  // idle: does nothing
  EXPECT_FALSE(victim.armed());
}

TEST(Loop, ATimerArmedForThePastFromATimerDoesNotRunInTheSamePass) {
  auto loop = make_loop();
  std::string log;
  LogTimer timer("t", log);
  int left = 3;
  timer.then = [&] {
    if (--left > 0) {
      loop->arm(timer, MonoTime{});
    } else {
      loop->stop();
    }
  };
  loop->arm(timer, MonoTime{});
  loop->run();
  EXPECT_EQ(log, "ttt");
}

TEST(Loop, ArmedTimersDoNotHoldAStoppedLoop) {
  auto loop = make_loop();
  std::string log;
  LogTimer timer("t", log);
  loop->arm(timer, loop->now() + std::chrono::hours(1));
  loop->stop();
  loop->run();
  EXPECT_TRUE(timer.armed());
  loop->cancel(timer);
}

TEST(TimerHeap, AgreesWithASortedListUnderRandomUse) {
  std::mt19937 random(1);
  TimerHeap heap;
  std::array<Timer, 200> timers;
  for (Timer& timer : timers) timer.op.done = [](Op*, int) {};
  for (int step = 0; step < 20000; ++step) {
    Timer& timer = timers[random() % timers.size()];
    if (random() % 3 == 0) {
      heap.cancel(timer);
      EXPECT_FALSE(timer.armed());
    } else {
      heap.arm(timer, MonoTime(Nanos(random() % 50)));
    }
  }
  std::vector<std::pair<MonoTime, uint64_t>> expected;
  for (const Timer& timer : timers) {
    if (timer.armed()) expected.emplace_back(timer.deadline, timer.sequence);
  }
  std::sort(expected.begin(), expected.end());
  ASSERT_EQ(heap.size(), expected.size());
  for (const auto& [deadline, sequence] : expected) {
    EXPECT_EQ(heap.next_deadline(), deadline);
    // Not due one tick before; not taken while it is too new.
    EXPECT_EQ(heap.take_due(deadline - Nanos(1), heap.next_sequence()), nullptr);
    EXPECT_EQ(heap.take_due(deadline, sequence), nullptr);
    Timer* timer = heap.take_due(deadline, heap.next_sequence());
    ASSERT_NE(timer, nullptr);
    EXPECT_EQ(timer->deadline, deadline);
    EXPECT_FALSE(timer->armed());
  }
  EXPECT_TRUE(heap.empty());
}

TEST(Loop, CallsFromManyThreadsAllRunInTheirThreadsOrder) {
  auto loop = make_loop();
  constexpr int kThreads = 4;
  constexpr int kCalls = 5000;
  std::array<std::vector<int>, kThreads> seen;
  int left = kThreads * kCalls;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        loop->run_on_loop([&, t, i] {
          seen[t].push_back(i);
          if (--left == 0) loop->stop();
        });
      }
    });
  }
  loop->run();
  for (std::thread& thread : threads) thread.join();
  for (const auto& calls : seen) {
    EXPECT_EQ(calls.size(), static_cast<size_t>(kCalls));
    EXPECT_TRUE(std::is_sorted(calls.begin(), calls.end()));
  }
}

TEST(Loop, StopFromAnotherThreadWakesASleepingLoop) {
  auto loop = make_loop();
  std::thread other;
  CallOp started([&](int) { other = std::thread([&] { loop->stop(); }); });
  loop->post(started);
  loop->run();
  other.join();
}

TEST(Loop, RunsOnAnotherThreadThanTheOneThatMadeIt) {
  auto loop = make_loop();
  std::thread::id ran_on;
  std::thread runner([&] {
    loop->run_on_loop([&] {
      ran_on = std::this_thread::get_id();
      loop->stop();
    });
    loop->run();
  });
  const std::thread::id expected = runner.get_id();
  runner.join();
  EXPECT_EQ(ran_on, expected);
}

TEST(Loop, OffloadsRunElsewhereInOrderAndFinishOnTheLoopEvenWhenStopped) {
  auto loop = make_loop();
  const std::thread::id here = std::this_thread::get_id();
  std::vector<int> worked;
  std::vector<int> done;
  for (int i = 0; i < 100; ++i) {
    loop->offload(
        [&, i] {
          EXPECT_NE(std::this_thread::get_id(), here);
          worked.push_back(i);
        },
        [&, i] {
          EXPECT_EQ(std::this_thread::get_id(), here);
          done.push_back(i);
        });
  }
  loop->stop();  // at once: what is in flight still finishes
  loop->run();
  EXPECT_EQ(done.size(), 100u);
  EXPECT_TRUE(std::is_sorted(worked.begin(), worked.end()));
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
}

// An endpoint without a descriptor: no-ops show how the loop hands results on.
struct NopEndpoint final : Endpoint {
  void completed(Op& op, int result) override {
    ++calls;
    op.done(&op, result);
  }
  int calls = 0;
};

TEST(Loop, ManyMoreSubmissionsThanTheQueueHoldsAllComplete) {
  auto loop = make_loop();
  NopEndpoint endpoint;
  constexpr size_t kOps = 20000;  // past both the submission and the completion queue
  size_t finished = 0;
  struct CountOp : Op {
    size_t* count = nullptr;
  };
  std::vector<CountOp> ops(kOps);
  for (CountOp& op : ops) {
    op.count = &finished;
    op.done = [](Op* self, int result) {
      EXPECT_EQ(result, 0);
      ++*static_cast<CountOp*>(self)->count;
    };
  }
  CallOp begin([&](int) {
    for (size_t i = 0; i < kOps; ++i) {
      io_uring_sqe& entry = loop->next_entry();
      io_uring_prep_nop(&entry);
      loop->start(entry, ops[i], i % 2 == 0 ? OpKind::kPlain : OpKind::kSteps, endpoint);
    }
    EXPECT_EQ(endpoint.in_flight(), kOps);
    loop->stop();
  });
  loop->post(begin);
  loop->run();
  EXPECT_EQ(finished, kOps);
  EXPECT_EQ(endpoint.calls, static_cast<int>(kOps / 2));
  EXPECT_EQ(endpoint.in_flight(), 0u);
}

TEST(Loop, MoreSubmissionsBeforeRunThanTheQueueHoldsComplete) {
  auto loop = make_loop();
  NopEndpoint endpoint;
  size_t finished = 0;
  std::vector<std::unique_ptr<CallOp>> ops;
  for (int i = 0; i < 3000; ++i) {
    ops.push_back(std::make_unique<CallOp>([&](int) { ++finished; }));
    io_uring_sqe& entry = loop->next_entry();
    io_uring_prep_nop(&entry);
    loop->start(entry, *ops.back(), OpKind::kPlain, endpoint);
  }
  loop->stop();
  loop->run();
  EXPECT_EQ(finished, ops.size());
}

}  // namespace
}  // namespace foreshadow::io
