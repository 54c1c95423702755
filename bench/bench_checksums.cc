// What data checksums cost the engine itself, without a server around it: random 4 KiB reads and overwrites
// at queue depth 32 of two volumes in one process, one with checksums and one without, turn about. Prints
// JSON.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "block/file_pool.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "io/task.h"
#include "io/wait_for.h"
#include "volume/volume.h"

namespace foreshadow {
namespace {

constexpr uint64_t kBytes = 256 * kMiB;
constexpr uint64_t kBlock = 4096;
constexpr uint32_t kDepth = 32;
constexpr uint32_t kRounds = 7;
constexpr uint32_t kRequests = 200'000;  // a round

[[noreturn]] void give_up(const std::string& what) {
  fmt::print(stderr, "bench_checksums: {}\n", what);
  std::exit(1);
}

double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

std::unique_ptr<volume::Volume> make(io::Loop& loop, block::Pool& pool, bool checksums) {
  SystemRng rng;
  volume::CreateOptions how;
  how.id = Uuid::random(rng);
  how.name = "bench";
  how.size = kBytes;
  how.checksums = checksums;
  const Uuid segment = Uuid::random(rng);
  auto file = pool.create(segment.str(), kBytes + 64 * kMiB);
  if (!file) give_up(file.error().message);
  auto formatted = io::wait_for(loop, volume::Volume::format_primary(**file, how, segment));
  if (!formatted) give_up(formatted.error().message);
  std::vector<volume::SegmentFile> files;
  files.push_back({segment, std::move(*file)});
  auto opened = io::wait_for(loop, volume::Volume::open(loop, std::move(files), {}));
  if (!opened) give_up(opened.error().message);
  return std::move(opened->volume);
}

// Keeps kDepth requests in flight until `count` are done.
class Load {
 public:
  Load(io::Loop& loop, volume::Volume& volume, block::OpKind kind, uint64_t block, bool in_order)
      : loop_(loop), volume_(volume), kind_(kind), block_(block), in_order_(in_order), requests_(kDepth) {
    for (Slot& slot : requests_) {
      slot.load = this;
      slot.memory = io::Buffer(block);
      std::fill(slot.memory.span().begin(), slot.memory.span().end(), std::byte{0x5c});
    }
  }
  void run(uint64_t count) {
    left_ = count;
    in_flight_ = 0;
    for (Slot& slot : requests_) next(slot);
    while (in_flight_ > 0) loop_.run();
  }

 private:
  struct Slot : block::Request {
    Load* load = nullptr;
    io::Buffer memory;
  };
  void next(Slot& slot) {
    if (left_ == 0) return;
    --left_;
    static_cast<block::Request&>(slot) = block::Request();
    slot.kind = kind_;
    slot.offset = (in_order_ ? at_++ : rng_.below(kBytes / block_)) * block_;
    slot.length = block_;
    slot.data = slot.memory.first(block_);
    slot.done = [](block::Request* request, Code code) {
      auto* done = static_cast<Slot*>(request);
      if (code != Code::kOk) give_up(fmt::format("a request failed: {}", name_of(code)));
      Load& load = *done->load;
      --load.in_flight_;
      load.next(*done);
      if (load.in_flight_ == 0) load.loop_.stop();
    };
    ++in_flight_;
    volume_.submit(slot);
  }

  io::Loop& loop_;
  volume::Volume& volume_;
  const block::OpKind kind_;
  const uint64_t block_;
  const bool in_order_;
  std::vector<Slot> requests_;
  SeededRng rng_{7};
  uint64_t at_ = 0;
  uint64_t left_ = 0;
  uint64_t in_flight_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string measure(io::Loop& loop, volume::Volume& off, volume::Volume& on, block::OpKind kind,
                    const char* name) {
  std::vector<double> without, with, ratios;
  for (uint32_t round = 0; round < kRounds; ++round) {
    double us[2] = {};
    for (const uint32_t turn : {round % 2, 1 - round % 2}) {
      Load load(loop, turn == 0 ? off : on, kind, kBlock, false);
      load.run(kRequests / 20);
      const double began = cpu_seconds();
      load.run(kRequests);
      us[turn] = (cpu_seconds() - began) * 1e6 / kRequests;
    }
    without.push_back(us[0]);
    with.push_back(us[1]);
    ratios.push_back(us[1] / us[0]);
  }
  return fmt::format(R"({{"kind":"{}","off_us":{:.3f},"on_us":{:.3f},"ratio":{:.3f}}})", name,
                     median(without), median(with), median(ratios));
}

void run(const std::string& directory) {
  auto loop = io::Loop::create();
  if (!loop) give_up(loop.error().message);
  auto opened = io::open_directory(**loop, directory);
  if (!opened) give_up(opened.error().message);
  auto pool = block::FilePool::open(*Name::parse("bench"), std::move(*opened), 0);
  if (!pool) give_up(pool.error().message);
  auto off = make(**loop, **pool, false);
  auto on = make(**loop, **pool, true);
  for (volume::Volume* volume : {off.get(), on.get()}) {
    Load(**loop, *volume, block::OpKind::kWrite, kMiB, true).run(kBytes / kMiB);
    auto kept = io::wait_for(**loop, volume->checkpoint());
    if (!kept) give_up(kept.error().message);
  }
  const std::string reads = measure(**loop, *off, *on, block::OpKind::kRead, "read");
  const std::string writes = measure(**loop, *off, *on, block::OpKind::kWrite, "overwrite");
  fmt::print("{{\"checksums\":[{},{}]}}\n", reads, writes);
  for (volume::Volume* volume : {off.get(), on.get()}) {
    auto closed = io::wait_for(**loop, volume->close());
    if (!closed) give_up(closed.error().message);
  }
}

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: bench_checksums DIRECTORY   (empty; what is made there is left)\n", stderr);
    return 2;
  }
  foreshadow::run(argv[1]);
  return 0;
}
