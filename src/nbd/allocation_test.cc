// The steady state allocates nothing: this program counts what each thread allocates.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "nbd/test_server.h"

namespace {

thread_local uint64_t allocations = 0;

// Not inlined, like what frees it below: else compilers take the two for a mismatch.
[[gnu::noinline]] void* counted(size_t bytes, size_t alignment) {
  allocations++;
  void* p = nullptr;
  if (::posix_memalign(&p, std::max(alignment, sizeof(void*)), std::max<size_t>(bytes, 1)) != 0) std::abort();
  return p;
}

}  // namespace

void* operator new(size_t bytes) {
  return counted(bytes, alignof(std::max_align_t));
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace foreshadow::nbd {
namespace {

TEST(NbdAllocation, TheSteadyStateAllocatesNothing) {
  TestServer server;
  TestClient client = server.client();
  const Bytes data = pattern(4096, 1);
  // Bursts of 64 reads, writes and flushes, so that queues reach their size in the first ones.
  const auto bursts = [&](int count) {
    for (int burst = 0; burst < count; burst++) {
      for (uint64_t i = 0; i < 64; i++) {
        const auto type = static_cast<uint16_t>(i % 3 == 2 ? kCmdFlush : i % 3);
        const bool ranged = type != kCmdFlush;
        client.command({0, type, i, ranged ? i * 4096 : 0, ranged ? 4096u : 0},
                       type == kCmdWrite ? data : Bytes());
      }
      for (int i = 0; i < 64; i++) ASSERT_EQ(client.reply()->error, 0u);
    }
  };
  const auto count = [&] {
    uint64_t n = 0;
    server.on_loop([&] { n = allocations; });
    return n;
  };
  // How many commands a turn sees is up to the scheduler; after one held burst every queue has had its
  // longest.
  server.on_loop([&] { server.device().hold = true; });
  std::thread opener([&] {
    server.until([&] { return server.device().waiting() == 64; });
    server.on_loop([&] { server.device().release(); });
  });
  bursts(1);
  opener.join();
  bursts(5);
  const uint64_t before = count();
  bursts(100);
  // 6400 commands; counting itself may cost a few.
  EXPECT_LE(count() - before, 16u);
}

}  // namespace
}  // namespace foreshadow::nbd
