#pragma once
// From the segment tables to the map, and from the map to the allocators.
#include "base/types.h"
#include "extent/recovery.h"
#include "extent/table_page.h"

namespace foreshadow::extent {

// Puts what one entry says of a physical cluster into the map. False if the volume cannot hold it.
bool add_entry(Recovered& volume, Pcn pcn, const TableEntry& entry);

// Takes every physical cluster that the map names. kCorrupt: one lies in no segment, or is raw and has more
// than one logical cluster.
Status rebuild_allocators(Recovered& volume);

}  // namespace foreshadow::extent
