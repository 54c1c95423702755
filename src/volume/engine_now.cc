// The short way: reads and overwrites of a few blocks that lie plainly in one place, on a file that does them
// inside the call. No task, no lock, no plan, no completion: nothing can come between, for one thread does
// all of it.
//
// It does nothing that the long way would not do, and leaves to the long way whatever needs more than a copy.
// What is added to the engine is safe as long as find_plain() refuses the clusters it concerns.
#include "volume/engine.h"

namespace foreshadow::volume {
namespace {

// All of them lie in the first place, as they were written. (Squeezed bytes are decoded first.)
bool is_plain(const extent::Mapping& mapping, uint16_t bits) {
  return mapping.pack_a.is_raw() && (mapping.mask_a & bits) == bits;
}

}  // namespace

// Where [offset, offset + length) lies, if it is whole sub-blocks of one cluster, all mapped in one place,
// and nobody has or awaits any of them for itself: not a read-modify-write, nor what may take the cluster
// away. `alone`: nobody has or awaits them at all.
PlainPlace Engine::find_plain(uint64_t offset, uint64_t length, bool alone) {
  const uint64_t cluster = geometry_.cluster();
  const uint64_t within = offset & (cluster - 1);
  if (closing_ || length == 0 || length > cluster - within) return {};
  if (offset > size_ || length > size_ - offset) return {};
  if (((offset | length) & (geometry_.sub_block() - 1)) != 0) return {};
  const Lcn lcn(static_cast<uint32_t>(offset >> geometry_.cluster_bits()));
  const extent::Mapping mapping = map_.get(lcn);
  const auto first = static_cast<uint32_t>(within >> geometry_.sub_block_bits);
  const auto last = static_cast<uint32_t>((within + length) >> geometry_.sub_block_bits);
  const auto bits = static_cast<uint16_t>((1u << last) - (1u << first));
  if (!is_plain(mapping, bits)) return {};
  if (alone ? locks_.has_any(lcn, bits) : locks_.has_exclusive(lcn, bits)) return {};
  Segment& segment = segments_.of(mapping.a);
  const uint64_t at = segment.data_offset(mapping.a, geometry_) + within;
  if (at + length > segment.data_end) return {};  // an image ends within: the rest has to be made up
  return {&segment, at, lcn, bits};
}

bool Engine::read_now(uint64_t offset, std::span<std::byte> data) {
  const PlainPlace plain = find_plain(offset, data.size(), false);
  if (plain.segment == nullptr || !plain.segment->file->read_now(plain.at, data)) return false;
  // What does not fit is read again, and told, by the long way.
  if (checksums_.on() && checksums_.verify(*plain.segment, plain.at, data)) return false;
  count(block::OpKind::kRead, offset, data.size(), 0);
  return true;
}

// Never a first touch, so there is nothing to record; durable with the sync of the next commit, as any
// overwrite. A volume that may move what is overwritten, or is moving something, plans each write.
bool Engine::write_now(uint64_t offset, std::span<const std::byte> data) {
  if (redirect_ != Redirect::kAllocating || !moves_.empty() || committer_.poisoned()) return false;
  // With checksums a write is alone on its sub-blocks, and its region is noted before.
  const bool sums = checksums_.on();
  const PlainPlace plain = find_plain(offset, data.size(), sums);
  if (plain.segment == nullptr) return false;
  if (sums && !checksums_.may_write(*plain.segment, plain.at, data.size())) return false;
  if (!plain.segment->file->write_now(plain.at, data)) {
    if (sums) checksums_.writing(*plain.segment, plain.at, data.size());  // a part of it may be there
    return false;
  }
  if (sums) checksums_.written(*plain.segment, plain.at, data);
  plain.segment->unsynced = true;
  count(block::OpKind::kWrite, offset, data.size(), 0);
  return true;
}

}  // namespace foreshadow::volume
