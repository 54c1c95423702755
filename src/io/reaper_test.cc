#include "io/reaper.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "base/types.h"
#include "io/unique_fd.h"

namespace foreshadow::io {
namespace {

UniqueFd memory_file() {
  UniqueFd fd(::memfd_create("reaped", MFD_CLOEXEC));
  EXPECT_TRUE(fd);
  return fd;
}

TEST(Reaper, WaitsForWhatItWasGivenAndHasNothingAfterwards) {
  Reaper reaper;
  EXPECT_FALSE(reaper.wait());
  std::vector<int> numbers;
  for (int i = 0; i < 8; ++i) {
    UniqueFd fd = memory_file();
    ASSERT_EQ(::ftruncate(fd.get(), kMiB), 0);
    numbers.push_back(fd.get());
    reaper.take(std::move(fd), kMiB);
  }
  (void)reaper.wait();  // all may have gone by now
  EXPECT_FALSE(reaper.wait());
  EXPECT_EQ(reaper.coming_back(), 0u);
  for (const int number : numbers) EXPECT_EQ(::fcntl(number, F_GETFD), -1) << number;
}

TEST(Reaper, LetsGoOfWhatIsLeftWhenItEnds) {
  std::vector<int> numbers;
  {
    Reaper reaper;
    for (int i = 0; i < 8; ++i) {
      UniqueFd fd = memory_file();
      numbers.push_back(fd.get());
      reaper.take(std::move(fd), 0);
    }
  }
  for (const int number : numbers) EXPECT_EQ(::fcntl(number, F_GETFD), -1) << number;
}

}  // namespace
}  // namespace foreshadow::io
