#include "io/kernel_nbd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <linux/netlink.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "io/unique_fd.h"

namespace foreshadow::io {
namespace {

constexpr unsigned kNbdMajor = 43;

// The N of /dev/nbdN; nothing for a partition of one, or for anything else.
std::optional<uint32_t> index_of(const struct stat& facts) {
  if (!S_ISBLK(facts.st_mode) || major(facts.st_rdev) != kNbdMajor) return std::nullopt;
  std::error_code error;
  const auto system =
      std::filesystem::canonical(fmt::format("/sys/dev/block/{}:{}", kNbdMajor, minor(facts.st_rdev)), error);
  const std::string name = system.filename().string();
  uint32_t index = 0;
  if (error || !name.starts_with("nbd")) return std::nullopt;
  const auto [end, bad] = std::from_chars(name.data() + 3, name.data() + name.size(), index);
  if (bad != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return index;
}

// One generic netlink message: its two headers, then attributes.
class Message {
 public:
  Message(uint16_t family, uint8_t command, uint16_t flags) {
    nlmsghdr head{};
    head.nlmsg_type = family;
    head.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    genlmsghdr generic{};
    generic.cmd = command;
    generic.version = 1;
    put(&head, sizeof head);
    put(&generic, sizeof generic);
  }
  void attribute(uint16_t type, const void* value, size_t length) {
    nlattr head{static_cast<uint16_t>(NLA_HDRLEN + length), type};
    put(&head, sizeof head);
    put(value, length);
  }
  std::span<const std::byte> finish() {
    const auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &length, sizeof length);  // nlmsg_len comes first
    return bytes_;
  }

 private:
  void put(const void* value, size_t length) {
    const auto* from = static_cast<const std::byte*>(value);
    bytes_.insert(bytes_.end(), from, from + length);
    while (bytes_.size() % NLMSG_ALIGNTO != 0) bytes_.push_back(std::byte{0});
  }
  std::vector<std::byte> bytes_;
};

// Sends, and gives the answer's body behind the netlink header: nothing for a plain acknowledgement.
Result<std::vector<std::byte>> ask(int socket, std::span<const std::byte> message) {
  if (::send(socket, message.data(), message.size(), 0) < 0) return fail_errno(errno, "netlink: sending");
  std::vector<std::byte> answer(8192);
  const ssize_t got = ::recv(socket, answer.data(), answer.size(), 0);
  if (got < 0) return fail_errno(errno, "netlink: receiving");
  nlmsghdr head{};
  if (static_cast<size_t>(got) < sizeof head) return fail(Code::kIo, "netlink: an answer too short");
  std::memcpy(&head, answer.data(), sizeof head);
  answer.resize(static_cast<size_t>(got));
  answer.erase(answer.begin(), answer.begin() + NLMSG_HDRLEN);
  if (head.nlmsg_type != NLMSG_ERROR) return answer;
  int error = 0;
  if (answer.size() < sizeof error) return fail(Code::kIo, "netlink: an answer too short");
  std::memcpy(&error, answer.data(), sizeof error);
  if (error != 0) return fail_errno(error, "netlink: the kernel refuses");
  return std::vector<std::byte>();
}

Result<uint16_t> family_of_nbd(int socket) {
  Message message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
  message.attribute(CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof NBD_GENL_FAMILY_NAME);
  ASSIGN_OR_RETURN(const std::vector<std::byte> body, ask(socket, message.finish()));
  size_t at = GENL_HDRLEN;
  while (at + sizeof(nlattr) <= body.size()) {
    nlattr head{};
    std::memcpy(&head, body.data() + at, sizeof head);
    uint16_t family = 0;
    if (head.nla_len < sizeof head || at + head.nla_len > body.size()) break;
    if (head.nla_type == CTRL_ATTR_FAMILY_ID && head.nla_len >= sizeof head + sizeof family) {
      std::memcpy(&family, body.data() + at + sizeof head, sizeof family);
      return family;
    }
    at += NLA_ALIGN(head.nla_len);
  }
  return fail(Code::kUnsupported, "netlink: the kernel has no family nbd");
}

Status resize_by_netlink(uint32_t index, uint64_t size) {
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!socket) return fail_errno(errno, "netlink: opening a socket");
  ASSIGN_OR_RETURN(const uint16_t family, family_of_nbd(socket.get()));
  Message message(family, NBD_CMD_RECONFIGURE, NLM_F_ACK);
  message.attribute(NBD_ATTR_INDEX, &index, sizeof index);
  message.attribute(NBD_ATTR_SIZE_BYTES, &size, sizeof size);
  TRY(ask(socket.get(), message.finish()));
  return {};
}

}  // namespace

Status resize_kernel_nbd(const std::string& device, uint64_t size) {
  struct stat facts{};
  if (::stat(device.c_str(), &facts) != 0) return fail_errno(errno, device + ": looking at it");
  const auto index = index_of(facts);
  if (!index) {
    return fail(Code::kInvalidArgument,
                device + ": expected a device of the kernel's NBD client, such as /dev/nbd0");
  }
  const UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return fail_errno(errno, device + ": opening it");
  uint64_t before = 0;
  if (::ioctl(fd.get(), BLKGETSIZE64, &before) != 0)
    return fail_errno(errno, device + ": asking for its size");
  if (before == 0) return fail(Code::kFailedPrecondition, device + ": it is not connected to anything");
  if (size == before) return {};
  if (size < before) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: it has {} bytes, and would shrink to {}", device, before, size));
  }
  // A device that was connected by netlink takes no ioctl.
  if (::ioctl(fd.get(), NBD_SET_SIZE, size) != 0) {
    if (errno != EINVAL) return fail_errno(errno, device + ": setting its size");
    TRY(resize_by_netlink(*index, size));
  }
  uint64_t after = 0;
  if (::ioctl(fd.get(), BLKGETSIZE64, &after) != 0)
    return fail_errno(errno, device + ": asking for its size");
  if (after == size) return {};
  return fail(Code::kInternal, fmt::format("{}: it was told {} bytes, and has {}", device, size, after));
}

}  // namespace foreshadow::io
