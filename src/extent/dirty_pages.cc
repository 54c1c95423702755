#include "extent/dirty_pages.h"

#include <bitset>

namespace foreshadow::extent {

uint32_t& DirtyPages::head(uint32_t segment_index, uint32_t page) {
  if (heads_.size() <= segment_index) heads_.resize(segment_index + 1);
  auto& of_segment = heads_[segment_index];
  if (of_segment.size() <= page) of_segment.resize(page + 1, kClean);
  return of_segment[page];
}

void DirtyPages::touch(uint32_t segment_index, uint32_t page) {
  uint32_t& first = head(segment_index, page);
  if (first != kClean) return;
  first = 0;
  pages_.push_back({segment_index, page});
}

void DirtyPages::add(uint32_t segment_index, uint32_t cluster, const TableEntry& entry) {
  const uint32_t page = cluster / kTableEntries;
  touch(segment_index, page);
  uint32_t& first = head(segment_index, page);
  Node node{first, entry.lcn, entry.mask, static_cast<uint8_t>(cluster % kTableEntries),
            entry.is_container()};
  if (node.container) {
    node.lcn = Lcn(static_cast<uint32_t>(containers_.size()));
    containers_.push_back(entry);
  }
  nodes_.push_back(node);
  first = static_cast<uint32_t>(nodes_.size());
}

void DirtyPages::apply(const Page& page, std::array<TableEntry, kTableEntries>& entries) const {
  std::bitset<kTableEntries> done;  // the list is newest first: only the first change of an entry counts
  for (uint32_t at = heads_[page.segment_index][page.page]; at != 0; at = nodes_[at - 1].next) {
    const Node& node = nodes_[at - 1];
    if (done[node.index]) continue;
    done[node.index] = true;
    if (node.container) {
      entries[node.index] = containers_[node.lcn.v];
    } else {
      entries[node.index] = TableEntry{node.mask == 0 ? Lcn(0) : node.lcn, node.mask, 0, {}};
    }
  }
}

}  // namespace foreshadow::extent
