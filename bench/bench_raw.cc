// `foreshadow-bench-raw DIRECTORY FILE SOCKET`: serves an existing file as export "raw" with the NBD server
// of foreshadow and nothing between, until it is told to end by SIGTERM or SIGINT.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/names.h"
#include "block/block_device.h"
#include "io/executor.h"
#include "io/file.h"
#include "io/loop.h"
#include "io/stream.h"
#include "nbd/server.h"

namespace foreshadow {
namespace {

// A BlockDevice of whole 4 KiB blocks over a File that takes them. No map, no lock, no journal: the least
// that serving a file can cost. Trim is accepted and does nothing; zero is not supported. One executor.
class RawDevice final : public block::BlockDevice {
 public:
  RawDevice(io::Executor& executor, std::unique_ptr<io::File> file)
      : executor_(executor), file_(std::move(file)) {}

  block::DeviceInfo info() const override {
    block::DeviceInfo out;
    out.size = file_->size();
    out.description = "a file as it is";
    return out;
  }

  void submit(block::Request& request) override {
    Transfer& transfer = take();
    transfer.request = &request;
    switch (request.kind) {
      case block::OpKind::kRead:
        return file_->read(transfer, request.offset, request.data);
      case block::OpKind::kWrite:
        if (request.fua) return file_->write_durable(transfer, request.offset, request.data);
        return file_->write(transfer, request.offset, request.data);
      case block::OpKind::kFlush:
        return file_->sync(transfer);
      case block::OpKind::kZero:
        transfer.refused = true;
        break;
      case block::OpKind::kTrim:
        break;
    }
    executor_.post(transfer);
  }

  bool read_now(uint64_t offset, std::span<std::byte> data) override { return file_->read_now(offset, data); }
  bool write_now(uint64_t offset, std::span<const std::byte> data) override {
    return file_->write_now(offset, data);
  }

  std::vector<block::Extent> extents(uint64_t, uint64_t length, size_t) const override {
    return {{length, false}};
  }

 private:
  struct Transfer : io::Op {
    RawDevice* device = nullptr;
    block::Request* request = nullptr;
    bool refused = false;
  };

  Transfer& take() {
    if (idle_.empty()) {
      all_.push_back(std::make_unique<Transfer>());
      all_.back()->device = this;
      all_.back()->done = [](io::Op* op, int result) {
        auto* transfer = static_cast<Transfer*>(op);
        transfer->device->finish(*transfer, result);
      };
      idle_.push_back(all_.back().get());
    }
    Transfer* out = idle_.back();
    idle_.pop_back();
    out->refused = false;
    return *out;
  }

  void finish(Transfer& transfer, int result) {
    idle_.push_back(&transfer);
    const Code code = transfer.refused ? Code::kUnsupported : result < 0 ? Code::kIo : Code::kOk;
    block::Request& request = *transfer.request;
    request.done(&request, code);
  }

  io::Executor& executor_;
  std::unique_ptr<io::File> file_;
  std::vector<std::unique_ptr<Transfer>> all_;
  std::vector<Transfer*> idle_;
};

int fail_with(const std::string& why) {
  fmt::print(stderr, "foreshadow-bench-raw: {}\n", why);
  return 1;
}

int serve(const std::string& directory, const std::string& name, const std::string& socket) {
  // Blocked before any thread exists, so that only sigwait() gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto loop = io::Loop::create();
  if (!loop) return fail_with(loop.error().message);
  io::Loop& executor = **loop;
  auto files = io::open_directory(executor, directory);
  if (!files) return fail_with(files.error().message);
  auto file = (*files)->open(name, io::Directory::Mode::kReadWriteLocked);
  if (!file) return fail_with(file.error().message);
  RawDevice device(executor, std::move(*file));
  std::optional<nbd::Server> server(executor);
  auto added = server->add_export(*Name::parse("raw"), device);
  if (!added) return fail_with(added.error().message);
  auto listener = io::listen_unix(executor, socket);
  if (!listener) return fail_with(listener.error().message);
  server->add_listener(std::move(*listener));

  std::thread waiter([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    executor.run_on_loop([&] { server->stop([&] { executor.stop(); }); });
  });
  executor.run();
  waiter.join();
  server.reset();
  return 0;
}

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: foreshadow-bench-raw DIRECTORY FILE SOCKET\n", stderr);
    return 2;
  }
  return foreshadow::serve(argv[1], argv[2], argv[3]);
}
