#pragma once
// Test support: a blocking NBD client that can also misbehave. Not part of the product.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nbd/codec.h"

namespace foreshadow::nbd {

inline Bytes bytes_of(std::string_view text) {
  const auto raw = std::as_bytes(std::span(text.data(), text.size()));
  return Bytes(raw.begin(), raw.end());
}

// Data that differs from place to place, so that a misplaced byte shows.
inline Bytes pattern(size_t size, uint64_t seed) {
  Bytes out(size);
  for (size_t i = 0; i < size; i++)
    out[i] = static_cast<std::byte>((i * 131 + i / 256 + seed * 7919 + 1) & 0xff);
  return out;
}

struct OptionReply {
  OptionReplyHeader header;
  Bytes payload;
  uint32_t type() const { return header.type; }
};

// One reply of the transmission phase, simple or structured.
struct Reply {
  bool structured = false;
  uint64_t cookie = 0;
  uint32_t error = 0;
  Chunk chunk;
  Bytes data;  // the chunk's payload, or the data of a simple READ reply
  std::string message;
};

// Every receive gives up after ten seconds, so that a hang is a failure and not a stuck test run.
class TestClient {
 public:
  explicit TestClient(const std::string& unix_path) {
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, unix_path.data(), unix_path.size());
    connect_to(&address, sizeof address);
  }
  TestClient(in_addr_t host, uint16_t port) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(host);
    address.sin_port = htons(port);
    connect_to(&address, sizeof address);
  }
  virtual ~TestClient() { close(); }
  TestClient(TestClient&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), structured_(other.structured_) {}
  TestClient& operator=(TestClient&&) = delete;

  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void close_sending() { ::shutdown(fd_, SHUT_WR); }
  int fd() const { return fd_; }

  // false when the server has closed.
  bool send(ByteView bytes) {
    while (!bytes.empty()) {
      const ssize_t n = raw_send(bytes.data(), bytes.size());
      if (n <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return true;
  }
  // Exactly `n` bytes, or fewer at the end of the stream.
  Bytes receive(size_t n) {
    Bytes out(n);
    size_t have = 0;
    while (have < n) {
      const ssize_t got = raw_receive(out.data() + have, n - have);
      EXPECT_TRUE(got >= 0 || errno == ECONNRESET) << "receive: " << std::strerror(errno);
      if (got <= 0) break;
      have += static_cast<size_t>(got);
    }
    out.resize(have);
    return out;
  }
  // The server closed and sent nothing more.
  bool at_end() { return receive(1).empty(); }

  // --- handshake ---
  void greet(uint32_t flags = kClientFixedNewstyle | kClientNoZeroes) {
    const auto server = decode_greeting(receive(kGreetingBytes));
    ASSERT_TRUE(server.has_value()) << server.error().message;
    Bytes out;
    append_client_flags(out, flags);
    send(out);
  }
  void send_option(uint32_t option, ByteView payload = {}) {
    Bytes out;
    append_option(out, option, payload);
    send(out);
  }
  std::optional<OptionReply> option_reply() {
    const auto header = decode_option_reply(receive(kOptionReplyBytes));
    if (!header) return std::nullopt;
    return OptionReply{*header, receive(header->length)};
  }
  // All replies up to the final one.
  std::vector<OptionReply> option(uint32_t option, ByteView payload = {}) {
    send_option(option, payload);
    std::vector<OptionReply> out;
    for (;;) {
      auto reply = option_reply();
      if (!reply) return out;
      out.push_back(std::move(*reply));
      if (out.back().type() == kRepAck || (out.back().type() & kRepErrorBit) != 0) return out;
    }
  }
  // The whole handshake; the information about the export.
  ExportInfo go(const std::string& name, bool structured = true, bool status = false) {
    greet();
    if (structured) {
      EXPECT_EQ(option(kOptStructuredReply).back().type(), kRepAck);
      structured_ = true;
    }
    if (status) {
      const auto set = option(kOptSetMetaContext, encode_meta_request({name, {kBaseAllocation}}));
      EXPECT_EQ(set.size(), 2u);
    }
    ExportInfo info;
    const auto replies = option(kOptGo, encode_info_request({name, {}}));
    EXPECT_EQ(replies.empty() ? 0 : replies.back().type(), kRepAck);
    for (const OptionReply& reply : replies) {
      if (const auto got = decode_info_export(reply.payload)) info = *got;
    }
    return info;
  }

  // --- transmission ---
  bool command(const Command& command, ByteView payload = {}) {
    Bytes out(kCommandBytes);
    encode(command, out);
    out.insert(out.end(), payload.begin(), payload.end());
    return send(out);
  }
  // The next reply. `read_bytes`: data that follows a successful simple READ reply.
  std::optional<Reply> reply(size_t read_bytes = 0) {
    const Bytes first = receive(kSimpleReplyBytes);
    if (first.size() < kSimpleReplyBytes) return std::nullopt;
    Reply out;
    if (const auto simple = decode_simple_reply(first)) {
      out.cookie = simple->cookie;
      out.error = simple->error;
      if (simple->error == 0) out.data = receive(read_bytes);
      return out;
    }
    Bytes header = first;
    const Bytes rest = receive(kChunkBytes - kSimpleReplyBytes);
    header.insert(header.end(), rest.begin(), rest.end());
    const auto chunk = decode_chunk(header);
    EXPECT_TRUE(chunk.has_value()) << "neither a simple nor a structured reply";
    if (!chunk) return std::nullopt;
    out.structured = true;
    out.chunk = *chunk;
    out.cookie = chunk->cookie;
    out.data = receive(chunk->length);
    if (chunk->type == kChunkError) {
      const auto error = decode_error(out.data);
      EXPECT_TRUE(error.has_value());
      if (error) {
        out.error = error->error;
        out.message = error->message;
      }
    }
    return out;
  }
  // One command, one reply; the error it carried.
  uint32_t call(const Command& wanted, ByteView payload = {}) {
    command(wanted, payload);
    const bool simple_read = wanted.type == kCmdRead && !structured_;
    const auto got = reply(simple_read ? wanted.length : 0);
    EXPECT_TRUE(got.has_value()) << "the server closed";
    if (!got) return ~0u;
    EXPECT_EQ(got->cookie, wanted.cookie);
    return got->error;
  }
  uint32_t write(uint64_t offset, ByteView data, uint16_t flags = 0) {
    return call({flags, kCmdWrite, 77, offset, static_cast<uint32_t>(data.size())}, data);
  }
  // The data; holes become zeros. Empty on an error.
  Bytes read(uint64_t offset, uint32_t length, uint16_t flags = 0) {
    command({flags, kCmdRead, 78, offset, length});
    auto got = reply(length);
    if (!got || got->error != 0) return {};
    if (!got->structured) return std::move(got->data);
    if (got->chunk.type == kChunkOffsetHole) return Bytes(length);
    Bytes out;
    for (;; got = reply()) {
      if (!got || got->chunk.type != kChunkOffsetData) return {};
      out.insert(out.end(), got->data.begin() + 8, got->data.end());
      if ((got->chunk.flags & kChunkFlagDone) != 0) return out;
    }
  }

 protected:
  // As ::send and ::recv; a client under TLS has its own.
  virtual ssize_t raw_send(const void* from, size_t n) { return ::send(fd_, from, n, MSG_NOSIGNAL); }
  virtual ssize_t raw_receive(void* into, size_t n) { return ::recv(fd_, into, n, 0); }

 private:
  template <typename Address>
  void connect_to(Address* address, socklen_t length) {
    const timeval limit{10, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    EXPECT_EQ(::connect(fd_, static_cast<const sockaddr*>(static_cast<const void*>(address)), length), 0)
        << std::strerror(errno);
  }

  int fd_ = -1;
  bool structured_ = false;
};

}  // namespace foreshadow::nbd
