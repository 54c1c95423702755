// Measures what a volume of 1 TiB, all of it mapped, takes to open after kill -9 and to check, and prints one
// JSON object: `bench_open DIRECTORY [--checksums]`. The directory takes a sparse file of which about 600 MiB
// are written: the table; with checksums, about 1.6 GiB. Its pages are written here as a checkpoint would
// have written them; then the real engine opens the volume, frees and writes clusters, flushes, and is
// killed.
#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "base/rng.h"
#include "bench/rig.h"
#include "extent/checksum_page.h"
#include "extent/recovery.h"
#include "extent/table_page.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "volume/volume.h"

namespace foreshadow {
namespace {

constexpr uint32_t kClusters = 1u << 24;  // 1 TiB
constexpr uint32_t kChanges = 20'000;     // clusters freed and written before the kill
constexpr uint64_t kClusterBytes = 64 * kKiB;

using namespace bench;

// What a test writes page by page, a checkpoint or two of it; 1 MiB at a time.
class PageWriter {
 public:
  PageWriter(io::Loop& loop, io::File& file, uint64_t from) : loop_(loop), file_(file), at_(from) {}
  // The first place of the next page.
  std::span<std::byte> next() {
    if (used_ == memory_.size()) flush();
    const auto block = memory_.span().subspan(used_, extent::kMetaBlock);
    used_ += size_t{extent::kTableSlots} * extent::kMetaBlock;
    return block;
  }
  void flush() {
    if (wait_for(loop_, write()) < 0) give_up("a write failed");
    at_ += used_;
    used_ = 0;
  }

 private:
  io::Task<int> write() {
    for (size_t at = 0; at < used_; at += size_t{extent::kTableSlots} * extent::kMetaBlock) {
      const int result = co_await io::write(file_, at_ + at, memory_.span().subspan(at, extent::kMetaBlock));
      if (result < 0) co_return result;
    }
    co_return 0;
  }

  io::Loop& loop_;
  io::File& file_;
  uint64_t at_;
  size_t used_ = 0;
  io::Buffer memory_{kMiB};
};

// The table as a checkpoint leaves it: every physical cluster holds all of one logical cluster.
uint64_t write_table(PageWriter out, const extent::Recovered& volume, bool scattered) {
  const extent::SegmentRow& row = volume.segments[0].row;
  uint64_t digest = 0;
  for (uint32_t page = 0; page * extent::kTableEntries < kClusters; ++page) {
    extent::TablePage content;
    static_cast<extent::PageHead&>(content) = {volume.label.volume, row.uuid, CkptSeq(1), page, row.pcn_base};
    for (uint32_t i = 0; i < extent::kTableEntries; ++i) {
      const uint32_t cluster = page * extent::kTableEntries + i;
      if (cluster >= kClusters) break;
      // An odd factor makes a permutation of the numbers below a power of two.
      const uint32_t lcn = scattered ? cluster * 2654435761u % kClusters : cluster;
      content.entries[i] = {Lcn(lcn), extent::kFullMask};
    }
    const uint32_t crc = extent::encode_page(content, out.next());
    digest += extent::page_digest(row.pcn_base, page, content.checkpoint, crc);
  }
  out.flush();
  return digest;
}

// A checksum of everything.
uint64_t write_checksums(PageWriter out, const extent::Recovered& volume) {
  const extent::SegmentRow& row = volume.segments[0].row;
  extent::ChecksumValues values;
  values.fill(7);
  uint64_t digest = 0;
  for (uint32_t page = 0; page * extent::kChecksumClusters < kClusters; ++page) {
    const extent::PageHead head{volume.label.volume, row.uuid, CkptSeq(1), page, row.pcn_base};
    const uint32_t crc = extent::encode_checksum_page(head, values, out.next());
    digest += extent::checksum_page_digest(row.pcn_base, page, head.checkpoint, crc);
  }
  out.flush();
  return digest;
}

void make_volume(const Place& place, bool scattered, bool checksums) {
  auto loop = need(io::Loop::create());
  auto file = open_backing(*loop, place);
  volume::CreateOptions how;
  how.size = kClusters * kClusterBytes;
  how.checksums = checksums;
  format(*loop, *file, place, how);
  auto fresh = need(wait_for(*loop, extent::recover({file.get()})));
  const extent::Layout& layout = fresh->segments[0].layout;
  extent::Superblock super = fresh->super;
  super.table_digest = write_table({*loop, *file, layout.table_offset}, *fresh, scattered);
  if (checksums) super.table_digest += write_checksums({*loop, *file, layout.checksum_offset}, *fresh);
  super.checkpoint = CkptSeq(1);
  ++super.sequence;
  need(wait_for(*loop, extent::write_superblock(*file, super)));
}

// In a process of its own, which ends as by kill -9.
void change_and_die(const Place& place) {
  auto loop = need(io::Loop::create());
  auto volume = open_volume(*loop, place.segment, open_backing(*loop, place));
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
  need(wait_for(*loop, volume->flush()));
  ::kill(::getpid(), SIGKILL);
}

std::string measure(const std::string& directory, bool scattered, bool checksums) {
  const Place place = make_place(directory, "bench-open.seg", kClusters * kClusterBytes + 8 * kGiB);
  in_a_child([&] { make_volume(place, scattered, checksums); }, false);
  in_a_child([&] { change_and_die(place); }, true);

  auto loop = need(io::Loop::create());
  auto file = open_backing(*loop, place);
  auto began = std::chrono::steady_clock::now();
  const double cpu_before = cpu_seconds();
  auto volume = open_volume(*loop, place.segment, std::move(file));
  const double open_s = seconds_since(began);
  const double open_cpu_s = cpu_seconds() - cpu_before;
  const volume::Usage usage = volume->usage();
  began = std::chrono::steady_clock::now();
  const extent::CheckReport report = need(wait_for(*loop, volume->check()));
  const double check_s = seconds_since(began);
  if (!report.ok()) give_up(report.findings.front());
  need(wait_for(*loop, volume->close()));
  volume.reset();
  std::filesystem::remove(place.path());
  return fmt::format(R"({{"scattered":{},"checksums":{},"mapped_clusters":{},"open_ms":{:.1f},)"
                     R"("open_cpu_ms":{:.1f},"check_ms":{:.1f},"journal_records":{},"table_pages":{},)"
                     R"("checksum_pages":{},"map_memory_bytes":{}}})",
                     scattered, checksums, report.clusters_mapped, open_s * 1e3, open_cpu_s * 1e3,
                     check_s * 1e3, report.journal_records, report.table_pages, report.checksum_pages,
                     usage.map_memory);
}

}  // namespace
}  // namespace foreshadow

int main(int argc, char** argv) {
  const bool checksums = argc == 3 && std::string(argv[2]) == "--checksums";
  if (argc != (checksums ? 3 : 2)) {
    std::fputs("usage: bench_open DIRECTORY [--checksums]\n", stderr);
    return 2;
  }
  const std::string in_order = foreshadow::measure(argv[1], false, checksums);
  const std::string at_random = foreshadow::measure(argv[1], true, checksums);
  fmt::print("[{},{}]\n", in_order, at_random);
  return 0;
}
