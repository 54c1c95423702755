// `foreshadow-bench-fua URI SIZE SECONDS DEPTH`: random 4 KiB writes that must be durable each (the FUA of
// NBD, which fio's engine does not know), DEPTH at a time, over the first SIZE bytes. Prints one JSON object.
#include <fmt/format.h>
#include <libnbd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace foreshadow {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kBlock = 4096;

[[noreturn]] void give_up() {
  fmt::print(stderr, "foreshadow-bench-fua: {}\n", nbd_get_error());
  std::exit(1);
}

class Load {
 public:
  Load(const char* uri, uint64_t blocks, size_t depth) : blocks_(blocks), places_(depth), random_(1) {
    handle_ = nbd_create();
    if (handle_ == nullptr || nbd_connect_uri(handle_, uri) == -1) give_up();
    if (nbd_can_fua(handle_) != 1) {
      fmt::print(stderr, "foreshadow-bench-fua: the server has no FUA\n");
      std::exit(1);
    }
    for (Place& place : places_) {
      place.load = this;
      place.data.assign(kBlock, 'x');
    }
  }
  ~Load() { nbd_close(handle_); }

  void run(std::chrono::seconds time) {
    began_ = Clock::now();
    end_ = began_ + time;
    for (Place& place : places_) start(place);
    while (in_flight_ > 0) {
      if (nbd_poll(handle_, -1) == -1) give_up();
      for (Place* place : std::exchange(ready_, {})) {
        if (Clock::now() < end_) start(*place);
      }
    }
    ended_ = Clock::now();
  }

  void print() {
    std::sort(latencies_us_.begin(), latencies_us_.end());
    const auto percentile = [&](double p) {
      return latencies_us_[static_cast<size_t>(p * static_cast<double>(latencies_us_.size() - 1))];
    };
    const double seconds = std::chrono::duration<double>(ended_ - began_).count();
    fmt::print(R"({{"ios":{},"iops":{:.0f},"p50_us":{:.0f},"p99_us":{:.0f}}})"
               "\n",
               latencies_us_.size(), static_cast<double>(latencies_us_.size()) / seconds, percentile(0.5),
               percentile(0.99));
  }

 private:
  struct Place {
    Load* load = nullptr;
    std::string data;
    Clock::time_point since;
  };

  void start(Place& place) {
    place.since = Clock::now();
    ++in_flight_;
    nbd_completion_callback done{};
    done.user_data = &place;
    done.callback = [](void* data, int* error) {
      auto* ended = static_cast<Place*>(data);
      if (*error != 0) {
        fmt::print(stderr, "foreshadow-bench-fua: a write failed with error {}\n", *error);
        std::exit(1);
      }
      ended->load->finish(*ended);
      return 1;  // libnbd forgets the command
    };
    const uint64_t offset = random_.below(blocks_) * kBlock;
    if (nbd_aio_pwrite(handle_, place.data.data(), kBlock, offset, done, LIBNBD_CMD_FLAG_FUA) == -1)
      give_up();
  }

  // Inside nbd_poll(): the next one starts after it.
  void finish(Place& place) {
    --in_flight_;
    latencies_us_.push_back(std::chrono::duration<double, std::micro>(Clock::now() - place.since).count());
    ready_.push_back(&place);
  }

  nbd_handle* handle_ = nullptr;
  const uint64_t blocks_;
  std::vector<Place> places_;
  SeededRng random_;
  std::vector<Place*> ready_;
  std::vector<double> latencies_us_;
  size_t in_flight_ = 0;
  Clock::time_point began_, end_, ended_;
};

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: foreshadow-bench-fua URI SIZE SECONDS DEPTH\n", stderr);
    return 2;
  }
  using namespace foreshadow;
  Load load(argv[1], std::strtoull(argv[2], nullptr, 10) / kBlock, std::strtoull(argv[4], nullptr, 10));
  load.run(std::chrono::seconds(std::strtoull(argv[3], nullptr, 10)));
  load.print();
  return 0;
}
