// What data checksums cost the engine itself, without a server around it: random 4 KiB reads and overwrites
// at queue depth 32 of two volumes in one process, one with checksums and one without, turn about. Prints
// JSON.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "bench/rig.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "volume/volume.h"

namespace foreshadow {
namespace {

constexpr uint64_t kBytes = 256 * kMiB;
constexpr uint64_t kBlock = 4096;
constexpr uint32_t kDepth = 32;
constexpr uint32_t kRounds = 7;
constexpr uint32_t kRequests = 200'000;  // a round

using namespace bench;

std::unique_ptr<volume::Volume> make(io::Loop& loop, const std::string& directory, bool checksums) {
  const Place place = new_place(directory, checksums ? "bench-checked.seg" : "bench-plain.seg");
  volume::CreateOptions how;
  how.size = kBytes;
  how.checksums = checksums;
  auto file = create_backing(loop, place, kBytes + 64 * kMiB);
  format(loop, *file, place, how);
  return open_volume(loop, place.segment, std::move(file));
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
  const auto loop = need(io::Loop::create());
  auto off = make(*loop, directory, false);
  auto on = make(*loop, directory, true);
  for (volume::Volume* volume : {off.get(), on.get()}) {
    Load(*loop, *volume, block::OpKind::kWrite, kMiB, true).run(kBytes / kMiB);
    need(wait_for(*loop, volume->checkpoint()));
  }
  const std::string reads = measure(*loop, *off, *on, block::OpKind::kRead, "read");
  const std::string writes = measure(*loop, *off, *on, block::OpKind::kWrite, "overwrite");
  fmt::print("{{\"checksums\":[{},{}]}}\n", reads, writes);
  for (volume::Volume* volume : {off.get(), on.get()}) need(wait_for(*loop, volume->close()));
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
