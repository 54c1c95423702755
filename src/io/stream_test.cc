#include "io/stream.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "io/testing.h"
#include "io/unique_fd.h"

namespace foreshadow::io {
namespace {

template <typename Address>
sockaddr* generic(Address& address) {
  return static_cast<sockaddr*>(static_cast<void*>(&address));
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un out{};
  out.sun_family = AF_UNIX;
  std::memcpy(out.sun_path, path.data(), path.size());
  return out;
}

// A plain blocking client of a Listener::address(); empty if nobody answers.
UniqueFd connect_to(const std::string& address) {
  if (address.starts_with("unix:")) {
    sockaddr_un to = unix_address(address.substr(5));
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return ::connect(fd.get(), generic(to), sizeof to) == 0 ? std::move(fd) : UniqueFd();
  }
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  EXPECT_EQ(::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr), 1);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), generic(to), sizeof to) == 0 ? std::move(fd) : UniqueFd();
}

std::vector<std::byte> random_bytes(size_t n) {
  std::vector<std::byte> out(n);
  SeededRng rng(n);
  for (std::byte& b : out) b = static_cast<std::byte>(rng.next());
  return out;
}

void send_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      ADD_FAILURE() << "the client could not send";
      return;
    }
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
}

// Up to `n` bytes, fewer if the connection ends.
std::vector<std::byte> take_all(int fd, size_t n) {
  std::vector<std::byte> out(n);
  size_t got = 0;
  while (got < n) {
    const ssize_t received = ::recv(fd, out.data() + got, n - got, 0);
    if (received <= 0) break;
    got += static_cast<size_t>(received);
  }
  out.resize(got);
  return out;
}

struct StreamTest : testing::TestWithParam<const char*> {
  StreamTest() : scratch(ScratchDirectory::memory()), loop(make_test_loop()) {
    const bool on_unix = std::string(GetParam()) == "unix";
    auto made = on_unix ? listen_unix(*loop, path()) : listen_tcp(*loop, "127.0.0.1", 0);
    EXPECT_TRUE(made) << made.error().message;
    listener = std::move(*made);
  }
  // Below the memory directory, whose short path fits a socket address wherever the build directory is.
  std::string path() const { return scratch.at("s"); }
  std::unique_ptr<Stream> accept() {
    EXPECT_EQ(wait_for(*loop, [&](Op& op) { listener->accept(op); }), 0);
    return listener->take();
  }
  int receive(Stream& stream, std::span<std::byte> into) {
    return wait_for(*loop, [&](Op& op) { stream.receive(op, into); });
  }
  int receive_all(Stream& stream, std::span<std::byte> into) {
    return wait_for(*loop, [&](Op& op) { stream.receive_all(op, into); });
  }
  int send(Stream& stream, std::span<iovec> parts) {
    return wait_for(*loop, [&](Op& op) { stream.send(op, parts); });
  }
  ScratchDirectory scratch;
  std::unique_ptr<Loop> loop;
  std::unique_ptr<Listener> listener;
};
INSTANTIATE_TEST_SUITE_P(Kinds, StreamTest, testing::Values("unix", "tcp"),
                         [](const auto& value) { return std::string(value.param); });

TEST_P(StreamTest, MegabytesGoThereAndBackInManyParts) {
  constexpr size_t kBytes = 8u << 20;
  const std::vector<std::byte> data = random_bytes(kBytes);
  std::thread client([&] {
    const UniqueFd fd = connect_to(listener->address());
    send_all(fd.get(), data);
    EXPECT_EQ(take_all(fd.get(), kBytes + 1), data);
  });
  {
    std::unique_ptr<Stream> stream = accept();
    std::vector<std::byte> got(kBytes);
    for (size_t at = 0; at < kBytes;) {
      const int n = receive(*stream, std::span(got).subspan(at));
      ASSERT_GT(n, 0);
      at += static_cast<size_t>(n);
    }
    EXPECT_EQ(got, data);
    // More parts than one sendmsg takes, of uneven sizes, some empty: the socket takes them piece by piece.
    std::vector<iovec> parts;
    for (size_t at = 0; at < kBytes;) {
      const size_t length = std::min(kBytes - at, parts.size() % 5 == 0 ? 0 : 1 + parts.size() * 37 % 5000);
      parts.push_back({got.data() + at, length});
      at += length;
    }
    ASSERT_GT(parts.size(), 1024u * 3);
    EXPECT_EQ(send(*stream, parts), 0);
  }  // closed here, which ends the client's last read
  client.join();
}

TEST_P(StreamTest, ReceivingAllWaitsForTheWholeOrTheEnd) {
  constexpr size_t kBytes = 4u << 20;  // in many pieces, whatever the socket
  const std::vector<std::byte> data = random_bytes(kBytes + 3);
  std::thread client([&] {
    const UniqueFd fd = connect_to(listener->address());
    send_all(fd.get(), data);
  });
  std::unique_ptr<Stream> stream = accept();
  std::vector<std::byte> got(kBytes);
  EXPECT_EQ(receive_all(*stream, got), static_cast<int>(kBytes));
  EXPECT_TRUE(std::equal(got.begin(), got.end(), data.begin()));
  client.join();
  EXPECT_EQ(receive_all(*stream, got), 3);
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + 3, data.begin() + kBytes));
  EXPECT_EQ(receive_all(*stream, got), 0);
}

TEST_P(StreamTest, ShutDownEndsAReceiveOfAllWithWhatCame) {
  UniqueFd client = connect_to(listener->address());
  std::unique_ptr<Stream> stream = accept();
  send_all(client.get(), random_bytes(100));
  std::vector<std::byte> into(200);
  WaitOp receiving(*loop);
  stream->receive_all(receiving, into);
  loop->run_on_loop([&] { stream->shut_down(); });
  loop->run();
  EXPECT_EQ(receiving.calls, 1);
  EXPECT_TRUE(receiving.outcome == 100 || receiving.outcome == 0) << receiving.outcome;
}

TEST_P(StreamTest, ReceivingAndSendingGoOnAtTheSameTime) {
  constexpr size_t kBytes = 4u << 20;
  std::vector<std::byte> data = random_bytes(kBytes);
  UniqueFd client = connect_to(listener->address());
  std::unique_ptr<Stream> stream = accept();
  std::vector<std::byte> small(16);
  WaitOp receiving(*loop);
  WaitOp sending(*loop);
  receiving.done = [](Op* op, int given) { static_cast<WaitOp*>(op)->outcome = given; };
  stream->receive(receiving, small);
  iovec part{data.data(), data.size()};
  stream->send(sending, std::span(&part, 1));
  std::thread peer([&] {
    EXPECT_EQ(take_all(client.get(), kBytes), data);
    send_all(client.get(), random_bytes(5));
  });
  loop->run();
  peer.join();
  EXPECT_EQ(sending.outcome, 0);
  EXPECT_EQ(receiving.outcome, 5);
}

TEST_P(StreamTest, NothingToSendCompletesToo) {
  UniqueFd client = connect_to(listener->address());
  std::unique_ptr<Stream> stream = accept();
  EXPECT_EQ(send(*stream, {}), 0);
  iovec empty[2] = {};
  EXPECT_EQ(send(*stream, empty), 0);
}

TEST_P(StreamTest, ThePeersEndIsZeroAndSendingToItFails) {
  UniqueFd client = connect_to(listener->address());
  std::unique_ptr<Stream> stream = accept();
  send_all(client.get(), random_bytes(3));
  client = UniqueFd();
  std::vector<std::byte> into(16);
  EXPECT_EQ(receive(*stream, into), 3);
  EXPECT_EQ(receive(*stream, into), 0);
  std::vector<std::byte> data(8u << 20);
  iovec part{data.data(), data.size()};
  const int outcome = send(*stream, std::span(&part, 1));
  EXPECT_TRUE(outcome == -EPIPE || outcome == -ECONNRESET) << outcome;
  EXPECT_TRUE(code_from_errno(outcome) == Code::kUnavailable);
}

TEST_P(StreamTest, ShutDownEndsCallsInFlight) {
  UniqueFd client = connect_to(listener->address());
  std::unique_ptr<Stream> stream = accept();
  std::vector<std::byte> into(16);
  std::vector<std::byte> data(32u << 20);  // more than the sockets hold, and nobody reads
  iovec part{data.data(), data.size()};
  WaitOp receiving(*loop);
  WaitOp sending(*loop);
  stream->receive(receiving, into);
  stream->send(sending, std::span(&part, 1));
  loop->run_on_loop([&] { stream->shut_down(); });
  loop->run();
  EXPECT_EQ(receiving.calls, 1);
  EXPECT_EQ(receiving.outcome, 0);
  EXPECT_EQ(sending.calls, 1);
  EXPECT_LT(sending.outcome, 0);
  (void)take_all(client.get(), data.size());  // returns: the peer sees the end
}

TEST_P(StreamTest, ShutDownEndsCallsNotYetSubmitted) {
  UniqueFd client = connect_to(listener->address());
  std::unique_ptr<Stream> stream = accept();
  std::vector<std::byte> into(16);
  WaitOp receiving(*loop);
  stream->receive(receiving, into);
  stream->shut_down();
  loop->run();
  EXPECT_EQ(receiving.outcome, 0);
}

TEST_P(StreamTest, StoppingEndsAnAcceptInFlightAndRefusesPeers) {
  const std::string address = listener->address();
  WaitOp accepting(*loop);
  listener->accept(accepting);
  loop->run_on_loop([&] { listener->stop(); });
  loop->run();
  EXPECT_EQ(accepting.calls, 1);
  EXPECT_EQ(accepting.outcome, -ECANCELED);
  EXPECT_FALSE(connect_to(address));
  EXPECT_EQ(wait_for(*loop, [&](Op& op) { listener->accept(op); }), -ECANCELED);
  listener->stop();  // again: nothing more happens
}

TEST_P(StreamTest, StoppingEndsAnAcceptNotYetSubmitted) {
  UniqueFd client = connect_to(listener->address());
  WaitOp accepting(*loop);
  listener->accept(accepting);
  listener->stop();
  loop->run();
  EXPECT_EQ(accepting.outcome, -ECANCELED);
}

TEST_P(StreamTest, ConnectionsWaitInLineToBeAccepted) {
  std::vector<UniqueFd> clients;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 20; ++i) clients.push_back(connect_to(listener->address()));
  for (int i = 0; i < 20; ++i) streams.push_back(accept());
  for (size_t i = 0; i < clients.size(); ++i) {
    send_all(clients[i].get(), random_bytes(i + 1));
    std::vector<std::byte> into(64);
    EXPECT_EQ(receive(*streams[i], into), static_cast<int>(i + 1));
  }
}

struct ListenTest : testing::Test {
  ListenTest() : scratch(ScratchDirectory::memory()), loop(make_test_loop()) {}
  ScratchDirectory scratch;
  std::unique_ptr<Loop> loop;
};

TEST_F(ListenTest, AUnixSocketIsPrivateNamedAndRemoved) {
  const std::string path = scratch.at("s");
  auto listener = listen_unix(*loop, path);
  ASSERT_TRUE(listener) << listener.error().message;
  EXPECT_EQ((*listener)->address(), "unix:" + path);
  struct stat facts{};
  ASSERT_EQ(::lstat(path.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777, 0600u);
  listener->reset();
  EXPECT_NE(::lstat(path.c_str(), &facts), 0);
}

TEST_F(ListenTest, UnixPathsAreCheckedAtTheLimitAndPastIt) {
  const std::string prefix = scratch.path() + "/";
  const size_t limit = sizeof(sockaddr_un::sun_path) - 1;
  ASSERT_LT(prefix.size(), limit) << "the scratch path is too long for this test";
  EXPECT_TRUE(listen_unix(*loop, prefix + std::string(limit - prefix.size(), 'x')));
  auto longer = listen_unix(*loop, prefix + std::string(limit + 1 - prefix.size(), 'x'));
  EXPECT_EQ(longer.error().code, Code::kInvalidArgument);
  EXPECT_NE(longer.error().message.find("at most 107"), std::string::npos) << longer.error().message;
  EXPECT_EQ(listen_unix(*loop, "").error().code, Code::kInvalidArgument);
  EXPECT_EQ(listen_unix(*loop, std::string("\0abstract", 9)).error().code, Code::kInvalidArgument);
  EXPECT_EQ(listen_unix(*loop, scratch.at("none/s")).error().code, Code::kNotFound);
}

TEST_F(ListenTest, AStaleSocketIsReplacedALiveOneIsBusyAndOtherFilesStay) {
  const std::string path = scratch.at("s");
  {
    // Bound, but its owner goes without listening or removing the name.
    sockaddr_un address = unix_address(path);
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(dead.get(), generic(address), sizeof address), 0);
  }
  auto listener = listen_unix(*loop, path);
  ASSERT_TRUE(listener) << listener.error().message;
  auto second = listen_unix(*loop, path);
  EXPECT_EQ(second.error().code, Code::kBusy);
  EXPECT_NE(second.error().message.find(path), std::string::npos);
  EXPECT_TRUE(connect_to("unix:" + path));

  const std::string file = scratch.at("file");
  {
    std::ofstream(file) << "precious";
  }
  EXPECT_EQ(listen_unix(*loop, file).error().code, Code::kAlreadyExists);
  EXPECT_EQ(std::filesystem::file_size(file), 8u);
}

TEST_F(ListenTest, AStoppedListenerDoesNotRemoveItsSuccessor) {
  const std::string path = scratch.at("s");
  auto old_one = listen_unix(*loop, path);
  ASSERT_TRUE(old_one);
  (*old_one)->stop();
  auto successor = listen_unix(*loop, path);
  ASSERT_TRUE(successor) << successor.error().message;
  old_one->reset();
  EXPECT_TRUE(connect_to("unix:" + path));
}

TEST_F(ListenTest, TcpRefusesWhatIsNotLoopback) {
  for (const char* host :
       {"0.0.0.0", "192.168.1.1", "128.0.0.1", "126.255.255.255", "::", "::2", "example.com", "", "*",
        "127.0.0.1.example.com", "127.0.0", "::ffff:127.0.0.1", "localhost.example.com"}) {
    auto listener = listen_tcp(*loop, host, 0);
    ASSERT_FALSE(listener) << host;
    EXPECT_EQ(listener.error().code, Code::kInvalidArgument) << host;
    EXPECT_NE(listener.error().message.find(host), std::string::npos) << host;
  }
}

TEST_F(ListenTest, TcpTakesLoopbackAndSaysWhichPort) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "localhost"}) {
    auto listener = listen_tcp(*loop, host, 0);
    ASSERT_TRUE(listener) << listener.error().message;
    EXPECT_FALSE((*listener)->address().ends_with(":0"));
    EXPECT_TRUE(connect_to((*listener)->address())) << (*listener)->address();
  }
  auto v6 = listen_tcp(*loop, "::1", 0);
  EXPECT_TRUE(!v6 || (*v6)->address().starts_with("[::1]:"));  // this machine may have no IPv6
}

TEST_F(ListenTest, TcpReachesEveryAddressWhereThatIsAskedFor) {
  auto listener = listen_tcp(*loop, "0.0.0.0", 0, Reach::kAnywhere);
  ASSERT_TRUE(listener) << listener.error().message;
  const std::string address = (*listener)->address();
  EXPECT_TRUE(address.starts_with("0.0.0.0:"));
  EXPECT_TRUE(connect_to("127.0.0.1" + address.substr(address.rfind(':'))));
  for (const char* host : {"example.com", "", "*", "127.0.0", "::x"}) {
    EXPECT_EQ(listen_tcp(*loop, host, 0, Reach::kAnywhere).error().code, Code::kInvalidArgument) << host;
  }
}

TEST_F(ListenTest, ATcpPortInUseIsBusy) {
  auto listener = listen_tcp(*loop, "127.0.0.1", 0);
  ASSERT_TRUE(listener) << listener.error().message;
  const std::string address = (*listener)->address();
  const auto port = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
  EXPECT_EQ(listen_tcp(*loop, "127.0.0.1", port).error().code, Code::kBusy);
}

}  // namespace
}  // namespace foreshadow::io
