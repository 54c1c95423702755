#pragma once
// What the next checkpoint must write: the newest state of each physical cluster that changed, gathered by
// table page.
#include <cstdint>
#include <vector>

#include "base/types.h"
#include "extent/table_page.h"

namespace foreshadow::extent {

// Memory: 12 bytes a change, 28 for one of a container. One journal record can make many (a trim), so the
// owner asks for a checkpoint by changes() as well.
class DirtyPages {
 public:
  // Records a change; a later one of the same entry wins.
  void add(uint32_t segment_index, uint32_t cluster, const TableEntry& entry);
  // Marks a page to be written even if nothing in it changed.
  void touch(uint32_t segment_index, uint32_t page);

  struct Page {
    uint32_t segment_index = 0;
    uint32_t page = 0;
  };
  const std::vector<Page>& pages() const { return pages_; }
  bool empty() const { return pages_.empty(); }
  size_t changes() const { return nodes_.size(); }
  // Brings `entries` up to date.
  void apply(const Page& page, std::array<TableEntry, kTableEntries>& entries) const;

 private:
  struct Node {
    uint32_t next = 0;  // index + 1 of the change before this one in the same page; 0 ends
    Lcn lcn;            // or of which container's entry this is, in containers_
    uint16_t mask = 0;
    uint8_t index = 0;
    bool container = false;
  };
  static constexpr uint32_t kClean = UINT32_MAX;  // head of a page that is not in pages_

  uint32_t& head(uint32_t segment_index, uint32_t page);

  std::vector<Node> nodes_;
  std::vector<TableEntry> containers_;
  std::vector<std::vector<uint32_t>> heads_;  // [segment][page]
  std::vector<Page> pages_;
};

}  // namespace foreshadow::extent
