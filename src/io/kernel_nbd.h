#pragma once
// The kernel's NBD client, which does not learn by itself that an export has grown.
#include <cstdint>
#include <string>

#include "base/error.h"

namespace foreshadow::io {

// Tells the kernel that the export behind `device` (/dev/nbd0, say) has `size` bytes now, as it was
// connected: by ioctl or by netlink. kInvalidArgument if it is no such device or would shrink,
// kFailedPrecondition if it is not connected. Needs CAP_SYS_ADMIN. Blocks.
Status resize_kernel_nbd(const std::string& device, uint64_t size);

}  // namespace foreshadow::io
