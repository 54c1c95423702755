#include "block/file_pool.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/size.h"

namespace foreshadow::block {
namespace {

constexpr std::string_view kSuffix = ".seg";

std::string file_name(const std::string& backing) {
  return backing + std::string(kSuffix);
}

}  // namespace

Result<std::unique_ptr<Pool>> FilePool::open(Name name, std::unique_ptr<io::Directory> directory,
                                             uint64_t capacity) {
  std::unique_ptr<FilePool> pool(new FilePool(std::move(name), std::move(directory), capacity));
  TRY(pool->usage());  // refuse a directory that cannot be read now, not at the first grant
  return pool;
}

Status FilePool::check_room(uint64_t bytes, std::string_view what) {
  ASSIGN_OR_RETURN(const PoolUsage now, usage());
  const uint64_t free = now.capacity - std::min(now.used, now.capacity);
  if (bytes <= free) return {};
  return fail(Code::kNoSpace,
              fmt::format("pool {} has {} free of {}: no room {} {}", name_.str(), format_size(free),
                          format_size(now.capacity), what, format_size(bytes)));
}

Status FilePool::set_aside(const std::string& backing, uint64_t size) {
  ASSIGN_OR_RETURN(const uint64_t now, directory_->size_of(file_name(backing)));
  TRY(check_room(size - std::min(size, now), "for a segment to grow by"));
  aside_[backing] = size;
  return {};
}

Result<std::unique_ptr<io::File>> FilePool::create(const std::string& backing, uint64_t size) {
  TRY(check_room(size, "for a segment of"));
  return directory_->create(file_name(backing), size);
}

Result<std::unique_ptr<io::File>> FilePool::open(const std::string& backing, io::Directory::Mode mode) {
  return directory_->open(file_name(backing), mode);
}

Status FilePool::remove(const std::string& backing) {
  return directory_->remove(file_name(backing));
}

Result<std::vector<std::string>> FilePool::list() {
  ASSIGN_OR_RETURN(std::vector<std::string> names, directory_->list());
  std::vector<std::string> out;
  for (std::string& name : names) {
    if (!name.ends_with(kSuffix)) continue;
    name.resize(name.size() - kSuffix.size());
    out.push_back(std::move(name));
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<PoolUsage> FilePool::usage() {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list());
  PoolUsage out;
  uint64_t lacking = 0;
  for (const std::string& backing : names) {
    ASSIGN_OR_RETURN(const uint64_t size, directory_->size_of(file_name(backing)));
    out.used += size;
    const auto aside = aside_.find(backing);
    if (aside != aside_.end()) lacking += aside->second - std::min(aside->second, size);
  }
  ASSIGN_OR_RETURN(const uint64_t free, directory_->free_bytes());
  out.capacity = capacity_ == 0 ? out.used + free : std::min(capacity_, out.used + free);
  out.used += lacking;
  return out;
}

}  // namespace foreshadow::block
