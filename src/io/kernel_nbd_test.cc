#include "io/kernel_nbd.h"

#include <gtest/gtest.h>

namespace foreshadow::io {
namespace {

TEST(KernelNbd, RefusesWhatIsNoDeviceOfTheKernelsClient) {
  for (const char* path : {"/dev/null", "/tmp", "/dev/loop-control"}) {
    const Status status = resize_kernel_nbd(path, 1 << 20);
    ASSERT_FALSE(status) << path;
    EXPECT_EQ(status.error().code, Code::kInvalidArgument) << status.error().message;
    EXPECT_NE(status.error().message.find("such as /dev/nbd0"), std::string::npos);
  }
  EXPECT_EQ(resize_kernel_nbd("/dev/not-there", 1 << 20).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace foreshadow::io
