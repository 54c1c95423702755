// What VolumeSet does for volumes over an image, and for the policy at the wall. Where the image is, the
// label of the volume's head says; the image itself is opened with the writer's lock, and never removed.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "agent/agent_limits.h"
#include "agent/same_file.h"
#include "agent/volume_set.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/names.h"
#include "base/size.h"

namespace foreshadow::agent {
namespace {

// The head of a volume over an image: what the volume's first data that is not in the image takes, and the
// image's table.
constexpr uint64_t kHeadBytes = 256 * kMiB;

uint64_t head_size(uint64_t image_bytes) {
  const uint64_t table =
      extent::base_table_pages(image_bytes, extent::Geometry()) * extent::kTableSlots * extent::kMetaBlock;
  return align_up(kHeadBytes + table, kMiB);
}

// A write into the image must not find the file system full: what a sparse file has no space for is to be
// reserved before.
Status check_holes(const std::string& path) {
  constexpr uint64_t kStatBlock = 512;
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0 || !S_ISREG(facts.st_mode)) return {};
  const auto size = static_cast<uint64_t>(facts.st_size);
  const uint64_t there = static_cast<uint64_t>(facts.st_blocks) * kStatBlock;
  if (there >= size) return {};
  return fail(Code::kFailedPrecondition,
              fmt::format("device {} is sparse: {} of it have no space yet, and a write there could fail; "
                          "`fallocate -l {} {}` reserves it and changes nothing",
                          path, format_size(size - there), size, path));
}

}  // namespace

Status VolumeSet::check_device(const VolumeSpec& spec) const {
  if (spec.device.front() != '/' || spec.device.size() > extent::kBasePathBytes ||
      spec.device.find('\0') != std::string::npos) {
    return fail(Code::kInvalidArgument,
                fmt::format("device {}: expected an absolute path of at most {} bytes",
                            foreshadow::quoted(spec.device), extent::kBasePathBytes));
  }
  return {};
}

// The images of all volumes, those that cannot be served, or are away, included.
std::vector<std::pair<std::string, std::string>> VolumeSet::images() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const v1::Volume& other : reports()) {
    if (!other.base_path().empty()) out.emplace_back(other.base_path(), other.name());
  }
  for (const state::VolumeRecord& record : catalog_.records()) {
    if (!record.base_path().empty()) out.emplace_back(record.base_path(), record.name());
  }
  return out;
}

io::Task<Result<volume::SegmentFile>> VolumeSet::open_image(VolumeSpec& spec) {
  volume::SegmentFile out;
  if (spec.device.empty()) co_return out;
  const Status good = check_device(spec);
  if (!good) co_return tl::unexpected(good.error());
  const auto taken = images();
  Offload open(loop_, [&]() -> Result<std::unique_ptr<io::File>> {
    for (const auto& [path, name] : taken) {
      if (is_same_file(path, spec.device)) {
        return fail(Code::kAlreadyExists,
                    fmt::format("device {} belongs to volume {} already", spec.device, name));
      }
    }
    return io::open_device(loop_, spec.device, io::Directory::Mode::kReadWriteLocked);
  });
  auto file = co_await open;
  if (!file) co_return tl::unexpected(file.error());
  const Status judged = co_await volume::Volume::check_image(**file, extent::Geometry());
  if (!judged) {
    co_return fail(judged.error().code, fmt::format("device {}: {}", spec.device, judged.error().message));
  }
  const uint64_t bytes = (*file)->size();
  if (bytes > foreshadow::limits::kSegmentSizeMax) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("device {} has {}: at most {}", spec.device, format_size(bytes),
                               format_size(foreshadow::limits::kSegmentSizeMax)));
  }
  if (spec.size == 0) spec.size = bytes;
  if (spec.size < bytes) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("size {}: device {} has {} already", format_size(spec.size), spec.device,
                               format_size(bytes)));
  }
  if (spec.primary_size == 0) spec.primary_size = head_size(bytes);
  Offload look(loop_, [&] { return check_holes(spec.device); });
  const Status whole = co_await look;
  if (!whole) co_return tl::unexpected(whole.error());
  out.uuid = Uuid::random(rng_);
  out.file = std::move(*file);
  out.is_base = true;
  co_return out;
}

io::Task<Status> VolumeSet::add_base(std::vector<volume::SegmentFile>& files) {
  std::optional<extent::BaseArea> base;
  for (const volume::SegmentFile& segment : files) {
    std::string blemish;
    const auto label = co_await extent::read_label(*segment.file, &blemish);
    if (label && label->segment != segment.uuid) {
      co_return fail(Code::kCorrupt,
                     fmt::format("the backing named for segment {} is that of segment {}: was it renamed?",
                                 segment.uuid.str(), label->segment.str()));
    }
    if (label && label->base) base = label->base;
  }
  if (!base) co_return Status{};
  Offload open(loop_,
               [&] { return io::open_device(loop_, base->path, io::Directory::Mode::kReadWriteLocked); });
  auto file = co_await open;
  if (!file) {
    co_return fail(file.error().code, fmt::format("its image: {}", file.error().message));
  }
  volume::SegmentFile image;
  image.uuid = base->uuid;
  image.file = std::move(*file);
  image.is_base = true;
  files.push_back(std::move(image));
  co_return Status{};
}

// One that cannot be opened cannot tell what is where: then everything outside the image may be lost.
Status VolumeSet::check_removal(const Uuid& id, bool force) const {
  if (force) return {};
  const std::shared_ptr<VolumeHost> host = find(id);
  const BrokenVolume* broken = find_broken(id);
  const v1::Volume report = host != nullptr     ? host->report()
                            : broken != nullptr ? broken->report
                                                : v1::Volume();
  if (report.base_path().empty() || (host != nullptr && report.outside_base() == 0)) return {};
  return fail(
      Code::kFailedPrecondition,
      fmt::format("volume {} has {} of data that is not in its image {}; fold it first, or lose it by force",
                  report.name(), host != nullptr ? format_size(report.outside_base()) : "an unknown amount",
                  report.base_path()));
}

io::Task<Status> VolumeSet::set_wall(Uuid id, uint32_t hold_timeout_ms,
                                     const v1::Backpressure* backpressure) {
  const std::shared_ptr<VolumeHost> host = find(id);
  if (host == nullptr) co_return fail(Code::kNotFound, fmt::format("volume {} is not served", id.str()));
  if (hold_timeout_ms > limits::kHoldTimeoutMsMax) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("volume {}: hold timeout {} ms: at most {}", host->name(), hold_timeout_ms,
                               limits::kHoldTimeoutMsMax));
  }
  state::VolumeRecord record;
  if (const state::VolumeRecord* known = catalog_.record(id)) record = *known;
  record.set_id(id.str());
  record.set_name(host->name());
  if (hold_timeout_ms != 0) record.set_hold_timeout_ms(hold_timeout_ms);
  if (backpressure != nullptr) {
    record.set_has_band(true);
    record.set_band_bytes(backpressure->bytes());
    record.set_band_percent(backpressure->percent());
  }
  const Status noted = co_await catalog_.put_record(std::move(record));
  if (!noted) co_return noted;
  host->volume().set_wall(run_options(id));
  co_return Status{};
}

}  // namespace foreshadow::agent
