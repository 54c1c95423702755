#include "extent/recovery.h"

namespace foreshadow::extent {

io::Task<CheckReport> check_segments(std::vector<io::File*> files, size_t base) {
  CheckReport report;
  auto recovered = co_await recover(std::move(files), base);
  if (!recovered) {
    report.findings.push_back(recovered.error().message);
    co_return report;
  }
  const Recovered& volume = **recovered;
  report.findings = volume.blemishes;
  report.journal_records = volume.journal_records;
  report.table_pages = volume.table_pages;
  report.checksum_pages = volume.checksum_pages;
  report.clusters_mapped = volume.map.mapped_clusters();
  uint64_t taken = 0;
  for (const RecoveredSegment& segment : volume.segments) {
    report.clusters_free += segment.allocator.free();
    taken += segment.allocator.taken();
  }
  report.clusters_squeezed = volume.containers.members();
  report.containers = volume.containers.count();
  // recover() has proven that each taken cluster has one owner; here that none is taken for nothing.
  const uint64_t owners = volume.map.mapped_clusters() + volume.map.multi_nodes();
  if (taken != owners - report.clusters_squeezed + report.containers) {
    report.findings.push_back("the number of clusters taken is not the number of clusters owned");
  }
  co_return report;
}

}  // namespace foreshadow::extent
