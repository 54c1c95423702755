// Measures what a volume of 1 TiB, all of it mapped, takes to open after kill -9 and to check, and prints one
// JSON object: `bench_open DIRECTORY`. The directory takes a sparse file of which about 600 MiB are written:
// the table. Its pages are written here as a checkpoint would have written them; then the real engine opens
// the volume, frees and writes clusters, flushes, and is killed.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "extent/recovery.h"
#include "extent/table_page.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "io/wait_for.h"
#include "volume/volume.h"

namespace foreshadow {
namespace {

constexpr uint32_t kClusters = 1u << 24;  // 1 TiB
constexpr uint32_t kChanges = 20'000;     // clusters freed and written before the kill
constexpr uint64_t kClusterBytes = 64 * kKiB;
constexpr const char* kFileName = "bench-open.seg";

[[noreturn]] void give_up(const std::string& what) {
  fmt::print(stderr, "bench_open: {}\n", what);
  std::fflush(stderr);
  ::_exit(1);
}

double seconds_since(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

template <typename T>
auto need(Result<T> result) {
  if (!result) give_up(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

struct Place {
  std::string directory;
  Uuid volume;
  Uuid segment;
};

std::unique_ptr<io::File> open_backing(io::Loop& loop, const Place& place) {
  auto directory = need(io::open_directory(loop, place.directory));
  return need(directory->open(kFileName, io::Directory::Mode::kReadWriteLocked));
}

std::unique_ptr<volume::Volume> open_volume(io::Loop& loop, const Place& place,
                                            std::unique_ptr<io::File> file) {
  std::vector<volume::SegmentFile> files;
  files.push_back({place.segment, std::move(file)});
  return std::move(need(io::wait_for(loop, volume::Volume::open(loop, std::move(files), {}))).volume);
}

// The table as a checkpoint leaves it: every physical cluster holds all of one logical cluster.
uint64_t write_table(io::Loop& loop, io::File& file, const extent::Recovered& volume, bool scattered) {
  const extent::SegmentRow& row = volume.segments[0].row;
  const extent::Layout& layout = volume.segments[0].layout;
  const io::Buffer block(extent::kMetaBlock);
  uint64_t digest = 0;
  for (uint32_t page = 0; page * extent::kTableEntries < kClusters; ++page) {
    extent::TablePage content;
    content.volume = volume.label.volume;
    content.segment = row.uuid;
    content.checkpoint = CkptSeq(1);
    content.page = page;
    content.pcn_base = row.pcn_base;
    for (uint32_t i = 0; i < extent::kTableEntries; ++i) {
      const uint32_t cluster = page * extent::kTableEntries + i;
      if (cluster >= kClusters) break;
      // An odd factor makes a permutation of the numbers below a power of two.
      const uint32_t lcn = scattered ? cluster * 2654435761u % kClusters : cluster;
      content.entries[i] = {Lcn(lcn), extent::kFullMask};
    }
    const uint32_t crc = extent::encode_page(content, block.span());
    digest += extent::page_digest(row.pcn_base, page, content.checkpoint, crc);
    struct Done {
      static io::Task<int> write(io::File& to, uint64_t at, std::span<const std::byte> bytes) {
        const int result = co_await io::write(to, at, bytes);
        co_return result;
      }
    };
    if (io::wait_for(loop, Done::write(file, layout.page_offset(page, 0), block.span())) < 0)
      give_up("a write failed");
  }
  return digest;
}

void make_volume(const Place& place, bool scattered) {
  auto loop = need(io::Loop::create());
  auto file = open_backing(*loop, place);
  volume::CreateOptions how;
  how.id = place.volume;
  how.name = "bench";
  how.size = kClusters * kClusterBytes;
  need(io::wait_for(*loop, volume::Volume::format_primary(*file, how, place.segment)));
  auto fresh = need(io::wait_for(*loop, extent::recover({file.get()})));
  extent::Superblock super = fresh->super;
  super.table_digest = write_table(*loop, *file, *fresh, scattered);
  super.checkpoint = CkptSeq(1);
  ++super.sequence;
  need(io::wait_for(*loop, extent::write_superblock(*file, super)));
}

// In a process of its own, which ends as by kill -9.
void change_and_die(const Place& place) {
  auto loop = need(io::Loop::create());
  auto volume = open_volume(*loop, place, open_backing(*loop, place));
  SeededRng rng(1);
  const io::Buffer memory(4096);
  std::fill(memory.span().begin(), memory.span().end(), std::byte{0x5a});
  struct Call : block::Request {
    io::Loop* loop;
    bool ended;
  };
  for (uint32_t i = 0; i < 2 * kChanges; ++i) {
    Call call{};
    call.kind = i % 2 == 0 ? block::OpKind::kTrim : block::OpKind::kWrite;
    call.offset = rng.below(kClusters) * kClusterBytes;
    call.length = i % 2 == 0 ? kClusterBytes : 4096;
    call.data = memory.first(i % 2 == 0 ? 0 : 4096);
    call.loop = loop.get();
    call.done = [](block::Request* request, Code code) {
      if (code != Code::kOk) give_up("a request failed");
      static_cast<Call*>(request)->ended = true;
      static_cast<Call*>(request)->loop->stop();
    };
    volume->submit(call);
    while (!call.ended) loop->run();
  }
  need(io::wait_for(*loop, volume->flush()));
  ::kill(::getpid(), SIGKILL);
}

void in_a_child(const std::function<void()>& work, bool killed) {
  const pid_t child = ::fork();
  if (child < 0) give_up("no process");
  if (child == 0) {
    work();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const bool as_meant = killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                               : WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!as_meant) give_up("a child failed");
}

std::string measure(const std::string& directory, bool scattered) {
  const std::string path = directory + "/" + kFileName;
  std::FILE* made = std::fopen(path.c_str(), "wx");
  if (made == nullptr) give_up(fmt::format("{} cannot be made", path));
  std::fclose(made);
  std::filesystem::resize_file(path, kClusters * kClusterBytes + 2 * kGiB);
  SystemRng rng;
  const Place place{directory, Uuid::random(rng), Uuid::random(rng)};
  in_a_child([&] { make_volume(place, scattered); }, false);
  in_a_child([&] { change_and_die(place); }, true);

  auto loop = need(io::Loop::create());
  auto file = open_backing(*loop, place);
  auto began = std::chrono::steady_clock::now();
  auto volume = open_volume(*loop, place, std::move(file));
  const double open_s = seconds_since(began);
  const volume::Usage usage = volume->usage();
  began = std::chrono::steady_clock::now();
  const extent::CheckReport report = need(io::wait_for(*loop, volume->check()));
  const double check_s = seconds_since(began);
  if (!report.ok()) give_up(report.findings.front());
  need(io::wait_for(*loop, volume->close()));
  volume.reset();
  std::filesystem::remove(path);
  return fmt::format(R"({{"scattered":{},"mapped_clusters":{},"open_ms":{:.1f},"check_ms":{:.1f},)"
                     R"("journal_records":{},"table_pages":{},"map_memory_bytes":{}}})",
                     scattered, report.clusters_mapped, open_s * 1e3, check_s * 1e3, report.journal_records,
                     report.table_pages, usage.map_memory);
}

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: bench_open DIRECTORY\n", stderr);
    return 2;
  }
  const std::string in_order = foreshadow::measure(argv[1], false);
  const std::string at_random = foreshadow::measure(argv[1], true);
  fmt::print("[{},{}]\n", in_order, at_random);
  return 0;
}
