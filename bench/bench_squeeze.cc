// Measures squeezing of real files, and prints one JSON object: `bench_squeeze DIRECTORY SOURCE MIB`. About
// that many MiB of the files below SOURCE, every n-th of them in the order of their names, are written one
// after the other, each from a multiple of 4 KiB on, as a file system would; SOURCE may also be one file,
// such as an image. DIRECTORY takes the volume; nothing is left in it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/rng.h"
#include "bench/rig.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "volume/volume.h"

namespace foreshadow {
namespace {

namespace fs = std::filesystem;
using block::OpKind;
using volume::Volume;
using namespace bench;

constexpr uint64_t kCluster = 64 * kKiB;
constexpr uint64_t kBlock = 4096;
constexpr uint32_t kReads = 20'000;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
// The stream of files, padded to whole clusters.
std::vector<std::byte> gather(const fs::path& source, uint64_t bytes) {
  std::vector<std::pair<fs::path, uint64_t>> files;
  uint64_t total = 0;
  if (fs::is_regular_file(source)) {
    files.emplace_back(source, fs::file_size(source));
  } else {
    const auto options = fs::directory_options::skip_permission_denied;
    for (const auto& entry : fs::recursive_directory_iterator(source, options)) {
      std::error_code error;
      if (entry.is_symlink(error) || !entry.is_regular_file(error)) continue;
      files.emplace_back(entry.path(), align_up(entry.file_size(error), kBlock));
      total += files.back().second;
    }
  }
  std::sort(files.begin(), files.end());
  const uint64_t step = std::max<uint64_t>(1, total / std::max<uint64_t>(bytes, 1));
  std::vector<std::byte> out;
  out.reserve(bytes + kCluster);
  for (size_t i = 0; i < files.size() && out.size() < bytes; i += step) {
    std::ifstream in(files[i].first, std::ios::binary);
    const size_t at = out.size();
    out.resize(std::min<uint64_t>(at + align_up(files[i].second, kBlock), bytes));
    in.read(static_cast<char*>(static_cast<void*>(out.data() + at)),
            static_cast<std::streamsize>(out.size() - at));
  }
  out.resize(align_up(out.size(), kCluster));
  return out;
}

struct Bench {
  std::unique_ptr<io::Loop> loop = need(io::Loop::create());
  std::unique_ptr<Volume> volume;

  template <typename T>
  T wait(io::Task<T> task) {
    return wait_for(*loop, std::move(task));
  }
  void create(const std::string& directory, uint64_t bytes) {
    const Place place = new_place(directory, "bench-squeeze.seg");
    volume::CreateOptions how;
    how.size = align_up(bytes, kMiB);
    auto file = create_backing(*loop, place, align_up(bytes + bytes / 20 + 256 * kMiB, kBlock));
    format(*loop, *file, place, how);
    volume = open_volume(*loop, place.segment, std::move(file));
  }
};

// `depth` requests at a time until `count` are done; `prepare` makes the next one.
struct Stream {
  struct Slot : block::Request {
    Stream* stream = nullptr;
    io::Buffer memory;
    double began = 0;
  };
  Bench& bench;
  uint32_t depth;
  uint64_t count;
  std::function<void(Slot&)> prepare;
  std::function<void(Slot&)> finished = [](Slot&) {};
  uint64_t started = 0, ended = 0;
  std::vector<double> latency_us{};
  std::vector<std::unique_ptr<Slot>> slots{};

  void run() {
    for (uint32_t i = 0; i < depth && started < count; ++i) {
      slots.push_back(std::make_unique<Slot>());
      slots.back()->stream = this;
      slots.back()->memory = io::Buffer(kMiB);
      start(*slots.back());
    }
    while (ended < count) bench.loop->run();
  }
  void start(Slot& slot) {
    ++started;
    prepare(slot);
    slot.done = [](block::Request* request, Code code) {
      auto* done = static_cast<Slot*>(request);
      if (code != Code::kOk) std::abort();
      Stream& self = *done->stream;
      self.latency_us.push_back((now_s() - done->began) * 1e6);
      self.finished(*done);
      if (++self.ended == self.count) self.bench.loop->stop();
      if (self.started < self.count) self.start(*done);
    };
    slot.began = now_s();
    bench.volume->submit(slot);
  }
  double at(double share) {
    std::sort(latency_us.begin(), latency_us.end());
    return latency_us[static_cast<size_t>(share * static_cast<double>(latency_us.size() - 1))];
  }
};

void write_all(Bench& bench, const std::vector<std::byte>& data) {
  uint64_t next = 0;
  Stream stream{bench, 8, div_up(data.size(), kMiB), [&](Stream::Slot& slot) {
                  slot.kind = OpKind::kWrite;
                  slot.offset = next;
                  slot.length = std::min<uint64_t>(kMiB, data.size() - next);
                  slot.data = slot.memory.first(slot.length);
                  std::copy_n(data.begin() + static_cast<ptrdiff_t>(next), slot.length, slot.data.begin());
                  next += slot.length;
                }};
  stream.run();
  if (!bench.wait(bench.volume->flush())) std::abort();
}

std::string read_some(Bench& bench, const std::vector<std::byte>& data, uint32_t depth) {
  SeededRng rng(depth);
  const double cpu = cpu_seconds();
  const double began = now_s();
  Stream stream{bench, depth, kReads,
                [&](Stream::Slot& slot) {
                  slot.kind = OpKind::kRead;
                  slot.offset = rng.below(data.size() / kBlock) * kBlock;
                  slot.length = kBlock;
                  slot.data = slot.memory.first(kBlock);
                },
                [&](Stream::Slot& slot) {
                  if (std::equal(slot.data.begin(), slot.data.end(),
                                 data.begin() + static_cast<ptrdiff_t>(slot.offset)))
                    return;
                  fmt::print(stderr, "wrong data at {}\n", slot.offset);
                  std::abort();
                }};
  stream.run();
  return fmt::format(R"({{"depth":{},"p50_us":{:.0f},"p99_us":{:.0f},"iops":{:.0f},"cpu_us":{:.1f}}})", depth,
                     stream.at(0.5), stream.at(0.99), kReads / (now_s() - began),
                     (cpu_seconds() - cpu) * 1e6 / kReads);
}

double read_all(Bench& bench, const std::vector<std::byte>& data) {
  uint64_t next = 0;
  const double began = now_s();
  Stream stream{bench, 4, data.size() / kCluster,
                [&](Stream::Slot& slot) {
                  slot.kind = OpKind::kRead;
                  slot.offset = next;
                  slot.length = kCluster;
                  slot.data = slot.memory.first(kCluster);
                  next += kCluster;
                },
                [&](Stream::Slot& slot) {
                  const std::span<const std::byte> wanted(data.data() + slot.offset, kCluster);
                  if (crc32c(slot.data) == crc32c(wanted)) return;
                  fmt::print(stderr, "wrong data at {}\n", slot.offset);
                  std::abort();
                }};
  stream.run();
  return static_cast<double>(data.size()) / kMiB / (now_s() - began);
}

std::string measure(const std::string& directory, const std::vector<std::byte>& data,
                    extent::SqueezeCodec codec) {
  Bench bench;
  bench.create(directory, data.size());
  write_all(bench, data);
  const uint64_t logical = bench.volume->usage().used;
  const std::string raw1 = read_some(bench, data, 1);
  const std::string raw32 = read_some(bench, data, 32);
  const double raw_mib_s = read_all(bench, data);
  const double cpu = cpu_seconds();
  const double began = now_s();
  const Uuid segment = bench.volume->segments()[0].uuid;
  volume::SqueezeOptions options;
  options.how.codec = codec;
  const auto report = bench.wait(bench.volume->squeeze_segment(segment, options));
  if (!report) {
    fmt::print(stderr, "squeeze: {}\n", report.error().message);
    std::abort();
  }
  const double squeeze_s = now_s() - began;
  const double squeeze_cpu_s = cpu_seconds() - cpu;
  const volume::Usage usage = bench.volume->usage();
  const volume::Squeezed& squeezed = usage.squeezed;
  const std::string squeezed1 = read_some(bench, data, 1);
  const std::string squeezed32 = read_some(bench, data, 32);
  const double squeezed_mib_s = read_all(bench, data);
  const auto check = bench.wait(bench.volume->check());
  if (!check || !check->ok()) std::abort();
  if (!bench.wait(bench.volume->close())) std::abort();
  return fmt::format(
      R"({{"codec":"{}","logical":{},"physical":{},"ratio":{:.4f},"clusters":{},"squeezed":{},)"
      R"("incompressible":{},)"
      R"("alone":{},"blob_mean":{:.3f},"blob_stddev":{:.3f},"blob_p10":{:.3f},"blob_p90":{:.3f},)"
      R"("seconds":{:.2f},"mib_s":{:.0f},"cpu_ms_per_mib":{:.2f},"raw_read":[{},{}],"squeezed_read":[{},{}],)"
      R"("raw_sequential_mib_s":{:.0f},"squeezed_sequential_mib_s":{:.0f}}})",
      codec == extent::SqueezeCodec::kZstd ? "zstd" : "lz4", logical, usage.used,
      static_cast<double>(usage.used) / static_cast<double>(logical), report->taken, report->squeezed,
      report->incompressible, report->alone, squeezed.ratio_mean, squeezed.ratio_stddev, squeezed.ratio_p10,
      squeezed.ratio_p90, squeeze_s, static_cast<double>(logical) / kMiB / squeeze_s,
      squeeze_cpu_s * 1e3 / (static_cast<double>(logical) / kMiB), raw1, raw32, squeezed1, squeezed32,
      raw_mib_s, squeezed_mib_s);
}

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  using namespace foreshadow;
  if (argc != 4) {
    fmt::print(stderr, "Usage: bench_squeeze DIRECTORY SOURCE MIB\n");
    return 2;
  }
  const std::string directory = std::string(argv[1]) + "/bench-squeeze";
  const auto data = gather(argv[2], std::stoull(argv[3]) * kMiB);
  std::string out;
  for (const auto codec : {extent::SqueezeCodec::kLz4, extent::SqueezeCodec::kZstd}) {
    std::filesystem::create_directory(directory);
    out += (out.empty() ? "" : ",") + measure(directory, data, codec);
    std::filesystem::remove_all(directory);
  }
  fmt::print("{{\"squeeze\":[{}]}}\n", out);
  return 0;
}
