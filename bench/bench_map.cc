// Measures the map and recovery, and prints one JSON object: `bench_map DIRECTORY`. The directory takes a
// sparse file that comes to hold about 4 GiB; nothing is left in it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "bench/rig.h"
#include "extent/map.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "volume/volume.h"

namespace foreshadow {
namespace {

constexpr uint32_t kClusterBytes = 64u << 10;
constexpr uint32_t kBlockBytes = 4096;
constexpr uint32_t kRecoveredClusters = 1u << 20;
constexpr uint64_t kBackingBytes = 70ull << 30;  // sparse: 64 GiB of clusters, tables and journal
constexpr size_t kInFlight = 128;

using namespace bench;

std::vector<uint32_t> shuffled(uint32_t count, SeededRng& rng) {
  std::vector<uint32_t> out(count);
  std::iota(out.begin(), out.end(), 0u);
  for (uint32_t i = count; i > 1; --i) std::swap(out[i - 1], out[rng.below(i)]);
  return out;
}

// One map of `clusters`, all of them mapped. Scattered: by first touches of 4 KiB in random order, each to a
// random physical cluster. Sequential: whole clusters in order, as a large file or an image leaves them.
std::string measure_map(uint32_t clusters, bool scattered) {
  SeededRng rng(clusters);
  std::vector<uint32_t> order(clusters);
  std::iota(order.begin(), order.end(), 0u);
  if (scattered) order = shuffled(clusters, rng);
  extent::Map map(clusters);
  auto began = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < clusters; ++i) {
    const uint16_t mask = scattered ? 1 : extent::kFullMask;
    map.set(Lcn(order[i]), {Pcn(i + 1), Pcn(0), mask, 0});
  }
  const double insert_s = seconds_since(began);

  // Where to look is drawn beforehand. First as a busy loop does it, look-ups overlapping in the processor;
  // then each waiting for the one before it, which is the worst case: two dependent cache misses.
  constexpr uint32_t kLookups = 4u << 20;
  std::vector<uint32_t> where(kLookups);
  for (uint32_t& lcn : where) lcn = static_cast<uint32_t>(rng.below(clusters));
  uint32_t chain = 0;
  began = std::chrono::steady_clock::now();
  for (const uint32_t lcn : where) chain += map.get(Lcn(lcn)).a.v;
  const double lookup_s = seconds_since(began);
  began = std::chrono::steady_clock::now();
  for (const uint32_t lcn : where) {
    const extent::Mapping found = map.get(Lcn(lcn ^ (chain & 1)));
    chain = found.a.v;
  }
  const double chained_s = seconds_since(began);
  const double mapped_tib = static_cast<double>(clusters) * kClusterBytes / (1ull << 40);
  return fmt::format(
      R"({{"clusters":{},"scattered":{},"insert_ns":{:.1f},"lookup_ns":{:.1f},"lookup_chained_ns":{:.1f},)"
      R"("memory_bytes_per_mapped_tib":{:.0f},"last_seen":{}}})",
      clusters, scattered, insert_s * 1e9 / clusters, lookup_s * 1e9 / kLookups, chained_s * 1e9 / kLookups,
      static_cast<double>(map.memory_bytes()) / mapped_tib, chain);
}

// A file that counts what is read through it.
class CountingFile final : public io::File {
 public:
  CountingFile(std::unique_ptr<io::File> below, uint64_t& bytes_read)
      : below_(std::move(below)), read_(bytes_read) {}
  void read(io::Op& op, uint64_t offset, std::span<std::byte> into) override {
    read_ += into.size();
    below_->read(op, offset, into);
  }
  void write(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    below_->write(op, offset, from);
  }
  void write_durable(io::Op& op, uint64_t offset, std::span<const std::byte> from) override {
    below_->write_durable(op, offset, from);
  }
  void sync(io::Op& op) override { below_->sync(op); }
  uint64_t size() const override { return below_->size(); }
  uint32_t alignment() const override { return below_->alignment(); }
  Status resize(uint64_t bytes) override { return below_->resize(bytes); }

 private:
  std::unique_ptr<io::File> below_;
  uint64_t& read_;
};

// Writes one block into every cluster of the volume, in the order given, kInFlight at a time.
class Writer {
 public:
  Writer(io::Loop& loop, volume::Volume& volume, std::vector<uint32_t> order)
      : loop_(loop), volume_(volume), order_(std::move(order)), requests_(kInFlight), memory_(kBlockBytes) {}

  void run() {
    // Not zeros: a volume need not keep those.
    std::fill_n(memory_.data(), kBlockBytes, std::byte{0x5a});
    for (Request& request : requests_) {
      request.kind = block::OpKind::kWrite;
      request.length = kBlockBytes;
      request.data = memory_.first(kBlockBytes);
      request.writer = this;
      request.done = [](block::Request* done, Code code) {
        auto* self = static_cast<Request*>(done);
        if (code != Code::kOk) give_up("a write failed");
        if (++self->writer->done_ == self->writer->order_.size()) self->writer->loop_.stop();
        self->writer->submit_next(*self);
      };
      submit_next(request);
    }
    while (done_ < order_.size()) loop_.run();
  }

 private:
  struct Request : block::Request {
    Writer* writer = nullptr;
  };
  void submit_next(Request& request) {
    if (next_ == order_.size()) return;
    request.offset = uint64_t{order_[next_++]} * kClusterBytes;
    volume_.submit(request);
  }

  io::Loop& loop_;
  volume::Volume& volume_;
  const std::vector<uint32_t> order_;
  std::vector<Request> requests_;
  io::Buffer memory_;
  size_t next_ = 0;
  size_t done_ = 0;
};

// In a process of its own, which ends as by kill -9: everything flushed, nothing closed.
void fill_and_die(const Place& place, bool scattered) {
  auto loop = need(io::Loop::create());
  auto file = open_backing(*loop, place);
  volume::CreateOptions how;
  how.size = uint64_t{kRecoveredClusters} * kClusterBytes;
  format(*loop, *file, place, how);
  auto volume = open_volume(*loop, place.segment, std::move(file));
  SeededRng rng(1);
  std::vector<uint32_t> order(kRecoveredClusters);
  std::iota(order.begin(), order.end(), 0u);
  if (scattered) order = shuffled(kRecoveredClusters, rng);
  Writer(*loop, *volume, std::move(order)).run();
  need(wait_for(*loop, volume->flush()));
  ::kill(::getpid(), SIGKILL);
}

std::string measure_recovery(const std::string& directory, bool scattered) {
  const Place place = make_place(directory, "bench-map.seg", kBackingBytes);
  in_a_child([&] { fill_and_die(place, scattered); }, true);

  auto loop = need(io::Loop::create());
  uint64_t bytes_read = 0;
  auto file = std::make_unique<CountingFile>(open_backing(*loop, place), bytes_read);
  auto recovered = need(wait_for(*loop, extent::recover({file.get()})));
  const uint64_t records = recovered->journal_records;
  const uint64_t pages = recovered->table_pages;
  recovered.reset();
  bytes_read = 0;
  const auto began = std::chrono::steady_clock::now();
  auto volume = open_volume(*loop, place.segment, std::move(file));
  const double open_s = seconds_since(began);
  const uint64_t read_to_open = bytes_read;
  const volume::Usage usage = volume->usage();
  if (usage.used != uint64_t{kRecoveredClusters} * kClusterBytes) {
    give_up(fmt::format("{} bytes in use after recovery, expected {}", usage.used,
                        uint64_t{kRecoveredClusters} * kClusterBytes));
  }
  need(wait_for(*loop, volume->close()));
  volume.reset();
  std::filesystem::remove(place.path());
  return fmt::format(R"({{"clusters":{},"scattered":{},"open_ms":{:.1f},"bytes_read":{},)"
                     R"("table_pages":{},"journal_records":{},"map_memory_bytes":{}}})",
                     kRecoveredClusters, scattered, open_s * 1e3, read_to_open, pages, records,
                     usage.map_memory);
}

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: bench_map DIRECTORY\n", stderr);
    return 2;
  }
  using foreshadow::measure_map;
  using foreshadow::measure_recovery;
  std::string maps;
  for (const uint32_t clusters : {1u << 20, 1u << 24}) {
    for (const bool scattered : {false, true}) {
      maps += (maps.empty() ? "" : ",") + measure_map(clusters, scattered);
    }
  }
  const std::string in_order = measure_recovery(argv[1], false);
  const std::string at_random = measure_recovery(argv[1], true);
  fmt::print("{{\"map\":[{}],\"recovery\":[{},{}]}}\n", maps, in_order, at_random);
  return 0;
}
