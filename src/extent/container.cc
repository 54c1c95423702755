#include "extent/container.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace foreshadow::extent {
namespace {

constexpr uint16_t kContainerKind = 0x8000;

uint32_t count_at(uint16_t counts, uint32_t place) {
  return counts >> (4 * place) & 0xfu;
}

}  // namespace

uint32_t Container::members(std::array<Member, kMembers>& out) const {
  uint32_t live = 0;
  uint32_t slot = 0;
  for (uint32_t i = 0; i < kMembers; ++i) {
    const uint32_t count = count_at(counts, i);
    if (lcns[i] != kNoMember) {
      out[live++] = {lcns[i], Pack::make(slot, count, static_cast<SqueezeCodec>(codecs >> (2 * i) & 3u))};
    }
    slot += count;
  }
  return live;
}

bool Container::assign(std::array<Member, kMembers + 1>& members, uint32_t count) {
  // Only the last one may be out of order: it is the one that comes.
  for (uint32_t i = count; i > 1 && members[i - 1].pack.slot() < members[i - 2].pack.slot(); --i)
    std::swap(members[i - 1], members[i - 2]);
  Container fresh;
  fresh.index = index;
  uint32_t place = 0;
  uint32_t slot = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const Pack pack = members[i].pack;
    if (pack.slot() < slot) return false;
    if (pack.slot() > slot) {
      if (place == kMembers) return false;
      fresh.counts |= static_cast<uint16_t>((pack.slot() - slot) << (4 * place++));
    }
    if (place == kMembers) return false;
    fresh.lcns[place] = members[i].lcn;
    fresh.counts |= static_cast<uint16_t>(pack.count() << (4 * place));
    fresh.codecs |= static_cast<uint8_t>(static_cast<uint32_t>(pack.codec()) << (2 * place++));
    slot = pack.slot() + pack.count();
  }
  *this = fresh;
  return true;
}

TableEntry Container::table_entry() const {
  TableEntry out;
  out.lcn = lcns[0];
  out.mask = counts;
  out.kind = kContainerKind | codecs;
  out.more = {lcns[1], lcns[2]};
  return out;
}

bool Container::from_table_entry(const TableEntry& entry, Container& out) {
  if ((entry.kind & 0xffc0) != kContainerKind || (entry.mask & 0xf000) != 0) return false;
  out.lcns = {entry.lcn, entry.more[0], entry.more[1]};
  out.counts = entry.mask;
  out.codecs = static_cast<uint8_t>(entry.kind & 0x3f);
  uint32_t slots = 0;
  uint32_t live = 0;
  for (uint32_t i = 0; i < kMembers; ++i) {
    const uint32_t count = count_at(out.counts, i);
    const uint32_t codec = out.codecs >> (2 * i) & 3u;
    slots += count;
    if (out.lcns[i] == kNoMember) {
      if (codec != 0) return false;
      continue;
    }
    ++live;
    const bool twice = std::count(out.lcns.begin(), out.lcns.end(), out.lcns[i]) > 1;
    if (count == 0 || codec == 0 || codec == 3 || twice) return false;
  }
  return live > 0 && slots <= kSlots;
}

std::vector<Container>::iterator Containers::place_of(std::vector<Container>& page, Pcn pcn) {
  return std::lower_bound(page.begin(), page.end(), pcn.v % kPage,
                          [](const Container& c, uint32_t index) { return c.index < index; });
}

const Container* Containers::find(Pcn pcn) const {
  const uint32_t number = pcn.v / kPage;
  if (number >= pages_.size()) return nullptr;
  const auto& page = pages_[number];
  const auto at = std::lower_bound(page.begin(), page.end(), pcn.v % kPage,
                                   [](const Container& c, uint32_t index) { return c.index < index; });
  return at == page.end() || at->index != pcn.v % kPage ? nullptr : &*at;
}

bool Containers::add(Pcn pcn, Lcn lcn, Pack pack) {
  ASSERT(pack.is_valid());
  Container fresh;
  fresh.index = static_cast<uint8_t>(pcn.v % kPage);
  const Container* present = find(pcn);
  if (present != nullptr) fresh = *present;
  std::array<Container::Member, kMembers> live;
  const uint32_t count = fresh.members(live);
  std::array<Container::Member, kMembers + 1> wanted;
  for (uint32_t i = 0; i < count; ++i) {
    if (live[i].lcn == lcn) return false;
    wanted[i] = live[i];
  }
  wanted[count] = {lcn, pack};
  if (!fresh.assign(wanted, count + 1)) return false;
  if (pages_.size() <= pcn.v / kPage) pages_.resize(pcn.v / kPage + 1);
  auto& page = pages_[pcn.v / kPage];
  if (present == nullptr) {
    // In small steps: half of it would be idle if it doubled.
    if (page.size() == page.capacity()) page.reserve(std::min<size_t>(kPage, page.size() + 16));
    page.insert(place_of(page, pcn), fresh);
    ++count_;
  } else {
    *place_of(page, pcn) = fresh;
  }
  ++members_;
  ++by_slots_[pack.count()];
  return true;
}

void Containers::remove(Pcn pcn, Lcn lcn) {
  ASSERT(find(pcn) != nullptr);
  auto& page = pages_[pcn.v / kPage];
  const auto at = place_of(page, pcn);
  std::array<Container::Member, kMembers> live;
  const uint32_t count = at->members(live);
  std::array<Container::Member, kMembers + 1> left;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (live[i].lcn != lcn) {
      left[kept++] = live[i];
    } else {
      --by_slots_[live[i].pack.count()];
    }
  }
  ASSERT(kept + 1 == count);
  --members_;
  if (kept == 0) {
    page.erase(at);
    --count_;
    return;
  }
  const bool fits = at->assign(left, kept);
  ASSERT(fits);
}

TableEntry Containers::table_entry(Pcn pcn) const {
  const Container* found = find(pcn);
  return found == nullptr ? TableEntry{} : found->table_entry();
}

Pcn Containers::next(Pcn from, Pcn end) const {
  for (uint32_t number = from.v / kPage; number < pages_.size() && number * kPage < end.v; ++number) {
    const auto& page = pages_[number];
    const uint32_t first = number == from.v / kPage ? from.v % kPage : 0;
    const auto at = std::lower_bound(page.begin(), page.end(), first,
                                     [](const Container& c, uint32_t index) { return c.index < index; });
    if (at == page.end()) continue;
    const Pcn pcn(number * kPage + at->index);
    return pcn < end ? pcn : Pcn(0);
  }
  return Pcn(0);
}

uint64_t Containers::memory_bytes() const {
  uint64_t out = pages_.capacity() * sizeof(pages_[0]);
  for (const auto& page : pages_) out += page.capacity() * sizeof(Container);
  return out;
}

}  // namespace foreshadow::extent
