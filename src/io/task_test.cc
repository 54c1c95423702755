#include "io/task.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "io/buffer.h"
#include "io/loop.h"

namespace foreshadow::io {
namespace {

struct TaskTest : testing::Test {
  void SetUp() override {
    auto made = Loop::create();
    ASSERT_TRUE(made) << made.error().message;
    loop = std::move(*made);
  }
  std::unique_ptr<Loop> loop;
  std::string log;

  Task<int> leaf(int value) {
    log += "(";
    co_await yield(*loop);
    log += ")";
    co_return value;
  }
  Task<int> sum() {
    const int one = co_await leaf(1);
    const int two = co_await leaf(2);
    co_return one + two;
  }
  Task<int> waits(Event& event, std::string name) {
    co_await event.wait();
    log += name;
    co_return 0;
  }
};

TEST_F(TaskTest, IsLazyAndResumesItsAwaiterWithTheValue) {
  Task<int> task = sum();
  EXPECT_EQ(log, "");
  int got = 0;
  spawn(std::move(task), [&](int value) {
    got = value;
    loop->stop();
  });
  EXPECT_EQ(log, "(");  // spawn starts at once
  loop->run();
  EXPECT_EQ(got, 3);
  EXPECT_EQ(log, "()()");
}

TEST_F(TaskTest, DestroyingATaskThatNeverRanFreesItsFrame) {
  Task<int> task = leaf(1);
}

TEST_F(TaskTest, AnEventLetsAllPresentWaitersGoOnButNotLaterOnes) {
  Event event(*loop);
  int left = 2;
  const auto finish = [&](int) { --left; };
  spawn(waits(event, "a"), finish);
  spawn(waits(event, "b"), finish);
  EXPECT_TRUE(event.has_waiters());
  event.notify_all();
  EXPECT_FALSE(event.has_waiters());
  EXPECT_EQ(log, "");  // through the executor, never from inside
  spawn(waits(event, "late"), [](int) {});
  loop->stop();
  loop->run();
  EXPECT_EQ(left, 0);
  EXPECT_EQ(log.size(), 2u);
  event.notify_all();
  loop->stop();
  loop->run();
  EXPECT_EQ(log.substr(2), "late");
}

Task<int> write_and_read(File& file) {
  Buffer out(4096);
  Buffer in(4096);
  std::memset(out.data(), 0x5a, out.size());
  const int wrote = co_await write(file, 4096, out.span());
  EXPECT_EQ(wrote, 0);
  const int synced = co_await sync(file);
  EXPECT_EQ(synced, 0);
  const int durable = co_await write_durable(file, 0, out.span());
  EXPECT_EQ(durable, 0);
  const int got = co_await read(file, 4096, in.span());
  EXPECT_EQ(got, 0);
  EXPECT_EQ(std::memcmp(out.data(), in.data(), in.size()), 0);
  const int past = co_await read(file, file.size(), in.span());
  co_return past;
}

TEST_F(TaskTest, AwaitsFileCalls) {
  auto directory = open_directory(*loop, "/dev/shm");
  ASSERT_TRUE(directory) << directory.error().message;
  const std::string name = "foreshadow-task-test-" + std::to_string(::getpid());
  auto file = (*directory)->create(name, 64 * 1024);
  ASSERT_TRUE(file) << file.error().message;
  int last = 0;
  spawn(write_and_read(**file), [&](int result) {
    last = result;
    loop->stop();
  });
  loop->run();
  EXPECT_EQ(last, -EIO);
  EXPECT_TRUE((*directory)->remove(name));
}

TEST(Buffer, IsAlignedAndRoundedUp) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, size_t{1000000}}) {
    const Buffer buffer(bytes);
    EXPECT_GE(buffer.size(), bytes);
    EXPECT_EQ(buffer.size() % kBufferAlignment, 0u);
    EXPECT_LT(buffer.size() - bytes, kBufferAlignment);
    EXPECT_EQ(std::bit_cast<uintptr_t>(buffer.data()) % kBufferAlignment, 0u);
  }
  EXPECT_EQ(Buffer().size(), 0u);
}

TEST(BufferPool, GivesBackWhatItWasGivenBySizeClass) {
  BufferPool pool(1 << 20);
  Buffer small = pool.take(1);
  Buffer large = pool.take(5000);
  EXPECT_EQ(small.size(), 4096u);
  EXPECT_EQ(large.size(), 8192u);
  std::byte* const small_at = small.data();
  std::byte* const large_at = large.data();
  pool.give(std::move(small));
  pool.give(std::move(large));
  EXPECT_EQ(pool.take(8192).data(), large_at);
  EXPECT_EQ(pool.take(4096).data(), small_at);
  EXPECT_EQ(pool.take(64u << 20).size(), size_t{64} << 20);  // the largest class
}

TEST(BufferPool, KeepsNoMoreThanItsBound) {
  BufferPool pool(8192);
  Buffer a = pool.take(4096);
  Buffer b = pool.take(4096);
  Buffer c = pool.take(4096);
  std::byte* const c_at = c.data();
  pool.give(std::move(c));
  pool.give(std::move(b));
  pool.give(std::move(a));  // past the bound: freed
  pool.give(Buffer());      // moved-from or empty: nothing to keep
  (void)pool.take(4096);
  EXPECT_EQ(pool.take(4096).data(), c_at);
}

// A Buffer that did not come from the pool may have a size between two classes.
TEST(BufferPool, NeverHandsOutLessThanAskedFor) {
  BufferPool pool(1 << 20);
  pool.give(Buffer(3 * 4096));
  EXPECT_GE(pool.take(4 * 4096).size(), size_t{4 * 4096});
}

}  // namespace
}  // namespace foreshadow::io
